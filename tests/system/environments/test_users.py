"""Another Unix user of the same machine gets nowhere: not at the directory, not at the socket, not at the memory."""

import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from molt_accel import MoltWorkerUnavailable, __version__
from molt_accel.ipc import control
from molt_accel.ipc.messages import SHM_FROM_WORKER, Attach
from molt_accel.ipc.shm.attach import FIRST_BATCH, connect
from tests.support.pools import Share, health, path_of, with_worker
from tests.support.processes import exit_code, fork

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux" or os.getuid() != 0, reason="only root can be another user"),
    # Python 3.12 warns of forks of processes with threads; what runs in these is only this.
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]
_NOBODY = 65534


def as_nobody(work: Callable[[], object]) -> None:
    """Run it as another user; it must not raise."""

    def in_child() -> None:
        os.setgroups([])
        os.setgid(_NOBODY)
        os.setuid(_NOBODY)
        work()

    assert exit_code(fork(in_child)) == 0


def _open_to_all() -> None:
    """As a careless administrator leaves it."""
    os.chmod(os.environ["MOLT_RUNTIME_DIR"], 0o777)
    os.chmod(path_of(), 0o777)


def test_the_directory_lets_nobody_in(share: Share) -> None:
    share().start()

    def work() -> None:
        with pytest.raises(MoltWorkerUnavailable, match=r"can't connect to .*Permission denied"):
            connect(path_of())
        with pytest.raises(MoltWorkerUnavailable, match="must be a directory of this user with mode 0700"):
            control.ensure_directory(os.environ["MOLT_RUNTIME_DIR"])

    as_nobody(work)


def test_where_the_directory_is_open_a_client_refuses_another_user_s_worker(share: Share) -> None:
    share().start()
    _open_to_all()

    def work() -> None:
        with pytest.raises(
            MoltWorkerUnavailable, match=f"is served by user 0, not by this one \\({_NOBODY}\\)"
        ):
            connect(path_of())

    as_nobody(work)


def test_where_the_directory_is_open_the_worker_refuses_another_user(share: Share, pool_log: Path) -> None:
    client = with_worker(share())
    _open_to_all()

    def work() -> None:
        with control.new_socket() as sock:
            sock.settimeout(60)
            sock.connect(path_of())
            hello = Attach(__version__, False, FIRST_BATCH)
            try:
                control.send(sock, hello)
                assert control.receive(sock, SHM_FROM_WORKER, max_fds=1) == (None, [])
            except (BrokenPipeError, ConnectionResetError):
                return  # it was closed even sooner

    as_nobody(work)
    assert health(client)["clients"] == 1
    assert f"user {_NOBODY} is not 0" in pool_log.read_text()
    assert client.call("echo", 1) == 1


def test_nobody_can_open_the_memory(share: Share) -> None:
    pid = health(share())["pid"]
    assert not [name for name in os.listdir("/dev/shm") if name.startswith(f"molt-{pid}-")]
    arenas = [
        f"/proc/{pid}/fd/{fd}"
        for fd in os.listdir(f"/proc/{pid}/fd")
        if os.readlink(f"/proc/{pid}/fd/{fd}").startswith("/dev/shm/molt-")
    ]
    assert arenas

    def work() -> None:
        for path in arenas:
            with pytest.raises(PermissionError):
                os.open(path, os.O_RDWR)

    as_nobody(work)


def test_a_socket_that_another_user_put_there_is_not_spoken_to() -> None:
    os.chmod(os.environ["MOLT_RUNTIME_DIR"], 0o777)
    path = path_of()
    ready_r, ready_w = os.pipe()
    over_r, over_w = os.pipe()

    def serve() -> None:
        os.close(over_w)
        os.setgid(_NOBODY)
        os.setuid(_NOBODY)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(path)
            listener.listen()
            os.write(ready_w, b"r")
            os.read(over_r, 1)

    pid = fork(serve)
    try:
        os.close(ready_w)
        assert os.read(ready_r, 1) == b"r"
        with pytest.raises(MoltWorkerUnavailable, match=f"is served by user {_NOBODY}, not by this one"):
            connect(path)
    finally:
        for fd in (over_w, over_r, ready_r):
            os.close(fd)
        assert exit_code(pid) == 0
