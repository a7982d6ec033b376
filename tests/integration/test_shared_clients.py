"""How clients of a shared pool end, are interrupted, fork and crowd: nobody else notices, and channels come back."""

import asyncio
import gc
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from molt_accel import Client, MoltBusy, MoltCancelled, MoltClientClosed, MoltError, MoltTimeout
from molt_accel.ipc.shm.layout import ChannelState
from tests.support.errors import raised
from tests.support.peer import PATIENCE_S, SHARED, Gone, MakePeer, loading
from tests.support.pools import Gate, Look, Share, Window, health, idle, with_worker
from tests.support.processes import exit_code, fork, in_thread, wait_for_file, wait_until

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="there are no shared pools"),
    # Python 3.12 warns of forks of processes with threads: what is tested here.
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]


def threads_named(name: str) -> int:
    """How many threads of this name there are."""
    return sum(thread.name == name for thread in threading.enumerate())


# -- killed -------------------------------------------------------------------------------------------------
def test_a_killed_client_s_requests_end_wherever_they_are_and_its_channels_come_back(
    share: Share, make_peer: MakePeer, window: Look, tmp_path: Path
) -> None:
    client, doomed = share(executors=2, grace_ms=20_000), make_peer(executors=2, grace_ms=20_000)
    executors = set(idle(client)["executors"]["pids"])
    view = window()
    done, effects = tmp_path / "done", tmp_path / "effects"
    # One that has ended, but whose outcome was not taken: it ends while its client is stopped.
    doomed.begin("wait_for_file", str(done))
    wait_for_file(f"{done}.running")
    doomed.stop()
    done.touch()
    view.wait(ChannelState.DONE)
    doomed.resume()
    view.wait()
    doomed.begin("wait_for_file", str(tmp_path / "never"))
    wait_for_file(tmp_path / "never.running")
    running = tmp_path / "running"
    doomed.begin("clean_up", str(running))
    wait_for_file(running)
    lost = [doomed.begin("append", {"path": str(effects), "text": "ran"}) for _ in range(3)]
    view.wait(ChannelState.CLAIMED, ChannelState.CLAIMED, *[ChannelState.READY] * 3)
    doomed.kill()
    for call in lost:
        with pytest.raises(Gone):
            call.result(PATIENCE_S)
    wait_until(lambda: not running.exists())  # it was interrupted softly
    view.wait()
    report = idle(client)
    assert set(report["executors"]["pids"]) == executors
    assert (report["clients"], report["executor_deaths"]) == (1, 0)
    assert not effects.exists()
    assert client.call("echo", 1) == 1


def test_an_outcome_that_a_killed_client_never_took_is_thrown_away(
    share: Share, make_peer: MakePeer, window: Look, tmp_path: Path
) -> None:
    client, doomed = share(), make_peer()
    idle(client)
    view = window()
    gate = tmp_path / "gate"
    doomed.begin("wait_for_file", str(gate))
    wait_for_file(f"{gate}.running")
    doomed.stop()
    gate.touch()
    view.wait(ChannelState.DONE)
    doomed.kill()
    view.wait()
    assert health(client)["outcomes"] == {"Ok": 1}


def test_a_client_that_is_stopped_while_its_request_runs_holds_nobody_else(
    share: Share, make_peer: MakePeer, window: Look, tmp_path: Path
) -> None:
    client, peer = share(executors=1), make_peer(executors=1)
    client.start()
    gate = tmp_path / "gate"
    call = peer.begin("wait_for_file", str(gate))
    wait_for_file(f"{gate}.running")
    peer.stop()
    gate.touch()
    window().wait(ChannelState.DONE)
    assert [client.call("echo", number) for number in range(50)] == list(range(50))
    peer.resume()
    assert call.result(PATIENCE_S) == "released"


