"""A client that harms, beside clients that don't: what becomes of the pool, and of the others' calls."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

if sys.platform != "linux":
    pytest.skip("there are no shared pools", allow_module_level=True)

from molt_accel import Client, MoltBusy, MoltError
from tests.support import ROOT
from tests.support.peer import PATIENCE_S, MakePeer, loading
from tests.support.pools import Look, Share, idle, path_of
from tests.support.processes import wait_until
from tests.system.hostile.offender import ON_MEMORY, ON_SOCKET

#: What a call that was hit by a scribbler may end with: always something, and never another's answer.
OUTCOMES = {"Ok", "MoltBusy", "MoltTimeout", "MoltCancelled", "MoltInvalidInput", "MoltInternalError"} | {
    *("MoltWorkerCrashed", "MoltWorkerUnavailable", "MoltStartFailed", "MoltProtocolError")
}


def attack(name: str, seconds: float, seed: int) -> int:
    """Let the offender do it; how often it did."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.system.hostile.offender", path_of(), name, str(seconds), str(seed)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def is_served(client: Client, text: str) -> bool:
    """Whether a call gets its answer; False if the worker is busy, as it may be until its audit has put all right."""
    try:
        return client.call("echo", text, timeout_ms=PATIENCE_S * 1000) == text
    except MoltBusy:
        return False


async def kinds_awaited(client: Client, over: threading.Event) -> set[str]:
    """What becomes of an event loop's calls until it is over."""
    kinds = set()

    async def work() -> None:
        while not over.is_set():
            try:
                kinds.add("Ok" if await client.acall("echo", 1, timeout_ms=1000) == 1 else "WRONG")
            except MoltError as exc:
                kinds.add(type(exc).__name__)

    await asyncio.gather(*(work() for _ in range(3)))
    return kinds


@pytest.fixture
def outcomes_under(
    share: Share, make_peer: MakePeer, window: Look, tmp_path: Path
) -> Callable[[str], set[str]]:
    """Attacks while others call: the pool must be whole again afterwards. Returns the outcomes of the others' calls."""

    def check(name: str) -> set[str]:
        client = share()
        supervisor = psutil.Process(idle(client)["pid"])
        view = window()
        peer = make_peer()
        looping, over = share(), threading.Event()
        with ThreadPoolExecutor(1) as threads:
            awaited = threads.submit(lambda: asyncio.run(kinds_awaited(looping, over)))
            with loading([peer], tmp_path, threads=2, options={"timeout_ms": 1000}) as outcomes:
                assert attack(name, 0.6, 1) > 0
            over.set()
        kinds = {outcome.split(":")[0] for each in outcomes for outcome in each} | awaited.result()
        looping.close()
        wait_until(lambda: is_served(client, "afterwards"), PATIENCE_S)
        assert idle(client)["pid"] == supervisor.pid
        late = share()
        wait_until(lambda: is_served(late, "new"), PATIENCE_S)
        # What is on a channel that its client doesn't use just now is found when it does, or leaves.
        client.close()
        peer.close()
        before = sum(supervisor.cpu_times()[:2])
        view.wait()
        assert sum(supervisor.cpu_times()[:2]) - before < 2  # it doesn't spin
        return kinds

    return check


@pytest.mark.sample(1)
@pytest.mark.parametrize("name", ON_MEMORY)
def test_who_scribbles_over_the_arena_harms_calls_and_not_the_pool(
    name: str, outcomes_under: Callable[[str], set[str]]
) -> None:
    assert outcomes_under(name) <= OUTCOMES


@pytest.mark.sample(1)
@pytest.mark.parametrize("name", ON_SOCKET)
def test_who_says_what_can_not_be_harms_nobody(name: str, outcomes_under: Callable[[str], set[str]]) -> None:
    assert outcomes_under(name) == {"Ok"}
