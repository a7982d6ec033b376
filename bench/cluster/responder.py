"""The process that answers bare requests: on NATS, and on a TCP port beside it. Ends with its input.

    python -m bench.cluster.responder URL [uvloop]

With uvloop it runs on that, and has a subject of its own and no port.
"""

from __future__ import annotations

import asyncio
import importlib
import socket
import sys
import threading

from nats.aio.client import Client as NatsClient
from nats.aio.msg import Msg

from bench.cluster.names import LINK_PORT_BEHIND, SUBJECT, UVLOOP_SUBJECT


def _echo(connection: socket.socket) -> None:
    with connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while data := connection.recv(4096):
            connection.sendall(data)


def _accept(listening: socket.socket) -> None:
    while True:
        connection, _ = listening.accept()
        threading.Thread(target=_echo, args=(connection,), daemon=True).start()


async def _answer(message: Msg) -> None:
    await message.respond(message.data)


def _listen(url: str) -> None:
    host, _, port = url.rpartition("/")[2].partition(":")
    listening = socket.create_server((host, int(port) + LINK_PORT_BEHIND))
    threading.Thread(target=_accept, args=(listening,), daemon=True).start()


async def _main(url: str, subject: str) -> None:
    client = NatsClient()
    await client.connect(url)
    await client.subscribe(subject, cb=_answer)
    await client.flush()
    print("responder_ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await client.close()


if __name__ == "__main__":
    if sys.argv[2:] == ["uvloop"]:
        with asyncio.Runner(loop_factory=importlib.import_module("uvloop").new_event_loop) as runner:
            runner.run(_main(sys.argv[1], UVLOOP_SUBJECT))
    else:
        _listen(sys.argv[1])
        asyncio.run(_main(sys.argv[1], SUBJECT))
