"""Event loops that wait for calls of a shared pool: woken by executors, or by a thread where they have no bell."""

import asyncio
import contextlib
import gc
import os
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
import uvloop

from molt_accel import Client, MoltCancelled, MoltError, MoltTimeout, MoltWorkerCrashed
from molt_accel.transports.shm import loops as loops_module
from molt_accel.transports.shm.connection import Connection
from molt_accel.transports.shm.loops import LoopCalls, Loops
from tests.support.peer import PATIENCE_S
from tests.support.pools import Share, health, idle, with_worker
from tests.support.processes import exit_code, fork, wait_until

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="there are no shared pools"),
    # Python 3.12 warns of forks of processes with threads: what is tested here.
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]

Way = Callable[[Client], Any]


def connection_of(client: Client) -> Connection:
    connection = client._transport._connection  # type: ignore[attr-defined]
    assert isinstance(connection, Connection)
    return connection


def has_thread() -> bool:
    return any(thread.name == "molt-completion" for thread in threading.enumerate())


async def with_bell(client: Client) -> LoopCalls:
    """Call until this loop has a bell."""
    while True:
        assert await client.acall("echo", "has it one?") == "has it one?"
        calls = connection_of(client).loops._of.get(id(asyncio.get_running_loop()))
        if calls is not None:
            return calls


@pytest.fixture
def bells_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """What isn't rung for is not noticed."""
    monkeypatch.setattr(loops_module, "_LOOK_NS", 3600 * 10**9)


@pytest.fixture(params=["by bell", "by thread"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Way:
    """Has a loop wait in one of the two ways."""
    if request.param == "by bell":
        monkeypatch.setattr(loops_module, "_LOOK_NS", 3600 * 10**9)
        return with_bell
    monkeypatch.setattr(Loops, "of", lambda self, loop: None)

    async def without(client: Client) -> None:
        assert await client.acall("echo", 1) == 1

    return without


@pytest.fixture(params=[asyncio, uvloop])
def run(request: pytest.FixtureRequest) -> Callable[[Any], Any]:
    """Runs a coroutine in a loop of one kind or the other."""

    def run(work: Any) -> Any:
        with asyncio.Runner(loop_factory=request.param.new_event_loop) as runner:
            return runner.run(asyncio.wait_for(work, PATIENCE_S))

    return run


# -- both ways ----------------------------------------------------------------------------------------------
def test_each_task_has_its_own_answer_whatever_its_size(
    share: Share, way: Way, run: Callable[[Any], Any]
) -> None:
    client = share(executors=2, max_queue=1000)
    sizes = [0, 100, 9_000, 40_000, 70_000, 300_000]

    async def call(number: int) -> bool:
        sent = bytes([number % 251]) * sizes[number % len(sizes)]
        got = await client.acall("echo_raw", sent, codec="raw")
        return bool(bytes(got) == sent)

    async def work() -> None:
        await way(client)
        assert all(await asyncio.gather(*(call(number) for number in range(240))))

    run(work())
    assert connection_of(client).channels.in_calls == 0


def test_an_executor_that_dies_ends_its_call_only(share: Share, way: Way, run: Callable[[Any], Any]) -> None:
    client = share(executors=2, max_queue=100)

    async def work() -> None:
        await way(client)
        calls = [client.acall("echo", number) for number in range(30)]
        crash, *echoed = await asyncio.gather(
            client.acall("crash", {"signal": int(signal.SIGKILL)}), *calls, return_exceptions=True
        )
        assert isinstance(crash, MoltWorkerCrashed)
        assert echoed == list(range(30))
        assert await client.acall("echo", "the successor rings too") == "the successor rings too"

    run(work())


def test_deadlines_and_cancelled_tasks_end_calls(share: Share, way: Way, run: Callable[[Any], Any]) -> None:
    client = share(executors=1, max_queue=100, grace_ms=20_000)

    async def work() -> None:
        await way(client)
        with pytest.raises(MoltTimeout):
            await client.acall("sleep", PATIENCE_S, timeout_ms=30)
        task = asyncio.create_task(client.acall("sleep", PATIENCE_S))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await client.acall("echo", 1) == 1

    run(work())
    assert connection_of(client).channels.in_calls == 0


def test_a_client_that_is_closed_ends_its_calls(share: Share, way: Way, run: Callable[[Any], Any]) -> None:
    client = share(executors=1, grace_ms=20_000)

    async def work() -> None:
        await way(client)
        tasks = [asyncio.create_task(client.acall("sleep", PATIENCE_S)) for _ in range(5)]
        await asyncio.sleep(0)
        client.close()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(each) for each in ended} == {MoltCancelled}

    run(work())


def test_a_worker_that_is_killed_ends_all_calls_and_the_next_one_finds_another(
    share: Share, way: Way, run: Callable[[Any], Any]
) -> None:
    client = share(executors=3)

    def all_run() -> bool:
        return bool(health(client)["executors"]["busy"] == 3)

    async def work() -> None:
        await way(client)
        supervisor = (await asyncio.to_thread(idle, client))["pid"]
        tasks = [asyncio.create_task(client.acall("sleep", PATIENCE_S)) for _ in range(3)]
        await asyncio.to_thread(wait_until, all_run, PATIENCE_S)
        os.kill(supervisor, signal.SIGKILL)
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(each, MoltError) for each in ended)
        await way(client)

    run(work())