@pytest.mark.slow
def test_clients_killed_under_load_again_and_again_cost_the_others_nothing(
    share: Share, make_peer: MakePeer, window: Look, tmp_path: Path
) -> None:
    client = share(max_queue=100, grace_ms=20_000)
    idle(client)
    survivors = [make_peer(max_queue=100) for _ in range(2)]
    with loading(survivors, tmp_path) as outcomes:
        for number in range(6):
            doomed = make_peer(max_queue=100)
            folder = tmp_path / str(number)
            folder.mkdir()
            doomed.start("load", until=str(folder / "until"), threads=8)
            doomed.start("echo_bytes", size=3_000_000)
            wait_until(lambda folder=folder: list(folder.iterdir()), PATIENCE_S)
            doomed.kill()
            assert client.call("echo", number) == number
    assert [set(each) for each in outcomes] == [{"Ok"}] * 2
    window().wait()
    wait_until(lambda: health(client)["clients"] == 3)
    assert idle(client)["executor_deaths"] == 0


@pytest.mark.slow
def test_channels_of_clients_that_are_gone_are_granted_again(share: Share, make_peer: MakePeer) -> None:
    """More clients one after the other than there are channels for at a time, in every way to go."""
    client = share(executors=1, max_queue=0)  # 33 channels
    client.start()
    for number in range(4):
        peer = make_peer(executors=1, max_queue=0)
        assert peer.call("echo", number) == number
        if number % 2:
            peer.kill()
        else:
            peer.close()
    assert client.call("echo", "mine") == "mine"


def test_clients_that_leave_as_soon_as_they_come_leave_their_channels(
    share: Share, pool_log: Path, often: Callable[[int], int]
) -> None:
    """What the worker has to tell them then reaches nobody; what they said before still counts."""
    client = share(executors=1, max_queue=0, log_level="info")  # 33 channels, and each asks for 32
    client.start()
    for _ in range(often(200)):
        with Client(client.config) as other:
            other._transport.start()
    with Client(client.config) as other:
        assert other.call("echo", 1) == 1
    wait_until(lambda: health(client)["clients"] == 1)
    assert " error=" not in pool_log.read_text()


# -- closed -------------------------------------------------------------------------------------------------
def test_close_ends_every_call_once_and_returns_channels(share: Share, window: Look, tmp_path: Path) -> None:
    other = share(executors=2, grace_ms=20_000)
    executors = set(idle(other)["executors"]["pids"])
    view = window()
    client = share()
    markers = [tmp_path / "a", tmp_path / "b"]
    outcomes: Counter[str] = Counter()

    def call(entry: str, payload: Any) -> None:
        try:
            client.call(entry, payload, timeout_ms=None)
            outcomes["Ok"] += 1
        except MoltError as exc:
            outcomes[type(exc).__name__] += 1

    jobs = [("clean_up", str(marker)) for marker in markers] + [("echo", number) for number in range(20)]
    threads = [threading.Thread(target=call, args=job) for job in jobs]
    for thread in threads[:2]:
        thread.start()
    for marker in markers:
        wait_for_file(marker)
    for thread in threads[2:]:
        thread.start()
    view.wait(ChannelState.CLAIMED, ChannelState.CLAIMED, *[ChannelState.READY] * 20)
    client.close()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert outcomes == {"MoltCancelled": 22}
    view.wait()
    wait_until(lambda: not any(marker.exists() for marker in markers))
    report = idle(other)
    assert set(report["executors"]["pids"]) == executors
    assert report["clients"] == 1
    with pytest.raises(MoltClientClosed, match=r"^the client is closed$"):
        client.call("echo", 1)


def test_close_races_with_calls_that_begin_and_end(share: Share, window: Look) -> None:
    """Whatever a call is in the middle of, it ends once, and leaves its channel to others."""
    other = share(max_queue=100)
    idle(other)
    view = window()
    for _ in range(15):
        client = Client(**{**SHARED, "max_queue": 100})
        stop = threading.Event()
        begun = threading.Barrier(7)
        seen: list[Counter[str]] = []

        def call(
            client: Client = client,
            stop: threading.Event = stop,
            begun: threading.Barrier = begun,
            seen: list[Counter[str]] = seen,
        ) -> None:
            outcomes: Counter[str] = Counter()
            assert client.call("echo", 0) == 0
            begun.wait()
            while not stop.is_set():
                try:
                    assert client.call("echo", 1) == 1
                    outcomes["Ok"] += 1
                except MoltCancelled:
                    outcomes["Cancelled"] += 1
                except MoltClientClosed:
                    outcomes["closed"] += 1
                    break
            seen.append(outcomes)

        threads = [in_thread(call) for _ in range(6)]
        begun.wait()
        client.close()
        for thread in threads:
            thread.join(PATIENCE_S)
        stop.set()
        assert len(seen) == 6
        assert all(each["Cancelled"] <= 1 for each in seen)
        assert all(each["closed"] == 1 for each in seen)
        view.wait()
        wait_until(lambda: health(other)["clients"] == 1)
    assert all(other.call("echo", number) == number for number in range(40))


