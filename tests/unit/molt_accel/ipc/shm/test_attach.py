"""Attaching to a pool: what is asked, and what is made of each answer. Clients and observers."""

import mmap
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from molt_accel import __version__
from molt_accel.errors import (
    MoltError,
    MoltIncompatible,
    MoltStartFailed,
    MoltWorkerUnavailable,
    WorkerVanished,
    to_wire,
)
from molt_accel.ipc import control
from molt_accel.ipc.messages import (
    SHM_FROM_CLIENT,
    Attach,
    Attached,
    Hello,
    Lease,
    Message,
    Refused,
    Reloading,
)
from molt_accel.ipc.shm import arena as arenas
from molt_accel.ipc.shm import attach
from molt_accel.ipc.shm.attach import connect, handshake, observe
from tests.support.errors import raised
from tests.support.frames import message_of

Ask = Callable[[socket.socket], object]
BOTH = pytest.mark.parametrize("ask", [lambda end: handshake(end, {}), observe], ids=["handshake", "observe"])


class Worker:
    """The other end of a control socket: takes one message, and answers as it was told."""

    def __init__(self) -> None:
        self.near, self._far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.asked: object = None
        self._thread: threading.Thread | None = None

    def answer(
        self, message: Message | bytes | None, *fds: int, before: Message | None = None
    ) -> socket.socket:
        """Answer so, or close the socket; returns the end to ask on. `before`: what it says first."""

        def serve() -> None:
            self.asked, _ = control.receive(self._far, SHM_FROM_CLIENT)
            if before is not None:
                control.send(self._far, before)
            if isinstance(message, Message):
                control.send(self._far, message, fds)
            elif message is not None:
                socket.send_fds(self._far, [message], fds)
            else:
                self._far.close()

        self._thread = threading.Thread(target=serve)
        self._thread.start()
        return self.near

    def close(self) -> None:
        if self._thread is not None:
            self._thread.join()
        self.near.close()
        self._far.close()


@pytest.fixture
def worker() -> Iterator[Worker]:
    """A worker; no descriptor is open afterwards that was not before."""
    before = set(os.listdir("/proc/self/fd"))
    worker = Worker()
    yield worker
    worker.close()
    assert set(os.listdir("/proc/self/fd")) <= before


@pytest.fixture
def arena_fd() -> Iterator[int]:
    """The descriptor of an arena in which the fact 3 is 7."""
    core = arenas.native()
    fd = os.memfd_create("arena")
    os.ftruncate(fd, core.arena_size(4, 2, 4096))
    core.Arena(mmap.mmap(fd, 0), 4, 2, 4096).set_gauge(3, 7)
    yield fd
    os.close(fd)


#: All that a client is told that is attached.
FACTS: dict[str, Any] = dict.fromkeys(Attached.__struct_fields__, 9) | {"channels": []}


def attached(*channels: int) -> Attached:
    return Attached(**FACTS | {"channels": list(channels)})


def refusal(error: MoltError) -> Refused:
    return Refused(to_wire(error))


def test_a_client_asks_for_channels_and_gets_the_arena_and_the_grant(worker: Worker, arena_fd: int) -> None:
    arena, granted = handshake(worker.answer(attached(2, 3), arena_fd), {"user": "0"})
    assert worker.asked == Attach(__version__, False, attach.FIRST_BATCH, {"user": "0"})
    assert granted == attached(2, 3)
    assert arena.gauge(3) == 7
    arena.set_gauge(3, 8)
    assert arena.gauge(3) == 8


def test_an_observer_asks_for_nothing_and_gets_a_view(worker: Worker, arena_fd: int) -> None:
    view = observe(worker.answer(attached(), arena_fd))
    assert worker.asked == Attach(__version__, True, 0)
    assert type(view) is arenas.native().ArenaView
    assert view.gauge(3) == 7
    shown = Path("/proc/self/maps").read_text().splitlines()
    mapped = [line.split()[1] for line in shown if "memfd:arena" in line]
    assert "r--s" in mapped


@BOTH
def test_it_waits_without_a_limit_for_what_comes_later(worker: Worker, arena_fd: int, ask: Ask) -> None:
    sock = worker.answer(attached(), arena_fd)
    ask(sock)
    assert sock.gettimeout() is None


