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
from typing import Final

from molt_accel.config import Config
from molt_accel.ipc.frame import encode
from molt_accel.ipc.stream import FrameStream
from molt_worker.entrypoints.exports import ExportTable
from molt_worker.entrypoints.request import StopWord
from molt_worker.processes.commands import FROM_EXECUTOR, FROM_FORKSERVER, Command, Spawn
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
        """The stop word of a slot."""
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


class ExecutorHandle:
    """One executor, as its supervisor sees it."""

    def __init__(
        self, number: int, parent: ForkserverHandle, sock: socket.socket, slot: int, config: Config
    ) -> None:
        self.number: Final = number
        self.forkserver: Final = parent
        self.slot: Final = slot
        self.word: Final = parent.words.word_of(slot)
        self.sock: Final = sock
        self.stream: Final = FrameStream(sock.fileno(), sock.fileno(), config.max_frame_bytes, FROM_EXECUTOR)
        self.state = ExecutorState.STARTING
        self.pid = 0  #: known once the fork server has forked it
        self.asked_ns: Final = time.monotonic_ns()  #: when the fork server was told to fork it
        self.kill_ns = 0  #: when to kill it if it isn't gone by then; 0: never


class ForkserverHandle:
    """A fork server, as its supervisor sees it: one import of the exports, and the parent of all executors with it."""

    def __init__(
        self, pid: int, control: socket.socket, config: Config, words: StopWords, started_ns: int
    ) -> None:
        self.pid: Final = pid
        self.control: Final = control
        self.stream: Final = FrameStream(control.fileno(), control.fileno(), messages=FROM_FORKSERVER)
        self.words: Final = words
        self.config: Final = config
        self.exports: ExportTable | None = None  #: known once it is ready
        self.sources: list[
            tuple[str, int]
        ] = []  #: files that it has imported, and when they were changed last
        self.announced = False  #: requests are checked against its exports
        self.started_ns: Final = started_ns
        self.heard_ns = started_ns  #: when it reported something last
        self.failure = ""

    @classmethod
    def start(
        cls, config: Config, words: StopWords, make_endpoint: MakeEndpoint, started_ns: int
    ) -> ForkserverHandle:
        """Fork a fork server from this process. Returns in this process only.

        Raises OSError: there is no memory, process or descriptor for it. There may be later.
        """
        control, child_end = socket.socketpair()
        supervisor_pid = os.getpid()
        pid = os.fork()
        if pid == 0:
            control.close()
            Forkserver(child_end, config, words.word_of, make_endpoint).main(supervisor_pid)
        child_end.close()
        control.setblocking(False)
        return cls(pid, control, config, words, started_ns)

    def spawn(self, number: int) -> ExecutorHandle | None:
        """Have an executor forked. None: the fork server has just gone.

        Raises OSError: there is no descriptor left for its socket. There may be one later.
        """
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
        return ExecutorHandle(number, self, sock, slot, self.config)

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
