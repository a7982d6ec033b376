"""The supervisor's handles of its children: what they are, how to speak to them. Policy is elsewhere."""

from __future__ import annotations

import contextlib
import enum
import mmap
import os
import signal
import socket
import time
from typing import Final

from molt_accel import codec
from molt_accel.config import Config
from molt_accel.ipc.frame import Codec, Frame, Kind, encode
from molt_accel.ipc.stream import FrameStream
from molt_worker import template
from molt_worker.exports import ExportTable
from molt_worker.lifecycle import Request
from molt_worker.request import StopWord


class StopWords:
    """The page of stop words that supervisor and executors share: one word an executor, a cache line each."""

    _STRIDE: Final = 8  # words; 64 bytes

    def __init__(self, count: int) -> None:
        self._memory = mmap.mmap(-1, max(mmap.PAGESIZE, count * self._STRIDE * 8))
        self.words: Final = memoryview(self._memory).cast("Q")
        self._free = [index * self._STRIDE for index in reversed(range(count))]

    def lend(self) -> int:
        """The index of a free word, cleared."""
        index = self._free.pop()
        StopWord(self.words, index).clear()
        return index

    def give_back(self, index: int) -> None:
        """Take a word back, once its executor has been reaped."""
        self._free.append(index)

    @property
    def left(self) -> int:
        """How many can still be lent."""
        return len(self._free)


class ExecutorState(enum.Enum):
    """Where an executor is in its life."""

    STARTING = enum.auto()
    IDLE = enum.auto()
    BUSY = enum.auto()
    GONE = enum.auto()  #: told to exit, killed, or its socket closed; waits to be reaped


class Executor:
    """One executor, as its supervisor sees it."""

    def __init__(
        self, number: int, parent: Template, sock: socket.socket, index: int, config: Config
    ) -> None:
        self.number: Final = number
        self.template: Final = parent
        self.word_index: Final = index
        self.word: Final = StopWord(parent.words.words, index)
        self.sock: Final = sock
        self.stream: Final = FrameStream(sock.fileno(), sock.fileno(), config.max_frame_bytes)
        self.state = ExecutorState.STARTING
        self.pid = 0  #: known once the template has forked it
        self.asked_ns: Final = time.monotonic_ns()  #: when the template was told to
        self.served = 0
        self.serial = 0  #: of the request it was given last; the frame's generation on this socket
        self.request: Request | None = None
        self.recycle = False  #: has served enough; another one shall take its place
        self.retire = False  #: exits after its request
        self.replaces: Executor | None = None  #: retires that one as soon as this one is ready
        self.replacement: Executor | None = None
        self.kill_ns = 0  #: when to kill it if it isn't gone by then; 0: never

    @property
    def counts(self) -> bool:
        """Whether it is one of the pool's number, now or when it has started."""
        return self.state is not ExecutorState.GONE and self.replaces is None and not self.retire

    def untie(self) -> None:
        """From now on it replaces nobody and nobody replaces it; whoever did counts for itself."""
        if self.replaces is not None:
            self.replaces.replacement = None
            self.replaces = None
        if self.replacement is not None:
            self.replacement.replaces = None
            self.replacement = None


class Template:
    """A template process: one import of the exports, and the parent of the executors forked from it."""

    def __init__(self, config: Config, words: StopWords, started_ns: int) -> None:
        self.words: Final = words
        self.config: Final = config
        self.exports: ExportTable | None = None  #: known once it is ready
        self.announced = False  #: requests are checked against its exports
        self.started_ns: Final = started_ns
        self.heard_ns = started_ns  #: when it reported something last
        self.failure = ""
        control, child_end = socket.socketpair()
        supervisor_pid = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            control.close()
            template.main(child_end, config, words.words, supervisor_pid)
        child_end.close()
        control.setblocking(False)
        self.control: Final = control
        self.stream: Final = FrameStream(control.fileno(), control.fileno())

    def spawn(self, number: int) -> Executor | None:
        """Have an executor forked; None if the template is gone."""
        index = self.words.lend()
        sock, executor_end = socket.socketpair()
        sock.setblocking(False)
        command = encode(Frame(Kind.CONTROL, number, template.SPAWN, generation=index))
        try:
            socket.send_fds(self.control, [command], [executor_end.fileno()])
        except OSError:  # its end of file is about to be seen
            sock.close()
            self.words.give_back(index)
            return None
        finally:
            executor_end.close()
        return Executor(number, self, sock, index, self.config)

    def tell(self, command: str, executor: Executor) -> None:
        """Send INTERRUPT or KILL for an executor."""
        if self.control.fileno() < 0:
            return  # stopped, and its executors die with it; the number may be another descriptor's by now
        with contextlib.suppress(BrokenPipeError):  # its end of file is about to be seen
            self.stream.send(Frame(Kind.CONTROL, executor.number, command))

    def stop(self) -> None:
        """Close the control socket: the template kills its executors and exits."""
        self.control.close()

    def kill(self) -> None:
        """SIGKILL, which takes the executors along."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def reap(self) -> int:
        """Wait for its end. Returns the exit code, negative for a signal."""
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def exit_facts(code: int) -> dict[str, int | str]:
    """An exit code, negative for a signal, as the facts of a crash report."""
    return {"signal": -code} if code < 0 else {"exit_code": code}


def exit_text(code: int) -> str:
    """An exit code in words."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {-code} ({signal.Signals(-code).name})"
    except ValueError:
        return f"signal {-code}"


def decode_report(frame: Frame) -> int:
    """The pid or exit code in a template's report."""
    return int(codec.decode(Codec.MSGPACK, frame.payload))
