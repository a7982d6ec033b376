"""A browser that hangs up in the middle of a request: its work stops, under every server."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from django.http import HttpRequest, HttpResponse
from django.test import AsyncRequestFactory

from molt_accel import Client, molt_offload
from molt_accel.django.disconnect import SocketHangup, check_for
from molt_accel.hangup import hangups
from tests.conftest import wait_for_file, wait_until
from tests.integration.django.servers import (
    GTHREAD_ONE,
    SYNC,
    UVICORN,
    Connection,
    Kind,
    Server,
    serving,
    with_path,
)

HANG_UP: dict[str, Callable[[Connection], None]] = {
    "close": Connection.close,
    "reset": Connection.reset,
    "shutdown": Connection.shut,
}
#: Kind of server and kind of view.
WAYS = [
    (SYNC, "offload"),
    (SYNC, "async"),
    (GTHREAD_ONE, "offload"),
    (GTHREAD_ONE, "async"),
    (UVICORN, "offload"),
    (UVICORN, "async"),
]


@pytest.fixture(params=WAYS, ids=[f"{kind.name}-{view}" for kind, view in WAYS])
def way(request: pytest.FixtureRequest) -> tuple[Kind, str]:
    kind: Kind
    kind, view = request.param
    return kind, view


@pytest.fixture
def server(way: tuple[Kind, str], transport: str, tmp_path: Path) -> Iterator[Server]:
    """A server whose worker has one executor, so that a request still running would block the next."""
    with serving(way[0], tmp_path / "server.log", TEST_EXECUTORS="1", MOLT_TRANSPORT=transport) as server:
        yield server


def test_the_work_of_a_browser_that_hangs_up_stops(
    server: Server, way: tuple[Kind, str], tmp_path: Path
) -> None:
    _, view = way
    executor = server.get(f"/{view}/pid/")
    for name, hang_up in HANG_UP.items():
        path = tmp_path / name
        with server.connection() as connection:
            connection.send(with_path(f"{view}/clean-up", path))
            wait_for_file(path)
            hang_up(connection)
            wait_until(lambda path=path: not path.exists())
        # It was stopped softly: the same executor is free again.
        assert server.get(f"/{view}/pid/") == executor


def test_browsers_that_stay_are_not_taken_for_gone(
    server: Server, way: tuple[Kind, str], tmp_path: Path
) -> None:
    kind, view = way
    with server.connection() as connection:
        # Pipelined: behind the request that runs there is one that nobody has read yet.
        path = tmp_path / "pipelining"
        connection.send(with_path(f"{view}/wait", path))
        wait_for_file(f"{path}.running")
        connection.write(b"GET /baseline/1/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        path.touch()
        assert connection.answer() == (200, b'"released"')
    if kind is SYNC:
        return  # it closes each connection
    with server.connection() as connection:
        for name in ("first", "second"):
            path = tmp_path / name
            connection.send(with_path(f"{view}/wait", path))
            wait_for_file(f"{path}.running")
            path.touch()
            assert connection.answer() == (200, b'"released"')


# -- the check itself ---------------------------------------------------------------------------------------


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A connection: the server's end and the browser's."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        browser = socket.create_connection(listener.getsockname())
        served, _ = listener.accept()
    with served, browser:
        yield served, browser


Pair = tuple[socket.socket, socket.socket]


def test_the_check_tells_a_hang_up_from_silence_and_from_data(pair: Pair) -> None:
    served, browser = pair
    check = SocketHangup(served)
    assert not check()
    browser.sendall(b"pipelined")
    wait_until(lambda: served.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
    assert not check()
    browser.close()
    wait_until(check)


def test_the_check_takes_a_closed_connection_for_a_hang_up(pair: Pair) -> None:
    served, _ = pair
    check = SocketHangup(served)
    served.close()
    assert check()


def test_servers_that_hand_out_no_socket_have_no_check(get: HttpRequest) -> None:
    assert check_for(get) is None


def test_a_sync_view_called_in_an_event_loops_own_thread_is_answered(inline_client: Client) -> None:
    """It can't wait there for what the loop would do."""

    @molt_offload(entry="echo", client=inline_client, payload_builder=lambda request: 1)
    def view(request: HttpRequest) -> HttpResponse:
        return HttpResponse("here")

    async def call() -> HttpResponse:
        return view(AsyncRequestFactory().get("/"))

    assert asyncio.run(call()).content == b"1"


# -- the watcher --------------------------------------------------------------------------------------------


def test_a_connection_that_was_watched_ends_when_its_owner_closes_it(pair: Pair) -> None:
    """Nothing of the watcher may keep it open: a browser that reads until the end would hang."""
    served, browser = pair
    browser.settimeout(20)
    called = threading.Event()
    with hangups.watching(served.fileno(), called.set):
        watcher = hangups._thread
        assert watcher is not None
        wait_until(lambda: asleep(watcher))
    served.close()
    assert browser.recv(1) == b""
    assert not called.is_set()


def asleep(thread: threading.Thread) -> bool:
    """Whether a thread waits in the kernel."""
    stat = Path(f"/proc/self/task/{thread.native_id}/stat").read_text()
    return stat.rpartition(")")[2].split()[0] == "S"


def test_watching_many_connections_calls_back_for_the_right_one() -> None:
    pairs = [socket.socketpair() for _ in range(20)]
    called = [threading.Event() for _ in pairs]
    try:
        with hangups.watching(pairs[0][0].fileno(), called[0].set):
            with hangups.watching(pairs[1][0].fileno(), called[1].set):
                pairs[1][1].close()
                assert called[1].wait(20)
            assert not called[0].is_set()
            pairs[0][1].close()
            assert called[0].wait(20)
    finally:
        for ends in pairs:
            for end in ends:
                end.close()