def test_close_from_a_call_s_signal_handler_ends_the_call(share: Share, tmp_path: Path, window: Look) -> None:
    client, other = share(executors=1, grace_ms=20_000), share(executors=1, grace_ms=20_000)
    idle(other)
    marker = tmp_path / "running"
    before = signal.signal(signal.SIGUSR2, lambda number, frame: client.close())
    try:
        with when(marker, lambda: os.kill(os.getpid(), signal.SIGUSR2)), pytest.raises(MoltCancelled):
            client.call("clean_up", str(marker), timeout_ms=None)
    finally:
        signal.signal(signal.SIGUSR2, before)
    wait_until(lambda: not marker.exists())
    assert other.call("echo", 1) == 1


class when:
    """In this context, do something on another thread once a file is there."""

    def __init__(self, path: Path, action: Callable[[], object]) -> None:
        def work() -> None:
            wait_for_file(path)
            action()

        self._thread = threading.Thread(target=work)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._thread.join(PATIENCE_S)


# -- interrupted --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("spin_us", [None, 0, 1_000_000], ids=["measured", "never", "second"])
def test_ctrl_c_ends_a_call_promptly_and_stops_its_work(
    share: Share, window: Look, tmp_path: Path, spin_us: int | None
) -> None:
    """Also one that comes while the call spins, and interrupts no sleep."""
    client = with_worker(share(executors=1, grace_ms=20_000, spin_us=spin_us))
    view = window()
    for number in range(3):
        marker = tmp_path / str(number)
        with when(marker, lambda: signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)):
            started = time.monotonic()
            with pytest.raises(KeyboardInterrupt):
                client.call("clean_up", str(marker), timeout_ms=100_000)
            assert time.monotonic() - started < 30
        wait_until(lambda marker=marker: not marker.exists())
        view.wait()
        assert client.call("echo", number) == number


def test_ctrl_c_ends_a_call_that_is_queued_or_half_sent(share: Share, window: Look, tmp_path: Path) -> None:
    client = with_worker(share(executors=1))
    view = window()
    gate = Gate(client, tmp_path)
    for payload in (b"", bytes(3_000_000)):
        threading.Thread(target=interrupt_when, args=(view, ChannelState.READY)).start()
        with pytest.raises(KeyboardInterrupt):
            client.call("echo_raw", payload, codec="raw", timeout_ms=100_000)
        view.wait(ChannelState.CLAIMED)
    gate.open()
    assert health(client)["outcomes"] == {"Ok": 1, "Cancelled": 2}


def interrupt_when(view: Window, state: ChannelState) -> None:
    wait_until(lambda: view.states()[state])
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


# -- event loops --------------------------------------------------------------------------------------------
def test_many_tasks_share_one_thread_that_waits(share: Share) -> None:
    client = share(max_queue=1000)

    async def main() -> list[Any]:
        return await asyncio.gather(*(client.acall("echo", number) for number in range(300)))

    for _ in range(3):
        assert asyncio.run(main()) == list(range(300))
    assert threads_named("molt-completion") == 1