@BOTH
@pytest.mark.parametrize(
    ("error", "detail"),
    [
        (MoltWorkerUnavailable("not you"), "the worker refused: not you"),
        (MoltIncompatible("this pool runs version 9"), "the worker refused: this pool runs version 9"),
        (WorkerVanished("the worker is stopping"), "the worker refused: the worker is stopping"),
        (MoltStartFailed("the worker can't start: no module"), "the worker can't start: no module"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_refusal_says_why(worker: Worker, ask: Ask, error: MoltError, detail: str) -> None:
    caught = raised(MoltWorkerUnavailable, ask, worker.answer(refusal(error)))
    assert type(caught) is type(error)
    assert caught.detail == detail


@BOTH
def test_a_descriptor_that_comes_with_a_refusal_is_not_kept(worker: Worker, ask: Ask) -> None:
    """The fixture sees it."""
    with pytest.raises(MoltWorkerUnavailable):
        ask(worker.answer(refusal(MoltWorkerUnavailable("not you")), 0))


@BOTH
def test_a_worker_that_closes_has_vanished(worker: Worker, ask: Ask) -> None:
    with pytest.raises(WorkerVanished, match=r"^the worker closed the connection"):
        ask(worker.answer(None))


@BOTH
def test_a_worker_that_has_closed_before_has_vanished(worker: Worker, ask: Ask) -> None:
    worker._far.close()
    with pytest.raises(WorkerVanished, match=r"^the worker closed the connection"):
        ask(worker.near)


@BOTH
@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (b"no frame at all", "the worker speaks another protocol: shorter than its header says"),
        (attached(), "the worker speaks another protocol"),
        (message_of(b"\xc1"), "the worker speaks another protocol: not a message that is expected here: "),
        (Lease(1), "the worker speaks another protocol: not a message that is expected here: "),
        (Hello(), "the worker speaks another protocol"),
        (Refused({"error": "MoltWorkerUnavailable"}), "the worker speaks another protocol: its answer is no"),
    ],
    ids=["garbage", "no descriptor", "no msgpack", "a client's", "another message", "no detail"],
)
def test_an_answer_that_is_none_is_another_protocol(worker: Worker, ask: Ask, answer: Any, text: str) -> None:
    assert raised(MoltIncompatible, ask, worker.answer(answer)).detail.startswith(text)


@BOTH
@pytest.mark.parametrize(
    "body",
    [
        None,
        [1],
        {"type": "Attached", "channels": [1]},
        *(
            {"type": "Attached"} | FACTS | wrong
            for wrong in ({"capacity": "many"}, {"grace_ms": -1}, {"channels": [-1]}, {"channels": [2**32]})
        ),
    ],
)
def test_wrong_values_are_another_protocol(worker: Worker, arena_fd: int, ask: Ask, body: object) -> None:
    with pytest.raises(MoltIncompatible, match=r"^the worker speaks another protocol: "):
        ask(worker.answer(message_of(msgspec.msgpack.encode(body)), arena_fd))


@BOTH
def test_memory_that_is_no_arena_is_refused(worker: Worker, ask: Ask) -> None:
    fd = os.memfd_create("other")
    os.ftruncate(fd, 2**16)
    try:
        error = raised(MoltIncompatible, ask, worker.answer(attached(), fd))
    finally:
        os.close(fd)
    assert error.detail == (
        "can't attach to the worker's memory: not an arena to attach to: it is none, or was never finished"
    )


@BOTH
def test_a_silent_worker_ends_the_wait(worker: Worker, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attach, "ANSWER_S", 0.05)
    with pytest.raises(MoltWorkerUnavailable, match=r"^no connection to the worker: timed out$"):
        ask(worker.near)


# -- connecting -------------------------------------------------------------------------------------------
@BOTH
def test_while_the_worker_reloads_it_is_waited_for_as_long_as_it_says(
    worker: Worker, arena_fd: int, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits: list[float | None] = []

    class Timed:
        """The socket, that writes down how long is waited."""

        def __getattr__(self, name: str) -> Any:
            return getattr(sock, name)

        def settimeout(self, limit_s: float | None) -> None:
            limits.append(limit_s)
            sock.settimeout(limit_s)

    sock = worker.answer(attached(), arena_fd, before=Reloading(31_000))
    ask(Timed())  # type: ignore[arg-type]
    assert limits == [attach.ANSWER_S, 31 + attach.ANSWER_S, None]


def test_nobody_serves_a_path_that_is_not_there_or_was_left(tmp_path: Path) -> None:
    path = str(tmp_path / "left.sock")
    assert connect(path) is None
    with control.new_socket() as listener:
        listener.bind(path)
        assert connect(path) is None  # bound, and not listening yet
    assert connect(path) is None


def test_a_connection_to_this_user_s_own_worker(tmp_path: Path) -> None:
    path = str(tmp_path / "own.sock")
    with control.new_socket() as listener:
        listener.bind(path)
        listener.listen()
        sock = connect(path)
        assert sock is not None
        with sock, listener.accept()[0] as other:
            assert control.peer(other)[0] == os.getpid()


def test_another_user_s_worker_is_none_to_speak_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(tmp_path / "other.sock")
    with control.new_socket() as listener:
        listener.bind(path)
        listener.listen()
        mine = os.getuid()
        monkeypatch.setattr(os, "getuid", lambda: mine + 1)
        error = raised(MoltWorkerUnavailable, connect, path)
    assert error.detail == f"{path} is served by user {mine}, not by this one ({mine + 1})"


def test_what_is_no_socket_of_this_kind_can_t_be_connected_to(tmp_path: Path) -> None:
    path = str(tmp_path / "stream.sock")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(path)
        listener.listen()
        with pytest.raises(MoltWorkerUnavailable, match=r"^can't connect to .*stream\.sock: "):
            connect(path)
