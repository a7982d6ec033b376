"""Workers that follow a script: small programs that speak frames on stdin and stdout, well or badly."""

import shlex
import sys

#: What every script begins with. `requests()` yields frames until the client closes; `answer()` answers one.
_PRELUDE = """
import os, signal, sys, time
from molt_accel import codec
from molt_accel.errors import MoltWorkerUnavailable, Status, to_wire
from molt_accel.ipc.frame import encode
from molt_accel.ipc.messages import *
from molt_accel.ipc.stream import FrameStream

stream = FrameStream(0, 1, messages=STDIO_FROM_CLIENT)

def requests():
    while stream.fill() is not None:
        yield from stream.frames()

def answer(request, value=None, **fields):
    known = {"status": Status.OK, "generation": request.generation, "payload": codec.encode("msgpack", value)}
    stream.send(Response(request.request_id, **{**known, **fields}))

def fail_start(why):
    stream.send(StartFailed(to_wire(MoltWorkerUnavailable(why))))

def decoded(request):
    return codec.decode("msgpack", request.payload)

def echo():
    for request in requests():
        if isinstance(request, Request):
            answer(request, decoded(request))

def first_time(path):
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True
"""
_GREETING = "\nstream.send(Hello())\n"


def worker(script: str, *arguments: object, before: str = "") -> str:
    """The command of a worker: `before`, its greeting, then `script`. `arguments` are in ``sys.argv``."""
    return program(_PRELUDE + before + _GREETING + script, *arguments)


def program(script: str, *arguments: object) -> str:
    """The command of a program that knows nothing of frames."""
    return shlex.join([sys.executable, "-c", script, *map(str, arguments)])


ECHO = worker("echo()")