def test_loops_one_after_the_other_and_at_the_same_time(
    share: Share, way: Way, run: Callable[[Any], Any]
) -> None:
    """More of them than a client has bells."""
    client = share(executors=2, max_queue=200)
    with_worker(client)
    loops = loops_module._MOST_BELLS + 3
    together = threading.Barrier(loops, timeout=PATIENCE_S)

    def loop(number: int) -> bool:
        async def work() -> bool:
            first = await client.acall("echo", number)
            await asyncio.to_thread(together.wait)
            later = await asyncio.gather(*(client.acall("echo", [number, each]) for each in range(20)))
            return bool(first == number and later == [[number, each] for each in range(20)])

        return bool(run(work()))

    with ThreadPoolExecutor(loops) as threads:
        for _ in range(3):
            assert all(threads.map(loop, range(loops)))
    run(way(client))


# -- by bell ------------------------------------------------------------------------------------------------
@pytest.mark.usefixtures("bells_only")
def test_no_thread_waits_where_a_bell_is_rung(share: Share, run: Callable[[Any], Any]) -> None:
    client = share(executors=2, max_queue=200)
    run(with_bell(client))
    connection_of(client).completion_thread.stop()  # of the first call, which came before the bell
    wait_until(lambda: not has_thread())

    async def work() -> None:
        await with_bell(client)
        assert await asyncio.gather(*(client.acall("echo", each) for each in range(100))) == list(range(100))

    run(work())
    assert not has_thread()


@pytest.mark.usefixtures("bells_only")
def test_executors_of_a_reload_and_successors_have_the_bells_too(
    share: Share, run: Callable[[Any], Any]
) -> None:
    client = share(executors=2, max_requests=3)

    async def work() -> None:
        await with_bell(client)
        before = await asyncio.to_thread(idle, client)
        for number in range(20):  # each executor serves three of them
            assert await client.acall("echo", number) == number
        os.kill(before["pid"], signal.SIGHUP)
        await asyncio.to_thread(wait_until, lambda: health(client)["reloads"] == 1, PATIENCE_S)
        for number in range(20):
            assert await client.acall("echo", number) == number

    run(work())


@pytest.mark.usefixtures("bells_only")
def test_a_forked_child_calls_by_a_bell_of_its_own(share: Share, run: Callable[[Any], Any]) -> None:
    client = share(executors=2)

    def child() -> None:
        async def work() -> None:
            await with_bell(client)

        asyncio.run(asyncio.wait_for(work(), PATIENCE_S))
        client.close()

    async def work() -> None:
        await with_bell(client)
        calls = [asyncio.create_task(client.acall("sleep", 0.05)) for _ in range(4)]
        await asyncio.sleep(0)
        pid = fork(child)
        await asyncio.gather(*calls)
        assert await asyncio.to_thread(exit_code, pid) == 0
        await with_bell(client)

    run(work())


def descriptors(pid: int) -> list[str]:
    return sorted(os.listdir(f"/proc/{pid}/fd"), key=int)


