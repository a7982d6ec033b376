"""The process that answers bare requests: on NATS, and on a TCP port beside it. Ends with its input.

python -m bench.cluster.responder URL
"""

from __future__ import annotations

import asyncio
import socket
import sys
import threading

from nats.aio.client import Client as NatsClient
from nats.aio.msg import Msg

from bench.cluster.names import LINK_PORT_BEHIND, SUBJECT


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


async def _main(url: str) -> None:
    host, _, port = url.rpartition("/")[2].partition(":")
    listening = socket.create_server((host, int(port) + LINK_PORT_BEHIND))
    threading.Thread(target=_accept, args=(listening,), daemon=True).start()
    client = NatsClient()
    await client.connect(url)
    await client.subscribe(SUBJECT, cb=_answer)
    await client.flush()
    print("responder_ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await client.close()


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1]))
