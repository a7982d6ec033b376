"""The wall clock is stepped by hours, forth and back, while calls and deadlines are under way.

There is no namespace for it. So all processes get a library that steps it for them, which finds whoever computes with
it; and where MOLT_TEST_STEP_CLOCK=1 says that the machine may be upset, the real one is stepped too.
"""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from molt_accel import Client, MoltTimeout
from tests.support import EXPORTS
from tests.support.processes import in_thread
from tests.system.environments.places import run

pytestmark = [
    pytest.mark.sample(1),
    pytest.mark.skipif(sys.platform != "linux", reason="the library is for Linux"),
]

_SOURCE = Path(__file__).with_name("stepped_clock.c")
_HOURS = 6


def test_deadlines_hold_and_nobody_waits_longer_when_the_clock_steps(transport: str, tmp_path: Path) -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    library, clock = tmp_path / "stepped_clock.so", tmp_path / "clock"
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", library, _SOURCE], check=True)
    clock.write_bytes(bytes(8))
    found = run("stepped", transport, str(clock), LD_PRELOAD=str(library), STEPPED_CLOCK=str(clock))
    assert found["jumped_h"] == _HOURS  # it does what it is for
    assert (found["late"], found["deaths"]) == (8, 0)
    assert found["spent_s"] < 60


@pytest.mark.skipif(
    os.environ.get("MOLT_TEST_STEP_CLOCK") != "1",
    reason="it upsets everything else on the machine; MOLT_TEST_STEP_CLOCK=1 allows it",
)
def test_deadlines_hold_when_the_machine_s_clock_is_stepped(transport: str) -> None:
    lead_s = time.time() - time.monotonic()
    with Client(transport=transport, exports=EXPORTS, executors=1, log_level="error") as client:
        client.start()
        outcomes: list[object] = []

        def late() -> None:
            try:
                outcomes.append(client.call("sleep", 50, timeout_ms=300))
            except MoltTimeout as exc:
                outcomes.append(exc.phase)

        try:
            for hours in (_HOURS, -_HOURS):
                caller = in_thread(late)
                time.clock_settime(time.CLOCK_REALTIME, time.monotonic() + lead_s + hours * 3600)
                assert client.call("echo", hours, timeout_ms=60_000) == hours
                caller.join(60)
        finally:
            time.clock_settime(time.CLOCK_REALTIME, time.monotonic() + lead_s)
    assert outcomes == ["running", "running"]
