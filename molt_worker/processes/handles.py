"""The supervisor's handles of its children: what they are, how to speak to them. Policy is elsewhere."""

from __future__ import annotations

import contextlib
import enum
import heapq
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
from molt_worker.entrypoints.exports import ExportTable
from molt_worker.entrypoints.request import StopWord
from molt_worker.processes import forkserver as forkserver
from molt_worker.processes.endpoint import MakeEndpoint


class StopWords:
    """The page that supervisor and executors share, and no client can map: two words a slot, a cache line each.

    The stop word, and the claim: what an executor of shared memory says that it has (`layout.serial_of`; 0: nothing).
    A slot is an executor's place, from its start until it was reaped; whatever else is kept per executor
    in shared memory can go by the same number.
    """

    _STRIDE: Final = 8  # words; 64 bytes

    def __init__(self, slots: int) -> None:
        self.memory: Final = memoryview(mmap.mmap(-1, max(mmap.PAGESIZE, slots * self._STRIDE * 8))).cast("Q")
        self._free = list(range(slots))  # a heap
        self._lent: set[int] = set()

    def word_of(self, slot: int) -> StopWord:
        """The stop word of a slot."""
        return StopWord(self.memory, slot * self._STRIDE)

    def claim_of(self, slot: int) -> memoryview:
        """The claim of a slot, as memory of one word."""
        at = slot * self._STRIDE + 1
        return self.memory[at : at + 1]

    def claims(self) -> dict[int, int]:
        """By slot: the request that its executor says it has, until it was reaped (`layout.serial_of`).

        An executor says so before it claims a request and until it looks for the next one. So what is not in here is no
        executor's, whatever the arena says; what is may have just ended.
        """
        return {slot: serial for slot in self._lent if (serial := self.claim_of(slot)[0])}

    def is_claimed(self, channel: int) -> bool:
        """Whether an executor may still write to a channel of shared memory, whatever its state word says."""
        return any(serial >> 32 == channel for serial in self.claims().values())

    def lend(self) -> int:
        """The lowest free slot, its words cleared."""
        slot = heapq.heappop(self._free)
        self._lent.add(slot)
        self.word_of(slot).clear()
        self.claim_of(slot)[0] = 0
        return slot

    def give_back(self, slot: int) -> None:
        """Take a slot back, once its executor has been reaped."""
        heapq.heappush(self._free, slot)
        self._lent.discard(slot)

    @property
    def left(self) -> int:
        """How many can still be lent."""
        return len(self._free)


class ExecutorState(enum.Enum):
    """Where an executor is in its life."""

    STARTING = enum.auto()
    READY = enum.auto()  #: whether it is idle is known to whoever gives it requests
    GONE = enum.auto()  #: told to exit, killed, or its socket closed; waits to be reaped


class Executor:
    """One executor, as its supervisor sees it."""

    def __init__(
        self, number: int, parent: Forkserver, sock: socket.socket, slot: int, config: Config
    ) -> None:
        self.number: Final = number
        self.forkserver: Final = parent
        self.slot: Final = slot
        self.word: Final = parent.words.word_of(slot)
        self.sock: Final = sock
        self.stream: Final = FrameStream(sock.fileno(), sock.fileno(), config.max_frame_bytes)
        self.state = ExecutorState.STARTING
        self.pid = 0  #: known once the fork server has forked it
        self.asked_ns: Final = time.monotonic_ns()  #: when the fork server was told to
        self.kill_ns = 0  #: when to kill it if it isn't gone by then; 0: never


class Forkserver:
    """A fork server: one import of the exports, and the parent of the executors forked from it."""

    def __init__(
        self, config: Config, words: StopWords, make_endpoint: MakeEndpoint, started_ns: int
    ) -> None:
        self.words: Final = words
        self.config: Final = config
        self.exports: ExportTable | None = None  #: known once it is ready
        #: Files that it has imported, and when they were changed last.
        self.sources: list[tuple[str, int]] = []
        self.announced = False  #: requests are checked against its exports
        self.started_ns: Final = started_ns
        self.heard_ns = started_ns  #: when it reported something last
        self.failure = ""
        control, child_end = socket.socketpair()
        supervisor_pid = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            control.close()
            forkserver.main(child_end, config, words.word_of, make_endpoint, supervisor_pid)
        child_end.close()
        control.setblocking(False)
        self.control: Final = control
        self.stream: Final = FrameStream(control.fileno(), control.fileno())

    def spawn(self, number: int) -> Executor | None:
        """Have an executor forked, which builds its endpoint there; None if the fork server has just gone.

        Raises:
            OSError: there is no descriptor left for its socket. There may be one later.
        """
        sock, executor_end = socket.socketpair()
        slot = self.words.lend()
        sock.setblocking(False)
        command = encode(Frame(Kind.CONTROL, number, forkserver.SPAWN, generation=slot))
        try:
            socket.send_fds(self.control, [command], [executor_end.fileno()])
        except OSError:  # its end of file is about to be seen
            sock.close()
            self.words.give_back(slot)
            return None
        finally:
            executor_end.close()
        return Executor(number, self, sock, slot, self.config)

    def tell(self, command: str, executor: Executor) -> None:
        """Send INTERRUPT or KILL for an executor."""
        if self.control.fileno() < 0:
            return  # stopped, and its executors die with it; the number may be another descriptor's by now
        with contextlib.suppress(BrokenPipeError):  # its end of file is about to be seen
            self.stream.send(Frame(Kind.CONTROL, executor.number, command))

    def stop(self) -> None:
        """Close the control socket: the fork server kills its executors and exits."""
        self.control.close()

    def kill(self) -> None:
        """SIGKILL, which takes the executors along."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def reap(self) -> int:
        """Wait for its end. Returns the exit code, negative for a signal."""
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def decode_report(frame: Frame) -> int:
    """The pid or exit code in a fork server's report."""
    return int(codec.decode(Codec.MSGPACK, frame.payload))
