"""Each peer for real: a few calls from a client process, and nothing left behind."""

import os
import secrets
import shutil
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil
import pytest

from bench.core.cpu import pids_of
from bench.core.processes import MARK_VARIABLE, Family
from bench.micro.client_process import ClientProcess, PeerFailed
from bench.micro.payloads import MIB
from bench.micro.peers.base import Peer, Setup, Unavailable
from bench.micro.peers.native import HEADER, SOURCE
from bench.micro.peers.pipe import OwnPipe
from bench.micro.peers.table import PEERS, load
from molt_accel.ipc.shm import arena
from molt_worker.supervisor.shm import spinning
from tests.support import ROOT
from tests.support.processes import in_thread, wait_until

pytestmark = [pytest.mark.bench, pytest.mark.timeout(120)]
WAIT_S = 60.0
Make = Callable[..., ClientProcess]
RAW = [name for name, info in PEERS.items() if info.raw]


@pytest.fixture
def make_client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Make]:
    """Makes client processes in a directory whose path is short enough for Unix sockets."""
    made: list[ClientProcess] = []
    directory = tmp_path_factory.mktemp("m")

    def make(peer: str | None = None, *, workers: int = 1, first: bool = True) -> ClientProcess:
        client = ClientProcess(directory / f"{len(made)}.log", "micro-test")
        made.append(client)
        if peer is not None:
            try:
                client.ask(
                    "start", timeout_s=WAIT_S, peer=peer, scratch=str(directory), workers=workers, first=first
                )
            except Unavailable as error:
                pytest.skip(f"{peer}: {error}")
        return client

    yield make
    for client in made:
        client.ask_to_stop()
    assert [client.close() for client in made] == [True] * len(made), [client.log_tail() for client in made]


def measure(client: ClientProcess, size: int, calls: int = 5, *, raw: bool = False) -> dict[str, Any]:
    return client.ask(
        "latency", timeout_s=WAIT_S, size=size, raw=raw, calls=calls, limit_s=WAIT_S, warmup=2, pause_s=0.0
    )


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_answers_with_what_it_was_sent(name: str, make_client: Make) -> None:
    """The warm-up compares; without pauses a peer that loses an answer would hang here."""
    client = make_client(name)
    for size in (64, 4096, MIB) if PEERS[name].sized else (64,):
        answer = measure(client, size)
        assert answer["calls"] == len(answer["ordered_ns"]) == 5
        assert 0 < answer["ordered_ns"][0] <= answer["mean_ns"] <= answer["ordered_ns"][-1]


@pytest.mark.parametrize("name", RAW)
def test_a_peer_carries_bytes_as_they_are_and_objects_again(name: str, make_client: Make) -> None:
    """What is larger than any ring included; the warm-up compares."""
    client = make_client(name)
    for size, raw in ((64, False), (MIB, True), (4 * MIB, True), (MIB, False), (64, False)):
        assert measure(client, size, raw=raw)["calls"] == 5


@contextmanager
def loaded(name: str, scratch: Path) -> Iterator[Any]:
    """A peer in this process, not started yet; stopped in the end."""
    try:
        peer = load(name, Setup(scratch))
    except Unavailable as error:
        pytest.skip(str(error))
    try:
        yield peer
    finally:
        peer.stop()


