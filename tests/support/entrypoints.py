"""Entrypoints for the tests: one for everything an entrypoint may do, good or bad."""

import collections
import itertools
import os
import signal
import sys
import time
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NoReturn, cast

import msgspec

from molt_worker import InvalidInput, current_request, export


@export
def echo(payload: Any) -> Any:
    return payload


@export(name="echo_json", codec_in="json", codec_out="json")
def echo_json(payload: Any) -> Any:
    return payload


@export(name="echo_raw", codec_in="raw", codec_out="raw")
def echo_raw(payload: bytes) -> bytes:
    return payload


@export(codec_out="json")
def to_json(payload: Any) -> Any:
    return payload


class Order(msgspec.Struct, forbid_unknown_fields=True):
    number: int
    lines: list[str] = []


class Receipt(msgspec.Struct):
    number: int
    count: int


@export
def order(order: Order) -> Receipt:
    return Receipt(order.number, len(order.lines))


@export(codec_in="json", codec_out="json")
def order_json(order: Order) -> Receipt:
    return Receipt(order.number, len(order.lines))


class SlowOrder(msgspec.Struct):
    """Takes for ever to be made."""

    path: str

    def __post_init__(self) -> None:
        Path(self.path).write_text(str(os.getpid()))
        time.sleep(1e6)


@export
def slow_order(order: SlowOrder) -> None:
    Path(order.path).write_text("reached")


@export
def wrong_receipt(order: Order) -> Receipt:
    """Gives something else than it says, which has no form at all."""
    return cast("Receipt", object())


@export
def pid(payload: object) -> int:
    return os.getpid()


@export
def request_facts(payload: object) -> dict[str, Any]:
    request = current_request()
    return {
        "request_id": request.request_id,
        "deadline": request.deadline,
        "remaining_ms": request.remaining_ms(),
        "cancelled": request.cancelled,
    }


@export
def wakeup_fd(payload: object) -> int:
    """Where this process writes the numbers of the signals that come; -1: nowhere."""
    return signal.set_wakeup_fd(-1)


@export
def sleep(seconds: float) -> str:
    time.sleep(seconds)
    return "slept"


@export
def announce_and_sleep(path: str) -> str:
    """Says that it runs by creating a file, and sleeps for ever."""
    Path(path).write_text(str(os.getpid()))
    time.sleep(1e6)
    return "slept"


@export
def spin(path: str) -> None:
    """Says that it runs, then a busy loop in Python."""
    Path(path).write_text(str(os.getpid()))
    while True:
        pass


@export
def stuck_in_c(path: str) -> None:
    """Says that it runs, in a loop in C that holds the GIL and never looks for signals."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    # From within the loop: who reads it may stop this at once, and in Python it would still give in.
    told = map(os.write, (fd,), (str(os.getpid()).encode(),))
    collections.deque(itertools.chain(told, itertools.repeat(0)), maxlen=0)


@export
def check_loop(path: str) -> None:
    """Says that it runs, then asks again and again whether it should stop."""
    Path(path).write_text(str(os.getpid()))
    while True:
        current_request().check()


@export
def clean_up(path: str) -> None:
    """Sleeps, and removes the file that it made when it is stopped."""
    try:  # from before the file is there: who waits for it may stop this at once
        Path(path).write_text(str(os.getpid()))
        time.sleep(1e6)
    finally:
        Path(path).unlink(missing_ok=True)


@export
def swallow_stop(path: str) -> str:
    Path(path).write_text(str(os.getpid()))
    try:
        time.sleep(1e6)
    except BaseException:
        return "swallowed"
    return "slept"


def sleep_through_everything() -> NoReturn:
    """For entrypoints that stop for nothing but SIGKILL."""
    while True:
        try:
            time.sleep(1e6)
        except BaseException:
            continue


@export
def never_stops(path: str) -> None:
    try:  # who waits for the file may stop this at once
        Path(path).write_text(str(os.getpid()))
    finally:
        sleep_through_everything()


@export
def wait_for_file(path: str) -> str:
    """Says that it runs (path + .running), then waits until the file exists."""
    Path(path + ".running").write_text(str(os.getpid()))
    while not os.path.exists(path):
        time.sleep(0.001)
    return "released"


@export
def fail(kind: str) -> None:
    raise {
        "value": ValueError("the secret is 42"),
        "invalid": InvalidInput("name: 'x' is not allowed"),
        "surrogate": InvalidInput("name: '\udc80' is not allowed"),
        "hostile": _HostileInput(),
        "exit": SystemExit(3),
        "interrupt": KeyboardInterrupt(),
        "memory": MemoryError(),
        "recursion": RecursionError("too deep"),
        "unprintable": _Unprintable(),
    }[kind]


@export
def not_found(text: str) -> None:
    from django.http import Http404

    raise Http404(text)


class _Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("can't even be printed")


class _HostileInput(InvalidInput):
    def __str__(self) -> str:
        raise RuntimeError("can't even be printed")


@export
def unencodable(payload: object) -> object:
    return object()


@export
def big(size: int) -> bytes:
    return b"x" * size


@export
def crash(how: dict[str, int]) -> None:
    """Dies: {"signal": 11} or {"exit": 3}."""
    if "signal" in how:
        signal.signal(how["signal"], signal.SIG_DFL) if how["signal"] not in (9, 19) else None
        os.kill(os.getpid(), how["signal"])
        time.sleep(60)
    os._exit(how["exit"])


@export
def close_all_fds(payload: object) -> None:
    """Closes the executor's own socket under it, and lives on."""
    os.closerange(3, 256)
    time.sleep(1e6)


