"""molt_worker.bridge.http: GET and nothing else, and strangers that send anything or nothing."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from molt_accel.cluster.loop import new_event_loop
from molt_worker.bridge import http as module
from molt_worker.bridge.http import MAX_BYTES, MOST, Answer, serving


async def page(path: str) -> Answer:
    return Answer(200 if path == "/here" else 404, "text/plain", f"{path} ä")


def serve(test: Callable[[int], Awaitable[None]]) -> None:
    async def main() -> None:
        async with serving("127.0.0.1", 0, page) as port:
            await test(port)

    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(main())


async def exchange(port: int, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    try:
        return await reader.read()
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


@pytest.mark.parametrize("path", ["/here", "/here?a=b"])
def test_a_page_is_answered(path: str) -> None:
    async def test(port: int) -> None:
        answer = await exchange(port, f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        head, _, body = answer.partition(b"\r\n\r\n")
        assert body.decode() == "/here ä"
        assert head.split(b"\r\n") == [
            b"HTTP/1.1 200 OK",
            b"Content-Type: text/plain",
            b"Content-Length: 8",
            b"Connection: close",
        ]

    serve(test)


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        (b"GET /nowhere HTTP/1.1", b"404"),
        (b"POST /here HTTP/1.1", b"405"),
        (b"garbage", b"400"),
        (b"", b"400"),
    ],
)
def test_what_is_not_served_is_told(request_line: bytes, status: bytes) -> None:
    async def test(port: int) -> None:
        assert (await exchange(port, request_line + b"\r\n\r\n")).split(b" ")[1] == status

    serve(test)


def test_a_request_without_end_is_not_read_for_ever() -> None:
    async def test(port: int) -> None:
        assert await exchange(port, b"GET /" + b"x" * 4 * MAX_BYTES) == b""
        assert b"200 OK" in await exchange(port, b"GET /here HTTP/1.0\r\n\r\n")

    serve(test)


def test_who_says_nothing_is_left_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE_S", 0.05)

    async def test(port: int) -> None:
        assert await exchange(port, b"GET") == b""

    serve(test)


def test_there_are_never_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(port: int) -> None:
        idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(MOST)]
        assert await exchange(port, b"GET /here HTTP/1.1\r\n\r\n") == b""
        for reader, writer in idle:
            writer.write(b"GET /here HTTP/1.1\r\n\r\n")
            assert b"200 OK" in await reader.read()
            writer.close()
        assert b"200 OK" in await exchange(port, b"GET /here HTTP/1.1\r\n\r\n")

    serve(test)


def test_an_address_in_use_is_an_error() -> None:
    async def test(port: int) -> None:
        with pytest.raises(OSError):
            async with serving("127.0.0.1", port, page):
                pass

    serve(test)
