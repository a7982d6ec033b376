"""The control socket: where it is, who may have it, whose name it is, and what is said on it."""

import contextlib
import errno
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from molt_accel.errors import MoltWorkerUnavailable, NoSharedMemory
from molt_accel.ipc import control
from molt_accel.ipc.frame import PREFIX_BYTES, Fault, FrameError, encode
from molt_accel.ipc.messages import SHM_FROM_CLIENT, CancelChannel, Lease, Request, Return
from tests.support.errors import raised
from tests.support.handover import PATIENCE_S, Running
from tests.support.processes import exit_code, fork, wait_for_file


def fds() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


# -- the place --------------------------------------------------------------------------------------------
def test_a_path_fits_the_address_of_a_socket_or_is_an_error(tmp_path: Path) -> None:
    longest = "/" + "d" * (107 - len("/") - len("/n.sock"))
    path = control.socket_path(longest, "n")
    assert (path, len(path)) == (f"{longest}/n.sock", 107)
    error = raised(NoSharedMemory, control.socket_path, longest + "d", "n")
    assert error.detail == (
        f"the socket's path is too long ({longest}d/n.sock, 107 bytes at most); set MOLT_RUNTIME_DIR"
    )
    with pytest.raises(MoltWorkerUnavailable):
        control.socket_path("/" + "\N{LATIN SMALL LETTER U WITH DIAERESIS}" * 60, "n")  # bytes count


def test_a_directory_is_made_for_its_user_alone_and_used_again(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    for _ in range(2):
        control.ensure_directory(str(directory))
        assert directory.stat().st_mode & 0o7777 == 0o700


@pytest.mark.parametrize("mode", [0o701, 0o710, 0o755, 0o777])
def test_a_directory_that_others_can_look_into_is_refused(tmp_path: Path, mode: int) -> None:
    directory = tmp_path / "run"
    directory.mkdir()
    directory.chmod(mode)
    error = raised(MoltWorkerUnavailable, control.ensure_directory, str(directory))
    assert error.detail == (
        f"{directory} must be a directory of this user with mode 0700; remove it, or set MOLT_RUNTIME_DIR"
    )


@pytest.mark.parametrize("kind", ["connection", "file", "another user's"])
def test_what_isn_t_the_user_s_is_refused(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    place, real = tmp_path / "run", tmp_path / "real"
    real.mkdir(mode=0o700)
    if kind == "connection":
        place.symlink_to(real)
    elif kind == "file":
        place.touch(mode=0o700)
    else:
        place.mkdir(mode=0o700)
        other = os.getuid() + 1
        monkeypatch.setattr(os, "getuid", lambda: other)
    with pytest.raises(MoltWorkerUnavailable, match="must be a directory of this user"):
        control.ensure_directory(str(place))


def test_where_no_directory_can_be_made_it_says_why(tmp_path: Path) -> None:
    error = raised(MoltWorkerUnavailable, control.ensure_directory, str(tmp_path / "no" / "run"))
    assert error.detail.startswith(
        f"can't make the directory {tmp_path}/no/run: No such file or directory; set "
    )
    assert "MOLT_RUNTIME_DIR" in error.detail


# -- names ------------------------------------------------------------------------------------------------
def test_one_has_a_name_for_a_purpose(tmp_path: Path) -> None:
    mine = control.lock(str(tmp_path), "pool", "lock", wait=False)
    assert mine is not None
    assert control.lock(str(tmp_path), "pool", "lock", wait=False) is None
    for name, purpose in (("other", "lock"), ("pool", "starter")):
        other = control.lock(str(tmp_path), name, purpose, wait=False)
        assert other is not None
        os.close(other)
    os.close(mine)
    again = control.lock(str(tmp_path), "pool", "lock", wait=False)
    assert again is not None
    assert (tmp_path / "pool.lock").stat().st_mode & 0o777 == 0o600
    assert not os.get_inheritable(again)
    os.close(again)


def test_a_name_can_be_waited_for(tmp_path: Path) -> None:
    mine = control.lock(str(tmp_path), "pool", "lock", wait=False)
    assert mine is not None
    waiting = Running(lambda: control.lock(str(tmp_path), "pool", "lock", wait=True))
    os.close(mine)
    got = waiting.result()
    assert got is not None
    os.close(got)


def test_a_name_is_free_when_its_holder_is_killed(tmp_path: Path) -> None:
    marker = tmp_path / "marker"

    def hold() -> None:
        control.lock(str(tmp_path), "pool", "lock", wait=False)
        marker.write_text("held")
        signal.pause()

    holder = fork(hold)
    wait_for_file(marker)
    assert control.lock(str(tmp_path), "pool", "lock", wait=False) is None
    os.kill(holder, signal.SIGKILL)
    assert exit_code(holder) == -signal.SIGKILL
    mine = control.lock(str(tmp_path), "pool", "lock", wait=False)
    assert mine is not None
    os.close(mine)


def test_a_lock_that_fails_leaves_no_descriptor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(fd: int, operation: int) -> None:
        raise KeyboardInterrupt

    before = fds()
    monkeypatch.setattr(control.fcntl, "flock", interrupted)
    with pytest.raises(KeyboardInterrupt):
        control.lock(str(tmp_path), "pool", "lock", wait=True)
    assert fds() == before


# -- messages ---------------------------------------------------------------------------------------------
Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ends[1].settimeout(PATIENCE_S)
    yield ends
    for end in ends:
        end.close()


def test_messages_keep_their_bounds_and_their_order(pair: Pair) -> None:
    here, there = pair
    sent = [
        Lease(16),
        Return([0, 2**32 - 1]),
        CancelChannel(2**32 - 1, 2**32 - 1),
        Request(7, "__ping__", b"x" * 100_000, deadline_ns=5, sent_ns=6),
    ]
    for message in sent:
        control.send(here, message)
    assert [control.receive(there, SHM_FROM_CLIENT) for _ in sent] == [(message, []) for message in sent]
    here.close()
    assert control.receive(there, SHM_FROM_CLIENT) == (None, [])


def test_descriptors_come_with_their_message_and_close_in_a_new_program(pair: Pair, tmp_path: Path) -> None:
    here, there = pair
    (tmp_path / "file").write_text("hello")
    with (tmp_path / "file").open() as file:
        control.send(here, Return([]), (file.fileno(),))
    message, found = control.receive(there, SHM_FROM_CLIENT, max_fds=1)
    assert message == Return([])
    (fd,) = found
    assert os.read(fd, 10) == b"hello"
    assert not os.get_inheritable(fd)
    os.close(fd)


@pytest.mark.parametrize(("sent", "asked"), [(1, 0), (3, 0), (200, 0), (3, 1), (200, 1)])
def test_descriptors_that_nobody_asked_for_are_not_kept(pair: Pair, sent: int, asked: int) -> None:
    here, there = pair
    before = fds()
    control.send(here, Lease(1), (0,) * sent)
    message, found = control.receive(there, SHM_FROM_CLIENT, max_fds=asked)
    assert message == Lease(1)
    assert len(found) == asked
    control.close_all(found)
    assert fds() == before


def test_an_empty_message_is_the_end_and_its_descriptors_are_not_kept(pair: Pair) -> None:
    here, there = pair
    before = fds()
    socket.send_fds(here, [b""], [0, 1])
    assert control.receive(there, SHM_FROM_CLIENT, max_fds=2) == (None, [])
    assert fds() == before


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"\0", Fault.EMPTY),
        (b"\0\0\0\0", Fault.EMPTY),
        (b"garbage, but long enough to be more than a prefix", Fault.TRUNCATED),
        (encode(Lease(1))[:-1], Fault.TRUNCATED),
        (encode(Lease(1)) + b"x", Fault.TRAILING),
        (encode(Return([0] * 200_000)), Fault.TRUNCATED),  # cut off
    ],
)
def test_what_is_no_frame_is_an_error_without_descriptors(pair: Pair, data: bytes, fault: Fault) -> None:
    here, there = pair
    before = fds()
    here.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    socket.send_fds(here, [data], [0, 1])
    assert raised(FrameError, control.receive, there, SHM_FROM_CLIENT, max_fds=2).fault is fault
    assert fds() == before
    control.send(here, Lease(1))  # the socket is as good as before
    assert control.receive(there, SHM_FROM_CLIENT) == (Lease(1), [])


