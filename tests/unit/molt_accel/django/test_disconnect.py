"""molt_accel.django.disconnect: whether a request's client is still there."""

import asyncio
import socket
import struct
from collections.abc import Iterator

import pytest
from django.http import HttpRequest, HttpResponse
from django.test import AsyncRequestFactory
from rest_framework.request import Request

from molt_accel import Client, molt_offload
from molt_accel.django.disconnect import SocketHangup, cancel_check
from tests.support.processes import wait_until

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A connection: the server's end and the browser's."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        browser = socket.create_connection(listener.getsockname())
        served, _ = listener.accept()
    with served, browser:
        yield served, browser


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


def test_a_half_close_over_tcp_counts_unless_it_is_not_to(pair: Pair) -> None:
    served, browser = pair
    counts, does_not = SocketHangup(served), SocketHangup(served, at_half_close=False)
    browser.shutdown(socket.SHUT_WR)
    wait_until(counts)
    assert not does_not()
    browser.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    browser.close()
    wait_until(does_not)


def test_a_unix_socket_tells_a_half_close_from_an_end() -> None:
    served, proxy = socket.socketpair()
    with served, proxy:
        check = SocketHangup(served)
        proxy.shutdown(socket.SHUT_WR)
        assert not check()
        proxy.close()
        assert check()


def test_a_request_that_a_framework_has_wrapped_is_watched_too(get: HttpRequest, pair: Pair) -> None:
    served, browser = pair
    get.META["gunicorn.socket"] = served
    check = cancel_check(Request(get))
    assert check is not None
    assert not check()
    browser.close()
    wait_until(check)


def test_servers_that_hand_out_no_socket_have_no_check(get: HttpRequest) -> None:
    assert cancel_check(get) is None


def test_a_sync_view_called_in_an_event_loops_own_thread_is_answered(inline_client: Client) -> None:
    """It can't wait there for what the loop would do."""

    @molt_offload(entry="echo", client=inline_client, payload_builder=lambda _: 1)
    def view(request: HttpRequest) -> HttpResponse:
        return HttpResponse("here")

    async def call() -> HttpResponse:
        return view(AsyncRequestFactory().get("/"))

    assert asyncio.run(call()).content == b"1"
