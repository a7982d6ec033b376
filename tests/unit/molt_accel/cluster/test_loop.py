"""molt_accel.cluster.loop: uvloop's if it is there, and asyncio's otherwise."""

import asyncio
import sys

import pytest

from molt_accel.cluster.loop import new_event_loop


@pytest.mark.parametrize("there", [True, False])
def test_a_loop_that_runs(there: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if there:
        pytest.importorskip("uvloop")
    else:
        monkeypatch.setitem(sys.modules, "uvloop", None)
    loop = new_event_loop()
    try:
        assert loop.run_until_complete(asyncio.sleep(0, "ran")) == "ran"
        assert type(loop).__module__.startswith("uvloop" if there else "asyncio")
    finally:
        loop.close()
