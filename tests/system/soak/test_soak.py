"""The soak test in short, kills included; ``tox -e soak`` runs it for long."""

from pathlib import Path

import pytest

from tests.system.soak import report
from tests.system.soak.run import VICTIMS, Options, soak

pytestmark = pytest.mark.sample(1)


@pytest.mark.parametrize("kills", [VICTIMS, ()], ids=["everybody killed", "nobody killed"])
def test_calls_end_plausibly_and_none_is_left(transport: str, kills: tuple[str, ...], tmp_path: Path) -> None:
    options = Options(
        duration_s=5 if kills else 2.5, transport=transport, kills=kills, clients=2, tasks=4,
        kill_every_s=0.25, timeout_s=60,
    )  # fmt: skip
    record = soak(options)
    assert record.wrong == []
    assert record.outcomes["Ok"] > 1000
    assert bool(record.kills) == bool(kills)
    assert [path.suffix for path in report.write(record, tmp_path)][:2] == [".json", ".md"]