def test_cancelled_tasks_stop_requests_and_free_channels(share: Share, window: Look, tmp_path: Path) -> None:
    client = share(executors=2, max_queue=100, grace_ms=20_000)
    executors = set(idle(client)["executors"]["pids"])
    view = window()
    markers = [tmp_path / "a", tmp_path / "b"]

    async def main() -> None:
        running = [asyncio.create_task(client.acall("clean_up", str(marker))) for marker in markers]
        queued = [asyncio.create_task(client.acall("echo", number)) for number in range(60)]
        await asyncio.to_thread(
            view.wait, ChannelState.CLAIMED, ChannelState.CLAIMED, *[ChannelState.READY] * 60
        )
        for task in (*running, *queued[::2]):
            task.cancel()
        ended = await asyncio.gather(*running, *queued, return_exceptions=True)
        assert [type(each) for each in ended[:2]] == [asyncio.CancelledError] * 2
        assert [type(each) for each in ended[2::2]] == [asyncio.CancelledError] * 30
        assert ended[3::2] == list(range(1, 60, 2))

    asyncio.run(main())
    view.wait()
    wait_until(lambda: not any(marker.exists() for marker in markers))
    assert set(idle(client)["executors"]["pids"]) == executors


def test_calls_of_threads_and_tasks_beyond_all_channels_wait_or_are_told_so(share: Share) -> None:
    """None hangs, none gets another's answer, and a refusal is Busy."""
    client = share(executors=2, max_queue=16)
    idle(client)
    outcomes: Counter[str] = Counter()
    lock = threading.Lock()

    def thread(number: int) -> None:
        try:
            outcome = "Ok" if client.call("echo", number, queue_timeout_ms=30_000) == number else "WRONG"
        except MoltBusy:
            outcome = "Busy"
        with lock:
            outcomes[outcome] += 1

    async def main() -> list[Any]:
        calls = [client.acall("echo", number, queue_timeout_ms=30_000) for number in range(100)]
        return await asyncio.gather(*calls, return_exceptions=True)

    with ThreadPoolExecutor(100) as threads:
        jobs = [threads.submit(thread, number) for number in range(100)]
        ended = asyncio.run(main())
        for job in jobs:
            job.result(PATIENCE_S)
    assert set(outcomes) <= {"Ok", "Busy"}
    assert outcomes.total() == 100
    assert outcomes["Ok"] > 0
    assert {type(each) for number, each in enumerate(ended) if each != number} <= {MoltBusy}
    assert client.call("echo", "afterwards") == "afterwards"


def test_more_threads_than_channels_were_granted_get_more(share: Share) -> None:
    client = with_worker(share(executors=2, max_queue=200))
    begun = threading.Barrier(120)

    def call(number: int) -> bool:
        begun.wait()
        return bool(client.call("echo", number) == number)

    with ThreadPoolExecutor(120) as threads:
        assert all(threads.map(call, range(120)))


def test_an_event_loop_s_call_needs_its_own_channel_only(share: Share, window: Look, tmp_path: Path) -> None:
    """The first one finds all others in use: it has no doorbell to listen to, and is answered all the same."""
    client = with_worker(share(executors=1, max_queue=100))
    view = window()
    pool = client._transport._connection.channels  # type: ignore[attr-defined]
    gate = Gate(client, tmp_path)
    with ThreadPoolExecutor(40) as threads:
        queued = [threads.submit(client.call, "echo", number) for number in range(len(pool.free) - 1)]
        view.wait(ChannelState.CLAIMED, *[ChannelState.READY] * len(queued))
        assert len(pool.free) == 1

        async def main() -> Any:
            task = asyncio.create_task(client.acall("echo", "no doorbell"))
            await asyncio.to_thread(
                view.wait, ChannelState.CLAIMED, *[ChannelState.READY] * (len(queued) + 1)
            )
            await asyncio.to_thread(gate.open)
            return await task

        assert asyncio.run(main()) == "no doorbell"
        assert [call.result(PATIENCE_S) for call in queued] == list(range(len(queued)))


