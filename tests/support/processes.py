"""What pytest's tests and the long-running programs beside them need of processes."""

import contextlib
import os
import shlex
import sys
import threading
import time
import traceback
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import psutil


@contextlib.contextmanager
def closing_all(make: Callable[..., Any]) -> Iterator[Callable[..., Any]]:
    """Gives a function that does what `make` does; everything it returned is closed in the end."""
    with contextlib.ExitStack() as stack:
        yield lambda *args, **kwargs: stack.enter_context(contextlib.closing(make(*args, **kwargs)))


def logged_worker(log: Path, module: str = "molt_worker") -> str:
    """A command, for MOLT_WORKER_CMD, that starts a worker with this Python and appends what it says to a file."""
    script = f'MOLT_WORKER_LOG=stderr exec {shlex.quote(sys.executable)} -m {module} "$@" 2>>{shlex.quote(str(log))}'
    return shlex.join(["sh", "-c", script, "molt-worker"])


def marked(variable: str, value: str, known: Collection[int] = ()) -> list[psutil.Process]:
    """All processes, but for this one, that inherited an environment variable, whoever their parents are by now.

    `known` are the ids of processes that are not looked at: they were there before the variable was set.
    """
    found = []
    wanted = f"{variable}={value}".encode()
    for pid in psutil.pids():
        with contextlib.suppress(psutil.Error, OSError):
            # Read as it is: after each of some thousand tests psutil would take longer than the tests themselves.
            if pid in known or pid == os.getpid():
                continue
            if wanted in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                found.append(psutil.Process(pid))
    return found


def in_thread(work: Callable[..., object], *args: object) -> threading.Thread:
    """A thread that has begun to do this."""
    thread = threading.Thread(target=work, args=args)
    thread.start()
    return thread


def asleep(thread: threading.Thread) -> bool:
    """Whether a thread of this process waits for something."""
    stat = Path(f"/proc/self/task/{thread.native_id}/stat").read_text()
    return stat.rpartition(")")[2].split()[0] == "S"


def wait_until(condition: Callable[[], Any], timeout_s: float = 20) -> Any:
    """Ask until the condition holds and return what it said; fail after the time, generous on purpose."""
    until = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.002)
    return value


def wait_for_file(path: Path | str) -> str:
    """The content of a file once it exists and has one."""
    path = Path(path)
    return str(wait_until(lambda: path.exists() and path.read_text()))


def fork(work: Callable[[], object]) -> int:
    """Run `work` in a forked child, which ends at once whatever happens. Returns its pid.

    Its exit code is 0, or 1 if `work` raised and 2 if it returned False.
    """
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        code = 2 if work() is False else 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def exit_code(pid: int) -> int:
    """Wait for a child; its exit code, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