@export
def print_noise(payload: str) -> str:
    """Writes to stdout in every way it can; none of it may reach the client's frames."""
    print(payload, flush=True)
    os.write(1, payload.encode())
    sys.stdout.flush()
    return "printed"


_hoard: list[bytearray] = []


@export
def hoard(megabytes: int) -> int:
    _hoard.append(bytearray(b"x") * (megabytes * 1024 * 1024))
    return os.getpid()


@export
def fds(payload: object) -> list[str]:
    return sorted(os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if _is_open(fd))


def _is_open(fd: str) -> bool:
    return os.path.lexists(f"/proc/self/fd/{fd}")


@export
def spawn_child(path: str) -> int:
    """Starts a process of its own that would live on, and gets stuck."""
    import subprocess

    Path(path).write_text(str(subprocess.Popen(["sleep", "1000"]).pid))
    while True:
        try:
            time.sleep(1e6)
        except BaseException:
            continue


@export
def start_and_sleep(path: str) -> None:
    """Starts a process of its own, and ends when it is told to."""
    import subprocess

    Path(path).write_text(str(subprocess.Popen(["sleep", "1000"]).pid))
    time.sleep(1e6)


@export
def import_from(folder: str) -> str:
    """Imports a module that takes its time, as a view's first call may."""
    if folder not in sys.path:
        sys.path.insert(0, folder)
    import slow_to_import  # type: ignore[import-not-found]

    return str(slow_to_import.VALUE)


_remembered: ContextVar[int | None] = ContextVar("_remembered", default=None)


@export
def remember(value: int) -> int | None:
    """What was remembered before, in this context."""
    before = _remembered.get()
    _remembered.set(value)
    return before


@export
def inherited_fds(payload: object) -> list[str]:
    """What a program that is executed here without closing anything has open."""
    import subprocess

    code = "from tests.support.entrypoints import fds; print(*fds(None))"
    done = subprocess.run([sys.executable, "-c", code], close_fds=False, capture_output=True, text=True)
    return done.stdout.split()


@export
def answer_twice(payload: object) -> int:
    os.fork()
    return os.getpid()


@export
def terminate_child(seconds: float) -> int | None:
    """Forks a process that sleeps and terminates it; its exit code, or None if it didn't heed that."""
    import multiprocessing

    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(seconds,))
    child.start()
    child.terminate()
    child.join(seconds / 2)
    return child.exitcode


@export
def append(line: dict[str, str]) -> None:
    """Adds a line to a file: that this ran, and when in relation to others."""
    with open(line["path"], "a") as file:
        file.write(line["text"] + "\n")


@export
def count_up(path: str) -> None:
    """Writes to a file without an end, so that one can see whether it still runs."""
    for number in itertools.count():
        Path(path).write_text(str(number))


@export
def told(payload: Any) -> Any:
    return [payload, current_request().metadata]


@export(name="told_raw", codec_in="raw")
def told_raw(payload: bytes) -> Any:
    return [payload, current_request().metadata]
