"""As much of an HTTP server as a page of figures needs: GET, one answer a connection, and bounds for strangers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from http import HTTPStatus
from typing import Final, NamedTuple

log = logging.getLogger("molt_worker")

#: The longest request that is read, in bytes.
MAX_BYTES: Final = 8192
#: How long a request may take to come, and an answer to be taken, in s.
PATIENCE_S: Final = 5.0
#: So many connections are attended to at once; one more is closed at once.
MOST: Final = 32


class Answer(NamedTuple):
    """An HTTP answer."""

    status: int
    content_type: str
    body: str


#: Answers a GET of a path.
Page = Callable[[str], Awaitable[Answer]]


@contextlib.asynccontextmanager
async def serving(host: str, port: int, page: Page) -> AsyncIterator[int]:
    """Serve a page while the context lasts. Gives the port. Raises OSError: nobody may listen there.

    Args:
        host: Address or name to listen at.
        port: 0: any that is free.
        page: Makes the answers.
    """
    connections: set[asyncio.Task[None]] = set()

    def attend(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(connections) >= MOST:
            writer.close()
            return
        task = asyncio.create_task(_attend(reader, writer, page))
        connections.add(task)
        task.add_done_callback(connections.discard)

    server = await asyncio.start_server(attend, host, port, limit=MAX_BYTES)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)


async def _attend(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, page: Page) -> None:
    try:
        async with asyncio.timeout(PATIENCE_S):
            head = await reader.readuntil(b"\r\n\r\n")
            answer = await _answer(head, page)
            writer.write(_encoded(answer))
            await writer.drain()
            writer.close()
            await writer.wait_closed()
    except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as exc:
        log.debug("an HTTP client was not answered: %s", exc)
    finally:
        writer.close()


async def _answer(head: bytes, page: Page) -> Answer:
    words = head.partition(b"\r\n")[0].decode("latin-1").split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1."):
        return Answer(HTTPStatus.BAD_REQUEST, "text/plain", "not an HTTP request\n")
    if words[0] != "GET":
        return Answer(HTTPStatus.METHOD_NOT_ALLOWED, "text/plain", "GET only\n")
    return await page(words[1].partition("?")[0])


def _encoded(answer: Answer) -> bytes:
    body = answer.body.encode()
    status = HTTPStatus(answer.status)
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: {answer.content_type}\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode("latin-1") + body