def kinds() -> set[str]:
    """What this process's pipes, sockets and arenas are."""
    found = set()
    for fd in descriptors(os.getpid()):
        with contextlib.suppress(FileNotFoundError):
            found.add(os.readlink(f"/proc/self/fd/{fd}"))
    return found


def test_clients_that_come_and_go_leave_nothing_behind(share: Share, run: Callable[[Any], Any]) -> None:
    """More of them than there are bells, some of which never say that they leave."""
    client = share(executors=1)
    report = idle(client)
    (executor,) = report["executors"]["pids"]
    pids = [report["pid"], psutil.Process(executor).ppid(), executor]
    before = {pid: descriptors(pid) for pid in pids}
    mine = kinds()

    def vanish() -> None:
        asyncio.run(with_bell(client))
        os._exit(0)

    for number in range(70):
        if number % 10 == 9:
            assert exit_code(fork(vanish)) == 0
        else:
            with Client(client.config) as other:
                run(with_bell(other))
    wait_until(lambda: health(client)["clients"] == 1, PATIENCE_S)
    gc.collect()
    assert kinds() - mine == set()
    wait_until(lambda: {pid: descriptors(pid) for pid in pids} == before, PATIENCE_S)
    run(with_bell(client))


@pytest.mark.parametrize("executors", [1, 3])
def test_an_executor_whose_code_closes_the_bells_writes_to_no_file_and_calls_go_on(
    share: Share, pool_log: Path, tmp_path: Path, run: Callable[[Any], Any], executors: int
) -> None:
    """All executors, or one of several."""
    client = share(executors=executors, max_queue=100)
    file = tmp_path / "file"

    async def work() -> None:
        calls = await with_bell(client)
        assert await client.acall("take_descriptors", str(file)) > 1
        silence = connection_of(client).loops._silence
        number = 0
        while not silence.is_on():
            number += 1
            together = [client.acall("sleep", 0.001), client.acall("echo", number)]
            assert await asyncio.gather(*together) == ["slept", number]
        assert await asyncio.gather(*(client.acall("echo", each) for each in range(50))) == list(range(50))
        assert calls.count == 0

    run(work())
    run(work_of_another_loop(client))
    assert file.read_bytes() == b""
    wait_until(lambda: pool_log.read_text().count("bells_lost") == 1, PATIENCE_S)


CLOSES = """
import os
from molt_worker import export
os.closerange(10, 300)
with open("FILE", "wb") as file:
    kept = [os.dup(file.fileno()) for _ in range(290)]

@export
def plus_one(number):
    return number + 1
"""


def test_a_module_that_closes_the_bells_at_import_is_served_by_a_thread(
    share: Share, pool_log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    (tmp_path / "closes_descriptors.py").write_text(CLOSES.replace("FILE", str(file)))
    monkeypatch.setenv("MOLT_IMPORT_PATH", str(tmp_path))
    client = share(executors=2, exports="closes_descriptors")

    async def work() -> None:
        silent = False
        while not silent:
            assert await client.acall("plus_one", 1) == 2
            silent = connection_of(client).loops._silence.is_on()
        assert await asyncio.gather(*(client.acall("plus_one", each) for each in range(9))) == list(
            range(1, 10)
        )

    asyncio.run(asyncio.wait_for(work(), PATIENCE_S))
    assert file.read_bytes() == b""
    wait_until(lambda: "bells_lost" in pool_log.read_text(), PATIENCE_S)


async def work_of_another_loop(client: Client) -> None:
    assert await client.acall("echo", "no bell is asked for") == "no bell is asked for"
    assert id(asyncio.get_running_loop()) not in connection_of(client).loops._of


def test_a_client_that_closes_or_reads_its_bell_harms_nobody(share: Share, run: Callable[[Any], Any]) -> None:
    bad, good = share(executors=1, max_queue=100), share(executors=1, max_queue=100)

    async def work() -> None:
        calls = await with_bell(bad)
        await with_bell(good)
        executor = idle(good)["executors"]["pids"]
        loop = asyncio.get_running_loop()
        loop.remove_reader(calls.bell.fd)
        calls.bell.close()
        for number in range(10):
            # Its own answers come when it looks by itself.
            assert await asyncio.gather(bad.acall("echo", number), good.acall("echo", number)) == [number] * 2
        assert (await asyncio.to_thread(idle, good))["executors"]["pids"] == executor

    run(work())
