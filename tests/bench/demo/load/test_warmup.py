"""Proving that scenarios answer alike, and warming them up."""

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from bench.core import BenchError
from bench.demo.load.warmup import Alike, Target, warm_up

Answer = Callable[[str, bytes], tuple[int, bytes]]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.seen.append((self.command, self.path, body))  # type: ignore[attr-defined]
        status, answer = self.server.answer(self.path, body)  # type: ignore[attr-defined]
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_GET = _serve
    do_POST = _serve

    def log_message(self, *_: object) -> None:
        """Says nothing: a test's output is for its failure."""


@pytest.fixture
def serve() -> Iterator[Callable[[Answer], ThreadingHTTPServer]]:
    servers: list[ThreadingHTTPServer] = []

    def start(answer: Answer) -> ThreadingHTTPServer:
        server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        server.daemon_threads = True
        server.answer = answer  # type: ignore[attr-defined]
        server.seen = []  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


Serve = Callable[[Answer], ThreadingHTTPServer]


def target(name: str, server: ThreadingHTTPServer, **changes: object) -> Target:
    fields: dict[str, object] = {"method": "GET", "queries": ("a=1", "a=2"), "expect_key": "items"}
    return Target(name, server.server_address[1], "/list/", **(fields | changes))  # type: ignore[arg-type]


def verify_alike(targets: list[Target]) -> dict[str, Any]:
    alike = Alike()
    for each in targets:
        alike.prove(each)
    return alike.as_json()


def good(path: str, _body: bytes) -> tuple[int, bytes]:
    return 200, b'{"items": ["%s"]}' % path.encode()


def test_equal_answers_are_accepted_and_described(serve: Serve) -> None:
    targets = [target(name, serve(good)) for name in ("one", "two", "three")]
    told = verify_alike(targets)
    assert (told["scenarios"], told["requests"], told["bytes_equal"]) == (["one", "two", "three"], 2, True)
    assert len(told["sha256"]) == 64


def test_another_spelling_of_the_same_answer_is_told(serve: Serve) -> None:
    def spaced(path: str, body: bytes) -> tuple[int, bytes]:
        return 200, good(path, body)[1].replace(b" ", b"   ")

    assert verify_alike([target("one", serve(good)), target("two", serve(spaced))])["bytes_equal"] is False


def test_different_answers_are_refused(serve: Serve) -> None:
    def other(path: str, body: bytes) -> tuple[int, bytes]:
        return good(path, body) if path.endswith("a=1") else (200, b'{"items": []}')

    with pytest.raises(BenchError, match=r"two and one answer GET /list/\?a=2 differently"):
        verify_alike([target("one", serve(good)), target("two", serve(other))])


@pytest.mark.parametrize(
    ("status", "body", "complaint"),
    [
        (503, b"{}", "answered 503"),
        (200, b"", "answered without 'items'"),
        (200, b'{"other": 1}', "answered without 'items'"),
        (200, b"items", "answered no JSON"),
    ],
)
def test_a_bad_answer_is_refused(serve: Serve, status: int, body: bytes, complaint: str) -> None:
    with pytest.raises(BenchError, match=rf"two: GET /list/\?a=1 {complaint}"):
        verify_alike([target("one", serve(good)), target("two", serve(lambda _path, _body: (status, body)))])


def test_a_server_that_is_gone_is_named(serve: Serve) -> None:
    server = serve(good)
    gone = target("gone", server)
    server.shutdown()
    server.server_close()
    with pytest.raises(BenchError, match="gone: /list/ broke off"):
        verify_alike([gone])


def test_warming_up_sends_just_so_many_in_turn(serve: Serve) -> None:
    server = serve(good)
    warm_up(target("one", server), 21, 4)
    seen = server.seen  # type: ignore[attr-defined]
    assert len(seen) == 21
    assert sorted({path for _, path, _ in seen}) == ["/list/?a=1", "/list/?a=2"]


def test_warming_up_posts_its_body(serve: Serve) -> None:
    server = serve(lambda _path, body: (200, body))
    warm_up(target("one", server, method="POST", queries=("",), body=b'{"items": 1}'), 2, 8)
    assert server.seen == [("POST", "/list/", b'{"items": 1}')] * 2  # type: ignore[attr-defined]


def test_warming_up_stops_at_a_bad_answer(serve: Serve) -> None:
    server = serve(lambda _path, _body: (500, b"items"))
    with pytest.raises(BenchError, match="answered 500"):
        warm_up(target("one", server), 1000, 2)
    assert len(server.seen) < 1000  # type: ignore[attr-defined]