def test_the_prefix_is_not_needed_to_find_the_end_of_a_message(pair: Pair) -> None:
    here, there = pair
    message = Lease(3)
    here.send(b"\xff" * PREFIX_BYTES + encode(message)[PREFIX_BYTES:])
    assert control.receive(there, SHM_FROM_CLIENT) == (message, [])


@pytest.mark.parametrize("fds_along", [(), (0,)])
def test_who_does_not_read_is_not_waited_for(pair: Pair, fds_along: tuple[int, ...]) -> None:
    here, there = pair

    def fill() -> None:
        for _ in range(100_000):
            control.send(here, Lease(1), fds_along)

    with pytest.raises(BlockingIOError):
        fill()
    there.close()
    for _ in range(2):  # the second would be a SIGPIPE
        with pytest.raises(ConnectionError):
            control.send(here, Lease(1), fds_along)


def test_a_message_that_is_too_large_is_not_sent(pair: Pair) -> None:
    here, there = pair
    error = raised(FrameError, control.send, here, Return([0] * control.MAX_MESSAGE_BYTES))
    assert error.fault is Fault.TOO_LARGE
    there.setblocking(False)
    with pytest.raises(BlockingIOError):
        control.receive(there, SHM_FROM_CLIENT)


def test_the_kernel_says_who_is_at_the_other_end(tmp_path: Path) -> None:
    with control.new_socket() as listener, control.new_socket() as sock:
        listener.bind(str(tmp_path / "sock"))
        listener.listen()
        sock.connect(str(tmp_path / "sock"))
        assert control.peer(sock) == (os.getpid(), os.getuid())
        accepted, _ = listener.accept()
        with accepted:
            assert control.peer(accepted) == (os.getpid(), os.getuid())


def test_closing_takes_what_is_closed_already() -> None:
    first, second = os.pipe()
    os.close(first)
    control.close_all([first, second])
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        os.fstat(second)


def test_sockets_are_of_packets(tmp_path: Path) -> None:
    with contextlib.closing(control.new_socket()) as sock:
        assert (sock.family, sock.type) == (socket.AF_UNIX, socket.SOCK_SEQPACKET)
        assert not sock.get_inheritable()


def test_what_was_said_before_a_close_is_heard_though_something_was_left_unread() -> None:
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with here:
        control.send(here, Lease(1))
        control.send(there, Return([1]))
        there.close()
        assert control.receive(here, SHM_FROM_CLIENT) == (Return([1]), [])
        assert control.receive(here, SHM_FROM_CLIENT) == (None, [])
