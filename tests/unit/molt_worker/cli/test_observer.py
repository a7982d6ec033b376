"""molt_worker.cli.observer: which pools are served."""

import os
import socket
from pathlib import Path

import pytest

from molt_accel.ipc import control
from molt_worker.cli.observer import pools_in


def listen(directory: Path, name: str) -> socket.socket:
    sock = control.new_socket()
    sock.bind(control.socket_path(str(directory), name))
    sock.listen()
    return sock


@pytest.fixture
def directory() -> Path:
    return Path(os.environ["MOLT_RUNTIME_DIR"])


def test_served_pools_are_told_from_what_others_left(directory: Path) -> None:
    listen(directory, "left").close()
    (directory / "b.lock").touch()
    (directory / "file.sock").touch()
    with listen(directory, "b"), listen(directory, "a"):
        assert list(pools_in(str(directory))) == ["a", "b"]


def test_another_user_s_pool_is_not_listed(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with listen(directory, "b"):
        monkeypatch.setattr(os, "getuid", lambda: -1)
        assert list(pools_in(str(directory))) == []


def test_no_directory_has_no_pools() -> None:
    assert list(pools_in("/no/such/directory")) == []
