"""The supervisor's handles of its children: what it knows of them, and how it speaks to them."""

from __future__ import annotations

import contextlib
import enum
import heapq
import mmap
import os
import signal
import socket
import time
from dataclasses import dataclass, field
from typing import Final

from molt_accel.config import Config
from molt_accel.errors import MoltError
from molt_accel.ipc.frame import encode
from molt_accel.ipc.stream import FrameStream
from molt_worker.entrypoints.exports import ExportTable
from molt_worker.entrypoints.request import StopWord
from molt_worker.processes.commands import FROM_EXECUTOR, FROM_FORKSERVER, Command, Sources, Spawn
from molt_worker.processes.endpoint import MakeEndpoint
from molt_worker.processes.forkserver import Forkserver


class StopWords:
    """Memory that supervisor and executors share, and no client can map. Each slot has two words on a cache line.

    The first is the stop word. The second is the claim: the serial of the request that the slot's executor has
    (`layout.serial_of`), or 0. An executor has its slot from its start until it was reaped; everything else that is
    kept for an executor in shared memory goes by the number of its slot.
    """

    _STRIDE: Final = 8  # words; 64 bytes

    def __init__(self, slots: int) -> None:
        self.memory: Final = memoryview(mmap.mmap(-1, max(mmap.PAGESIZE, slots * self._STRIDE * 8))).cast("Q")
        self._free = list(range(slots))  # a heap
        self._lent: set[int] = set()

    def word_of(self, slot: int) -> StopWord:
        return StopWord(self.memory, slot * self._STRIDE)

    def claim_of(self, slot: int) -> memoryview:
        """The claim of a slot, as memory of one word."""
        at = slot * self._STRIDE + 1
        return self.memory[at : at + 1]

    def claims(self) -> dict[int, int]:
        """The serials of the requests that executors say they have, by slot.

        An executor writes its claim before it claims a request in the arena, and keeps it until it looks for another.
        So a request that is not in here is no executor's, whatever the arena says. One that is may have just ended.
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

    def is_lent(self, slot: int) -> bool:
        """Whether an executor has the slot."""
        return slot in self._lent

    def give_back(self, slot: int) -> None:
        """Take a slot back, once its executor has been reaped."""
        heapq.heappush(self._free, slot)
        self._lent.discard(slot)

    @property
    def left(self) -> int:
        """How many slots are free."""
        return len(self._free)


class ExecutorState(enum.Enum):
    """Where an executor is in its life."""

    STARTING = enum.auto()
    READY = enum.auto()  #: idle or busy: the `Delivery` knows which
    GONE = enum.auto()  #: told to exit, killed, or its socket closed; waits to be reaped


@dataclass(eq=False)
class ExecutorHandle:
    """One executor, as its supervisor sees it."""

    number: int
    forkserver: ForkserverHandle
    sock: socket.socket
    slot: int
    state: ExecutorState = ExecutorState.STARTING
    pid: int = 0  #: known once the fork server has forked it
    asked_ns: int = field(default_factory=time.monotonic_ns)  #: when the fork server was told to fork it
    kill_ns: int = 0  #: when to kill it if it isn't gone by then; 0: never

    def __post_init__(self) -> None:
        self.word = self.forkserver.words.word_of(self.slot)
        max_frame_bytes = self.forkserver.config.max_frame_bytes
        self.stream = FrameStream(self.sock.fileno(), self.sock.fileno(), max_frame_bytes, FROM_EXECUTOR)


@dataclass(eq=False)
class ForkserverHandle:
    """A fork server, as its supervisor sees it: one import of the exports, and the parent of all executors with it."""

    pid: int
    control: socket.socket
    config: Config
    words: StopWords
    started_ns: int = field(default_factory=time.monotonic_ns)
    exports: ExportTable | None = None  #: known once it is ready
    sources: Sources | None = None  #: what its exports are made of; known a moment before them
    announced: bool = False  #: requests are checked against its exports
    failure: MoltError | None = None  #: why it ended, if that is known

    def __post_init__(self) -> None:
        self.heard_ns = self.started_ns  #: when it reported something last
        fd = self.control.fileno()
        self.stream = FrameStream(fd, fd, messages=FROM_FORKSERVER)

    @classmethod
    def start(
        cls, config: Config, words: StopWords, make_endpoint: MakeEndpoint, descriptors: tuple[int, ...] = ()
    ) -> ForkserverHandle:
        """Fork a fork server, which keeps these descriptors. Returns in this process only.

        Raises OSError: no memory or descriptor is left now.
        """
        control, child_end = socket.socketpair()
        supervisor_pid = os.getpid()
        pid = os.fork()
        if pid == 0:
            control.close()
            forkserver = Forkserver(child_end, config, words.word_of, make_endpoint, descriptors)
            forkserver.main(supervisor_pid)
        child_end.close()
        control.setblocking(False)
        return cls(pid, control, config, words)

    def spawn(self, number: int) -> ExecutorHandle | None:
        """Have an executor forked. None: the fork server has just gone. Raises OSError: no descriptor is left now."""
        sock, executor_end = socket.socketpair()
        slot = self.words.lend()
        sock.setblocking(False)
        try:
            socket.send_fds(self.control, [encode(Spawn(number, slot))], [executor_end.fileno()])
        except OSError:  # reading finds the end of its stream
            sock.close()
            self.words.give_back(slot)
            return None
        finally:
            executor_end.close()
        return ExecutorHandle(number, self, sock, slot)

    def tell(self, command: Command) -> None:
        """Send a command for one of its executors. The control socket must be open."""
        with contextlib.suppress(BrokenPipeError):  # reading finds the end of its stream
            self.stream.send(command)

    def stop(self) -> None:
        """Close the control socket: the fork server kills its executors and exits."""
        self.control.close()

    def kill(self) -> None:
        """SIGKILL the fork server. Its executors die with it."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def reap(self) -> int:
        """Wait for its end. Returns the exit code, negative for a signal."""
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