@pytest.fixture
def _no_collection() -> Iterator[None]:
    """No garbage is collected: a large heap's is seldom."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def arenas() -> int:
    """How many arenas this process maps."""
    return sum("/dev/shm/molt-" in line for line in Path("/proc/self/maps").read_text().splitlines())


async def call_until_there_is_a_bell(client: Client, number: int) -> None:
    """The first call of a loop asks for one."""
    waited_by_bell = 0
    while not waited_by_bell:
        assert await client.acall("echo", number, timeout_ms=PATIENCE_S * 1000) == number
        waited_by_bell = len(client._transport._connection.loops._of)  # type: ignore[attr-defined]
    await client.acall("sleep", 0.02)  # so long that the loop sets its timer


@pytest.mark.usefixtures("_no_collection")
@pytest.mark.parametrize("way", ["call", "acall"])
def test_a_connection_whose_worker_is_gone_leaves_no_memory_behind(share: Share, way: str) -> None:
    client, before = share(), arenas()
    for number in range(4):
        if way == "call":
            assert client.call("echo", number, timeout_ms=PATIENCE_S * 1000) == number
        else:
            asyncio.run(call_until_there_is_a_bell(client, number))
        os.kill(health(client)["pid"], signal.SIGKILL if number % 2 else signal.SIGTERM)
        wait_until(lambda: threads_named("molt-monitor") == 0)
        assert arenas() <= before + 1


def test_a_connection_whose_worker_is_gone_leaves_no_thread_behind(share: Share) -> None:
    client = share()
    for number in range(3):
        assert asyncio.run(client.acall("echo", number, timeout_ms=PATIENCE_S * 1000)) == number
        os.kill(health(client)["pid"], signal.SIGKILL if number % 2 else signal.SIGTERM)
        wait_until(lambda: threads_named("molt-completion") == 0)
        wait_until(lambda: threads_named("molt-monitor") == 0)
    gc.collect()
    assert arenas() <= 1


def test_a_client_that_is_closed_under_the_calls_of_an_event_loop_ends_them(share: Share) -> None:
    for delay in range(10):
        client = with_worker(Client(**{**SHARED, "executors": 1}))

        async def main(client: Client = client, delay: int = delay) -> list[Any]:
            tasks = [asyncio.create_task(client.acall("sleep", 1e6, timeout_ms=None)) for _ in range(20)]
            for _ in range(delay):
                await asyncio.sleep(0)
            closer = asyncio.create_task(asyncio.to_thread(client.close))
            ended = await asyncio.gather(*tasks, return_exceptions=True)
            await closer
            return ended

        assert {type(each) for each in asyncio.run(main())} <= {MoltCancelled, MoltClientClosed}


# -- forked -------------------------------------------------------------------------------------------------
@pytest.fixture
def calls_in_flight(
    share: Share, window: Look, tmp_path: Path
) -> Iterator[tuple[Client, Window, list[Future[Any]]]]:
    """A client with one call that runs and four that are queued."""
    client = with_worker(share(executors=1))
    view = window()
    gate = Gate(client, tmp_path)
    with ThreadPoolExecutor(4) as threads:
        queued = [threads.submit(client.call, "echo", number) for number in range(4)]
        view.wait(ChannelState.CLAIMED, *[ChannelState.READY] * 4)
        yield client, view, queued
        gate.open()
        assert [call.result(PATIENCE_S) for call in queued] == [0, 1, 2, 3]


def test_a_forked_child_attaches_itself_and_leaves_the_calls_in_flight_alone(
    calls_in_flight: tuple[Client, Window, list[Future[Any]]],
) -> None:
    client, view, _ = calls_in_flight
    worker = health(client)["pid"]

    def child() -> None:
        report = health(client)
        assert (report["pid"], report["clients"]) == (worker, 2)
        assert raised(MoltTimeout, client.call, "echo", "behind them", timeout_ms=100).phase == "queue"
        client.close()

    assert exit_code(fork(child)) == 0
    assert view.states() == {ChannelState.CLAIMED: 1, ChannelState.READY: 4}
    wait_until(lambda: health(client)["clients"] == 1)


@pytest.mark.parametrize("end", ["collect", "exit", "kill"])
def test_what_a_forked_child_does_with_its_copies_of_calls_touches_nobody_s(
    share: Share, window: Look, tmp_path: Path, end: str
) -> None:
    """It has copies of its parent's tasks. When they are thrown away there, their calls are given up: there only."""
    client = with_worker(share(executors=1))
    view = window()
    gate = tmp_path / "gate"

    async def main() -> list[Any]:
        tasks = [asyncio.create_task(client.acall("wait_for_file", str(gate)))]
        tasks += [asyncio.create_task(client.acall("echo", number)) for number in range(3)]
        await asyncio.to_thread(view.wait, ChannelState.CLAIMED, *[ChannelState.READY] * 3)

        def child() -> None:
            for task in tasks:
                coroutine = task.get_coro()
                assert coroutine is not None
                coroutine.close()
            gc.collect()
            if end == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if end == "exit":
                client.close()

        assert exit_code(fork(child)) == (-9 if end == "kill" else 0)
        assert view.states() == {ChannelState.CLAIMED: 1, ChannelState.READY: 3}
        gate.touch()
        return await asyncio.gather(*tasks)

    assert asyncio.run(main()) == ["released", 0, 1, 2]


