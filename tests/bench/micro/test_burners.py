"""The cores that are kept busy."""

import os
from pathlib import Path

import psutil
import pytest

from bench.core.cpu import cpu_ns, spent_ns
from bench.micro.burners import Burners, by_session, cores_to_burn
from tests.support.processes import wait_until


def test_conditions_say_which_cores_burn() -> None:
    usable = sorted(os.sched_getaffinity(0))
    assert cores_to_burn("idle") == cores_to_burn("spaced") == ()
    assert cores_to_burn("one") == (usable[-1],)
    assert cores_to_burn("all") == tuple(usable)


def test_a_burner_keeps_its_core_busy_and_goes() -> None:
    (core,) = cores_to_burn("one")
    with Burners([core]) as burners:
        (pid,) = burners.pids
        assert psutil.Process(pid).cpu_affinity() == [core]
        before = cpu_ns([pid])
        wait_until(lambda: spent_ns(before, cpu_ns([pid])) >= 20_000_000)
    assert not psutil.pid_exists(pid)
    assert burners.pids == []


@pytest.mark.parametrize(("text", "said"), [("1\n", True), ("0\n", False), (None, False)])
def test_whether_sessions_share_is_read(
    text: str | None, said: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "sched_autogroup_enabled"
    if text is not None:
        file.write_text(text)
    monkeypatch.setattr("bench.micro.burners.AUTOGROUP", file)
    assert by_session() is said
