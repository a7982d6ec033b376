"""What is counted: each case does one thing as often as it is told. Runs below valgrind, in a process of its own.

python -m bench.instructions.cases CASE TIMES
"""

from __future__ import annotations

import contextvars
import multiprocessing
import os
import socket
import subprocess
import sys
import time
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from molt_accel import Client

#: Which pool `call` goes to, by name.
POOL: Final = "MOLT_INSTRUCTIONS_POOL"
#: The function of the C library at whose calls the counts are told apart; nothing else calls it.
MARK: Final = "getsid"
#: So many are done before, so that caches are warm and channels granted.
WARM: Final = 200

Step = Callable[[int], object]


def pipe() -> Step:
    """A small value through multiprocessing.Pipe: pickled, sent, received and unpickled."""
    here, there = multiprocessing.Pipe()

    def step(number: int) -> object:
        here.send(number)
        return there.recv()

    return step


def _client() -> Client:
    from molt_accel import Client

    return Client(transport="shm", worker_name=os.environ[POOL], exports="", autostart=False, spin_us=0)


def call() -> Step:
    """The caller's part of one `Client.call`, which never spins."""
    client = _client()
    return lambda number: client.call("echo", number)


def _answer(request: Any) -> Any:
    from molt_accel.django import json_response

    return json_response(7)


def plain_view() -> Step:
    """A view of Django that answers with a small value as JSON."""
    return _view(lambda view: view)


def view() -> Step:
    """The same view with its core offloaded: the server's part."""
    from molt_accel import molt_offload

    return _view(molt_offload(entry="echo", client=_client(), payload_builder=lambda request: 7))


def _view(decorate: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Step:
    from django.conf import settings
    from django.test import RequestFactory

    if not settings.configured:
        settings.configure()
    connection, peer = socket.socketpair()
    request = RequestFactory().get("/", **{"gunicorn.socket": connection})  # type: ignore[arg-type]
    answered = decorate(_answer)

    def step(number: int) -> object:
        return answered(request)

    for each in (connection, peer):
        weakref.finalize(step, each.close)
    return step


def run() -> Step:
    """The executor's part but for the ring: find the entrypoint, decode, run it, encode."""
    from molt_accel.ipc.messages import Codec, Request
    from molt_worker.entrypoints.exports import Export, ExportTable
    from molt_worker.entrypoints.request import StopWord
    from molt_worker.entrypoints.runner import Runner

    export = Export("echo", "none:echo", Codec.MSGPACK, Codec.MSGPACK, lambda payload: payload, False)
    word = StopWord(memoryview(bytearray(8)).cast("Q"), 0)
    runner = Runner(ExportTable([export]), word, lambda *row: None)
    request = Request(1, "echo", b"\x07", Codec.MSGPACK)

    def step(number: int) -> object:
        request.sent_ns = time.monotonic_ns()
        return runner.run(request, number)

    return step


def serve() -> Step:
    """All of an executor's part: claim the request of another process, read, run and answer it. It never spins."""
    from molt_accel.config import Config
    from molt_accel.ipc.messages import Codec, Request
    from molt_accel.ipc.shm import arena
    from molt_worker.entrypoints.exports import Export, ExportTable
    from molt_worker.entrypoints.request import StopWord
    from molt_worker.entrypoints.runner import Runner
    from molt_worker.processes.shm_endpoint import ShmEndpoint

    shared, descriptor = arena.create(arena.Geometry(channels=4, slots=1, ring_bytes=65536))
    shared.set_in_use(1)
    ours, theirs = socket.socketpair()
    endpoint = ShmEndpoint(ours, 1, 0, shared, Config.load(environ={}))
    endpoint.announce()
    export = Export("echo", "none:echo", Codec.MSGPACK, Codec.MSGPACK, lambda payload: payload, False)
    runner = Runner(ExportTable([export]), StopWord(memoryview(bytearray(8)).cast("Q"), 0), lambda *row: None)
    context, run = contextvars.copy_context(), runner.run
    program = [sys.executable, "-m", "bench.instructions.feeder", str(descriptor)]
    feeder = subprocess.Popen(program, pass_fds=[descriptor])  # which valgrind doesn't follow

    def step(number: int) -> object:
        request = endpoint.receive()
        assert isinstance(request, Request)
        # As in `molt_worker.processes.executor.serve`.
        response = context.copy().run(run, request, endpoint.serial)
        endpoint.answer(request, response)
        return response

    def end() -> None:
        feeder.kill()
        feeder.wait()
        ours.close()
        theirs.close()
        os.close(descriptor)

    weakref.finalize(step, end)
    return step


def ring() -> Step:
    """A request and its response through the ring, both sides: publish, claim, read, reply, take."""
    from molt_accel.errors import Status
    from molt_accel.ipc.messages import Codec, Request, Response
    from molt_accel.ipc.shm import arena
    from molt_accel.ipc.shm.layout import NEVER, Outcome, SlotGauge

    core: Any = arena.native()
    shared, descriptor = arena.create(arena.Geometry(channels=4, slots=1, ring_bytes=65536))
    os.close(descriptor)
    shared.set_in_use(1)
    channel, slot = core.Channel(shared, 0, 65536), core.Slot(shared, 0, 1)
    slot.open()
    request = Request(1, "echo", b"\x07", Codec.MSGPACK)
    response = Response(1, Status.OK, b"\x07")
    gauge = SlotGauge.OUTCOMES + Outcome.Ok

    def step(number: int) -> object:
        channel.publish(request, 1, 0)
        slot.next()
        slot.receive(65536)
        slot.reply(response, 65536, gauge)
        channel.wait(NEVER)
        got = channel.take()
        channel.clear()
        return got

    return step


CASES: Final[dict[str, Callable[[], Step]]] = {
    each.__name__: each for each in (pipe, call, plain_view, view, run, serve, ring)
}


def main() -> None:
    """Do one case, as the arguments say, between two marks."""
    step, mark = CASES[sys.argv[1]](), getattr(os, MARK)
    for number in range(WARM):
        step(number)
    mark(0)
    for number in range(int(sys.argv[2])):
        step(number)
    mark(0)
    if getattr(step(0), "status_code", 200) != 200:  # of a view: a refusal is no answer
        sys.exit(f"the case {sys.argv[1]!r} was answered with an error")


if __name__ == "__main__":
    main()
