"""molt_worker.cli.bridge: usage, and what is missing."""

import pytest

from molt_worker.cli import bridge


@pytest.mark.parametrize(
    ("arguments", "missing"),
    [
        ([], "--name"),
        (["--name", "pool"], "--nats"),
        (["--name", "pool", "--nats", "nats://x", "--subject", "a b"], "nats_subject"),
    ],
)
def test_what_is_missing_or_wrong_is_named(
    arguments: list[str], missing: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bridge.main(arguments) == 2
    assert missing in capsys.readouterr().err


def test_help_says_what_it_is_for(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        bridge.main(["--help"])
    assert "NATS" in capsys.readouterr().out