@pytest.mark.parametrize("name", RAW)
def test_nothing_is_packed_where_bytes_travel_as_they_are(
    name: str, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes that are no msgpack come back; a side that took them apart would fail."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    data = b"\xc1" * MIB
    with loaded(name, tmp_path_factory.mktemp("r")) as peer:
        peer.start()
        peer.carry_raw(True)
        answer: Any = peer.call_raw(data)
        kept = memoryview(answer)
        del answer
        assert peer.call_raw(bytes(len(data))) == bytes(len(data))
        assert kept == data  # in memory that no later answer comes to
        kept.release()
        peer.carry_raw(False)
        assert peer.call({"id": 7}) == {"id": 7}


def test_a_peer_of_objects_only_says_so(tmp_path: Path) -> None:
    assert "executor" not in RAW
    with pytest.raises(NotImplementedError, match="Executor carries objects only"):
        load("executor", Setup(tmp_path)).call_raw(b"")


def test_a_ring_waits_as_a_worker_would(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bare, it still has to know processors and limits, or it would spin where a worker doesn't."""
    told: list[tuple[int, bool]] = []
    with loaded("ring", tmp_path) as peer:

        class Told(arena.native().Arena):  # type: ignore[misc]
            def set_cpus(self, cpus: int, narrow: bool) -> None:
                told.append((cpus, narrow))
                super().set_cpus(cpus, narrow)

        monkeypatch.setattr(arena.native(), "Arena", Told)
        monkeypatch.setenv("MOLT_SPIN_US", "17")
        peer.start()
        limits, ring = spinning.measure(), peer._arena
        assert told == [(limits.cpus, limits.narrow)]
        assert ring.spin_ns == 17_000
        assert (ring.client_spinners, ring.executor_spinners) == (limits.clients, limits.executors)
        assert peer.call({"id": 7}) == {"id": 7}


@pytest.mark.parametrize("name", ["shm-park", "shm-same-park"])
def test_on_both_sides_nobody_stays_awake(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    with loaded(name, tmp_path) as peer:
        peer.start()
        assert peer.call({"id": 7}) == {"id": 7}
        assert peer.client.config.spin_us == 0
        worker = psutil.Process(peer.client.ping()["pid"])
        assert worker.environ()["MOLT_SPIN_US"] == "0"


@pytest.mark.parametrize("name", ["shm-io", "shm-same-io"])
def test_calls_are_made_while_all_other_executors_have_requests_that_wait(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    ran: list[int] = []
    with loaded(name, tmp_path) as peer:
        peer.start()
        peer.client.call("echo", None, metrics_hook=lambda metrics: ran.append(metrics.in_flight))
        assert ran == [6]
        assert len(peer.latency({"id": 7}, calls=3, limit_s=WAIT_S, pause_s=0.0)) == 3
        peer._lock.close()
        wait_until(lambda: all(each.done() for each in peer._waiting))
        with pytest.raises(RuntimeError, match="a request that shall wait has ended"):
            peer.latency({"id": 7}, calls=3, limit_s=WAIT_S, pause_s=0.0)


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
def test_the_native_program_compiles_without_warnings(tmp_path: Path) -> None:
    flags = ["-std=c11", "-O3", "-Wall", "-Wextra", "-Wpedantic", "-Werror", f"-I{HEADER.parent}"]
    subprocess.run(["cc", *flags, str(SOURCE), "-o", str(tmp_path / "p"), "-pthread"], check=True)


@pytest.mark.parametrize("name", [name for name, info in PEERS.items() if info.callers])
def test_a_peer_serves_several_callers(name: str, make_client: Make) -> None:
    client = make_client(name, workers=2)
    answer = client.ask(
        "throughput", timeout_s=WAIT_S, size=64, callers=4, start_at_ns=time.monotonic_ns(), window_s=0.2
    )
    assert answer["calls"] > 0
    assert measure(client, 64)["calls"] == 5


def test_threads_share_pipes_evenly_and_keep_to_them(tmp_path: Path) -> None:
    used: dict[int, set[int]] = {}

    class Noted(OwnPipe):
        def exchange(self, connection: Connection, payload: object) -> object:
            used.setdefault(threading.get_ident(), set()).add(connection.fileno())
            return super().exchange(connection, payload)

    peer = Noted(Setup(tmp_path, workers=2))
    together = threading.Barrier(4)

    def call() -> None:
        together.wait(WAIT_S)
        for number in range(3):
            assert peer.call(number) == number
        together.wait(WAIT_S)

    try:
        peer.start()
        for thread in [in_thread(call) for _ in range(4)]:
            thread.join()
    finally:
        peer.stop()
    assert [len(pipes) for pipes in used.values()] == [1] * 4
    assert sorted(Counter(pipe for pipes in used.values() for pipe in pipes).values()) == [2, 2]


@pytest.mark.parametrize("name", [name for name, info in PEERS.items() if info.shared])
def test_a_shared_peer_serves_several_client_processes(name: str, make_client: Make) -> None:
    first, second = make_client(name, workers=2), make_client(name, workers=2, first=False)
    assert measure(first, 64)["calls"] == measure(second, 64)["calls"] == 5


@pytest.mark.parametrize("name", [name for name, info in PEERS.items() if info.sized or info.callers])
def test_the_other_side_is_in_the_session_that_the_table_says(
    name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    scratch, mark = tmp_path_factory.mktemp("s"), f"micro-{secrets.token_hex(6)}"
    client = ClientProcess(scratch / "log", mark)
    try:
        client.ask("start", timeout_s=WAIT_S, peer=name, scratch=str(scratch), workers=2, first=True)
        measure(client, 64)

        def are_as_told() -> bool:
            others = [pid for pid in pids_of(Family(client.pid, mark)) if pid != client.pid]
            sessions, own = {os.getsid(pid) for pid in others}, os.getsid(client.pid)
            return bool(sessions) and own not in sessions if PEERS[name].own_session else sessions == {own}

        # Of two processes at the other side one may only just have begun.
        wait_until(are_as_told)
    except Unavailable as error:
        pytest.skip(str(error))
    finally:
        assert client.close()


@pytest.mark.parametrize("name", [name for name, info in PEERS.items() if info.polls])
def test_a_polling_peer_rests_and_wakes(name: str, make_client: Make) -> None:
    client = make_client(name)
    client.ask("rest", timeout_s=WAIT_S)
    (server,) = psutil.Process(client.pid).children()
    assert server.environ()[MARK_VARIABLE] == "micro-test"
    wait_until(lambda: server.status() == psutil.STATUS_STOPPED)
    client.ask("wake", timeout_s=WAIT_S)
    assert measure(client, 64)["calls"] == 5


@pytest.mark.parametrize("name", ["iceoryx2", "iceoryx2-event"])
def test_iceoryx2_leaves_no_shared_memory(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """It leaves an object of its own behind, and all of them where its server is ended by a signal."""
    iox = pytest.importorskip("bench.micro.peers.iceoryx.client")
    scratch = tmp_path_factory.mktemp("i")
    prefix = iox.prefix_of(scratch)
    client = ClientProcess(scratch / "log", "micro-test")
    try:
        client.ask("start", timeout_s=WAIT_S, peer=name, scratch=str(scratch), workers=1, first=True)
        measure(client, 64)
        assert list(iox.SHARED_MEMORY.glob(f"{prefix}*"))
    finally:
        assert client.close()
    assert not list(iox.SHARED_MEMORY.glob(f"{prefix}*"))


def test_a_missing_library_is_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "zmq", None)
    monkeypatch.delitem(__import__("sys").modules, "bench.micro.peers.zeromq", raising=False)
    with pytest.raises(Unavailable, match="zmq isn't installed"):
        load("zmq", Setup(tmp_path))


def test_without_a_compiler_the_native_peers_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.micro.peers.native.shutil.which", lambda _: None)
    with pytest.raises(Unavailable, match="no C compiler"):
        load("c-park", Setup(tmp_path))


def test_an_answer_that_is_another_one_is_told(tmp_path: Path) -> None:
    class Liar(Peer):
        def start(self) -> None: ...

        def stop(self) -> None: ...

        def call(self, payload: object) -> object:
            return {"id": 8}

    with pytest.raises(ValueError, match="not what was sent"):
        Liar(Setup(tmp_path)).warm_up({"id": 7}, 1)


def test_an_error_is_an_answer_and_the_client_process_goes_on(make_client: Make) -> None:
    client = make_client()
    with pytest.raises(PeerFailed, match="no peer was started"):
        measure(client, 64)
    with pytest.raises(PeerFailed, match="KeyError"):
        client.ask("dance", timeout_s=WAIT_S)


def test_a_client_process_that_ends_or_is_silent_is_told(tmp_path: Path) -> None:
    client = ClientProcess(tmp_path / "log", "micro-test")
    with pytest.raises(PeerFailed, match="no answer within"):
        client.receive(0.05)
    psutil.Process(client.pid).kill()
    with pytest.raises(PeerFailed, match="client process ended"):
        client.receive(WAIT_S)
    assert client.close()
