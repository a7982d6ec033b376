"""``molt-worker status``: what a wrong use and a missing pool get."""

import os
from pathlib import Path

import pytest

from molt_accel.errors import NoSharedMemory
from molt_worker.cli import main as cli
from molt_worker.cli import status
from tests.support.errors import raised
from tests.unit.molt_worker.cli.test_observer import listen


@pytest.fixture
def directory() -> Path:
    return Path(os.environ["MOLT_RUNTIME_DIR"])


def test_without_the_pool_the_others_are_named(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with listen(directory, "one"), listen(directory, "two"):
        assert cli.main(["status", "--name", "three"]) == 1
    assert capsys.readouterr() == (
        "",
        f"molt-worker: nobody serves the pool 'three' in {directory}; served there are: one, two; "
        "choose one with --name\n",
    )


def test_without_any_pool_it_is_said_how_there_comes_to_be_one(
    directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MOLT_WORKER_NAME", "mine")
    assert cli.main(["status"]) == 1
    assert capsys.readouterr() == (
        "",
        f"molt-worker: nobody serves the pool 'mine' in {directory}; no pool is served there; one is by a "
        "client's first call, or by molt-worker --shm NAME\n",
    )


@pytest.mark.parametrize(
    ("arguments", "last_line"),
    [
        (("--json", "--watch"), "argument --watch: not allowed with argument --json"),
        (("--interval", "1"), "--interval is for --watch"),
        (
            ("--watch", "--interval", "0"),
            "argument --interval: '0' is not allowed; it must be a number from 0.1 to 3600",
        ),
        (
            ("--watch", "--interval", "soon"),
            "argument --interval: 'soon' is not allowed; it must be a number from 0.1 to 3600",
        ),
        (
            ("--watch", "--interval", "nan"),
            "argument --interval: 'nan' is not allowed; it must be a number from 0.1 to 3600",
        ),
        (("extra",), "unrecognized arguments: extra"),
    ],
)
def test_wrong_usage_says_what_is_wrong_and_exits_with_2(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], last_line: str
) -> None:
    assert raised(SystemExit, cli.main, ("status", *arguments)).code == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"molt-worker status: error: {last_line}"


def test_a_name_that_is_none_is_an_error_of_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["status", "--name", "../x"]) == 2
    assert capsys.readouterr().err.startswith("molt-worker: worker_name: '../x' is not allowed; it must be ")


def test_where_there_is_no_shared_memory_it_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def native() -> None:
        raise NoSharedMemory("shared memory is served on Linux only")

    monkeypatch.setattr(status, "native", native)
    assert cli.main(["status"]) == 1
    assert capsys.readouterr().err == "molt-worker: shared memory is served on Linux only\n"