def test_a_child_forked_by_a_signal_handler_in_the_middle_of_a_call_does_not_take_the_answer(
    share: Share, tmp_path: Path
) -> None:
    client = with_worker(share(executors=1))
    gate = tmp_path / "gate"
    parent = os.getpid()
    codes: list[int] = []

    def on_signal(number: int, frame: object) -> None:
        pid = os.fork()
        if pid:
            codes.append(pid)
            gate.touch()

    before = signal.signal(signal.SIGUSR2, on_signal)
    outcome: Any = None
    try:
        with when(Path(f"{gate}.running"), lambda: os.kill(parent, signal.SIGUSR2)):
            try:
                outcome = client.call("wait_for_file", str(gate), timeout_ms=PATIENCE_S * 1000)
            except BaseException as exc:
                outcome = exc
            if os.getpid() != parent:
                os._exit(getattr(outcome, "detail", "") != "this is the parent's connection")
    finally:
        if os.getpid() != parent:
            os._exit(2)
        signal.signal(signal.SIGUSR2, before)
    assert outcome == "released"
    assert [exit_code(pid) for pid in codes] == [0]
    assert client.call("echo", 1) == 1


def test_a_child_inherits_no_connection_not_even_to_a_draining_worker(share: Share, tmp_path: Path) -> None:
    client = with_worker(share(executors=1))
    old = health(client)["pid"]
    gate = Gate(client, tmp_path)
    os.kill(old, signal.SIGTERM)
    wait_until(lambda: health(client)["pid"] != old)

    def sockets() -> list[str]:
        found = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if _is_open(fd)]
        return [target for target in found if target.startswith("socket:")]

    own = {connection._sock.fileno() for connection in client._transport._connections}  # type: ignore[attr-defined]
    assert len(own) == 2
    own_sockets = {os.readlink(f"/proc/self/fd/{fd}") for fd in own}

    def child() -> None:
        assert own_sockets.isdisjoint(sockets())

    assert exit_code(fork(child)) == 0
    gate.open()


def _is_open(fd: str) -> bool:
    return os.path.lexists(f"/proc/self/fd/{fd}")


# -- kept apart ---------------------------------------------------------------------------------------------
def test_answers_of_one_client_never_reach_another(share: Share, make_peer: MakePeer, tmp_path: Path) -> None:
    share(max_queue=200).start()
    peers = [make_peer(max_queue=200, spin_us=spin) for spin in (None, 0, 1000)]
    large = [
        peer.start("echo_bytes", size=200_000 + number, seed=number) for number in range(20) for peer in peers
    ]
    with loading(peers, tmp_path, threads=6) as outcomes:
        assert all(call.result(PATIENCE_S) for call in large)
    assert [set(each) for each in outcomes] == [{"Ok"}] * 3


@pytest.mark.parametrize("spin_us", [0, 20])
def test_the_longest_spin_may_be_set_for_worker_and_client(
    share: Share, monkeypatch: pytest.MonkeyPatch, spin_us: int
) -> None:
    monkeypatch.setenv("MOLT_SPIN_US", str(spin_us))
    client = share()
    assert [client.call("echo", number) for number in range(100)] == list(range(100))
    assert client._transport._connection.arena.spin_ns == spin_us * 1000  # type: ignore[attr-defined]
