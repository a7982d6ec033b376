"""What every supervisor is: signals, an event loop, a pool, and a stop that leaves nothing behind.

A supervisor never runs user code and never blocks: one thread turns one loop. How requests come and what
they become is for a subclass, one for each way to talk to clients.
"""

from __future__ import annotations

import contextlib
import signal
import socket
from abc import ABC, abstractmethod
from typing import Final

from molt_accel.config import Config
from molt_accel.errors import MoltError, MoltStartFailed, MoltWorkerUnavailable
from molt_worker.entrypoints.exports import ExportsError, ExportTable, check
from molt_worker.processes import forkserver as wire
from molt_worker.processes.pool import Pool
from molt_worker.runtime.log import STDERR_FD, LogSink
from molt_worker.runtime.loop import READ, WRITE, EventLoop
from molt_worker.runtime.metrics import Counters

#: What a supervisor is told by signals: to finish, to stop, to import the exports anew.
STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Service(ABC):
    """A worker's life, from the first fork server to the exit code.

    Args:
        config: The worker's configuration.
        log: Where events go.
    """

    #: A subclass makes the pool that fits it, before `run`.
    _pool: Pool

    def __init__(self, config: Config, log: LogSink) -> None:
        self._config = config
        self._log = log
        self._counters = Counters()
        self._loop = EventLoop(log)
        self._exports: ExportTable | None = None  # None until they were imported
        self._signals: list[int] = []
        self._draining = False  # takes nothing new, finishes what it has
        self._stopping = False  # ends what it has
        self._exit_code = 0

    def run(self) -> int:
        """Serve until told to stop. Returns the exit code."""
        wake_r, wake_w = socket.socketpair()
        wake_r.setblocking(False)
        wake_w.setblocking(False)
        try:
            self._on_start()
            for number in STOP_SIGNALS:
                signal.signal(number, lambda signum, _: self._signals.append(signum))
            signal.set_wakeup_fd(wake_w.fileno(), warn_on_full_buffer=False)
            self._loop.watch(wake_r.fileno(), READ, lambda _: self._on_signals(wake_r))
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
            self._pool.start_forkserver()
            while not self._finished():
                self._before_turn()
                self._loop.watch(STDERR_FD, WRITE if self._log.pending else 0, lambda _: self._log.flush())
                self._loop.turn(self._on_time)
                self._loop.guard(self._after_turn)
        finally:
            signal.set_wakeup_fd(-1)
            self._pool.close()
            self._on_close()
            self._loop.close()
            wake_r.close()
            wake_w.close()
        self._log.log("info", "worker_stopped", code=self._exit_code)
        return self._exit_code

    # -- what a subclass does its own way ---------------------------------------------------------------

    @abstractmethod
    def _finished(self) -> bool:
        """Whether the worker may exit now; asked before each turn of the loop."""

    @abstractmethod
    def _on_drain(self) -> None:
        """It was told to stop when everything that was accepted is done."""

    @abstractmethod
    def _on_start(self) -> None:
        """`run` begins; `_on_close` will follow."""

    @abstractmethod
    def _before_turn(self) -> None:
        """The loop is about to wait."""

    @abstractmethod
    def _after_turn(self) -> None:
        """Everything that has happened was handled."""

    @abstractmethod
    def _on_timers(self, now_ns: int) -> None:
        """Something is due: look at everything that has a time, and tell the loop the next one."""

    @abstractmethod
    def _on_close(self) -> None:
        """`run` ends, whatever for; the processes of the pool are gone."""

    def _stop_all(self, why: MoltError) -> None:
        """Stop now: end every request with this error. Extend it with what holds requests."""
        del why
        self._stopping = True
        self._pool.stop()

    # -- what the pool tells ----------------------------------------------------------------------------

    def on_exports(self, exports: ExportTable) -> None:
        """The exports were imported, at start or at a reload."""
        if self._exports is not None:
            self._counters.reloads += 1
        self._exports = exports

    def on_start_failed(self, why: str) -> None:
        """The exports can't be imported, so there will never be an executor."""
        self._exit_code = wire.EXIT_BAD_EXPORTS
        self._log.log("error", "start_failed", error=why)
        self._stop_all(MoltStartFailed(f"the worker can't start: {why}"))

    # -- signals and timers -----------------------------------------------------------------------------

    def _on_signals(self, wake: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError):
            wake.recv(4096)
        while self._signals:
            number = self._signals.pop(0)
            if number == signal.SIGHUP:
                self._reload()
            elif number == signal.SIGTERM and not self._draining:
                self._draining = True
                self._on_drain()
            else:
                self._stop_all(MoltWorkerUnavailable("the worker was told to stop"))

    def _reload(self) -> None:
        try:
            check(self._config.exports)
        except ExportsError as exc:
            self._log.log("error", "reload_failed", error=str(exc))
            return
        self._log.log("info", "worker_reloading", exports=self._config.exports)
        self._pool.start_forkserver()

    def _on_time(self, now_ns: int) -> None:
        self._on_timers(now_ns)
        self._pool.on_timers(now_ns)
