"""A worker's life, from its first fork server to its exit code: signals, event loop, reload and stop.

A supervisor never runs user code and never blocks: one thread turns one loop. The `Supervisor` of each transport, which
the `Worker` runs, decides how requests come and what becomes of them.
"""

from __future__ import annotations

import contextlib
import signal
import socket
from typing import Final, Protocol

from molt_accel.config import Config
from molt_accel.errors import MoltError, MoltStartFailed, MoltWorkerUnavailable, start_failure
from molt_worker.entrypoints.exports import ExportsError, check
from molt_worker.processes.commands import EXIT_BAD_EXPORTS
from molt_worker.processes.pool import Pool
from molt_worker.runtime.log import STDERR_FD, LogSink
from molt_worker.runtime.loop import READ, WRITE, EventLoop
from molt_worker.runtime.metrics import Counters

#: They tell a worker to finish, to stop, and to import the exports anew.
STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Supervisor(Protocol):
    """Serves clients over one transport, with a pool of executors."""

    pool: Pool

    def settle(self) -> None:
        """The loop has handled all events and is about to wait: do what follows from them."""

    def finished(self) -> bool:
        """Whether the worker may exit now. It is asked before the loop waits."""

    def on_timers(self, now_ns: int) -> None:
        """Do what is due, and tell the loop the next time."""

    def drain(self) -> None:
        """SIGTERM came: take no more clients or requests, and be finished when all requests have ended."""

    def stop(self, why: MoltError) -> None:
        """Stop now. Every request ends with this error."""

    def close(self) -> None:
        """The worker exits, and the processes of the pool are gone."""


class Worker:
    """What every supervisor needs: a loop, a log, counters, and whether it was told to finish."""

    def __init__(self, config: Config, log: LogSink) -> None:
        self.config: Final = config
        self.log: Final = log
        self.counters: Final = Counters()
        self.loop: Final = EventLoop(log)
        self.draining = False  #: it takes nothing new and finishes what it has
        self.stopping = False  #: it ends what it has
        self.exit_code = 0

    def run(self, supervisor: Supervisor) -> int:
        """Serve until told to stop. Returns the exit code."""
        signals: list[int] = []
        wake_r, wake_w = socket.socketpair()
        wake_r.setblocking(False)
        wake_w.setblocking(False)

        def heed_signals(_: int) -> None:
            with contextlib.suppress(BlockingIOError):
                wake_r.recv(4096)
            while signals:
                self._heed(signals.pop(0), supervisor)

        def on_time(now_ns: int) -> None:
            supervisor.on_timers(now_ns)
            supervisor.pool.on_timers(now_ns)

        try:
            for number in STOP_SIGNALS:
                signal.signal(number, lambda signum, _: signals.append(signum))
            signal.set_wakeup_fd(wake_w.fileno(), warn_on_full_buffer=False)
            self.loop.watch(wake_r.fileno(), READ, heed_signals)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
            supervisor.pool.start_forkserver()
            while True:
                supervisor.settle()
                if supervisor.finished():
                    break
                self.loop.watch(STDERR_FD, WRITE if self.log.pending else 0, lambda _: self.log.flush())
                self.loop.turn(on_time)
        finally:
            signal.set_wakeup_fd(-1)
            supervisor.pool.close()
            supervisor.close()
            self.loop.close()
            wake_r.close()
            wake_w.close()
        self.log.log("info", "worker_stopped", code=self.exit_code)
        return self.exit_code

    def reload(self, pool: Pool) -> None:
        """Import the exports anew, for executors that replace all others. A bad manifest changes nothing."""
        try:
            check(self.config.exports)
        except ExportsError as exc:
            self.log.log("error", "reload_failed", error=str(exc))
            pool.owner.on_reload_failed(MoltStartFailed(str(exc)))
            return
        self.log.log("info", "worker_reloading", exports=self.config.exports)
        pool.start_forkserver()

    def start_failed(self, why: MoltError) -> MoltWorkerUnavailable:
        """Log that the exports can't be imported, and set the exit code. Returns the error that requests end with."""
        self.exit_code = EXIT_BAD_EXPORTS
        self.log.log("error", "start_failed", error=why.detail)
        return start_failure(why)

    def _heed(self, number: int, supervisor: Supervisor) -> None:
        if number == signal.SIGHUP:
            self.reload(supervisor.pool)
        elif number == signal.SIGTERM and not self.draining:
            self.draining = True
            supervisor.drain()
        else:
            supervisor.stop(MoltWorkerUnavailable("the worker was told to stop"))
