"""The pool of executors: how many there are, how they start, and when one is replaced.

The pool knows fork servers and executors, but no requests. A `Delivery` brings requests to executors, and the
`PoolOwner` decides what becomes of a request when its executor answers or dies. What the pool does to an executor:

| verb | what is done | when |
|---|---|---|
| start | the fork server forks it, in a free slot | fewer than `config.pool_size` live, or one is recycled |
| recycle | it serves until the successor that is started is ready | it served enough or grew, or exports are newer |
| retire | its socket is closed, so that it exits | its successor is ready and it has no request |
| kill | SIGKILL | it hung up, broke the protocol, did not start or exit in time, or its request did not stop |
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from typing import Final

import psutil

from molt_accel.config import Config
from molt_accel.durations import NS_PER_MS, NS_PER_S
from molt_accel.errors import MoltStartFailed, Status, from_wire
from molt_accel.ipc.failpoint import failpoint
from molt_accel.ipc.frame import FrameError, Item
from molt_accel.ipc.messages import Hello, Request, StartFailed
from molt_accel.ipc.outcomes import exit_text
from molt_worker.entrypoints.exports import Export, ExportTable
from molt_worker.entrypoints.request import StopReason
from molt_worker.processes import sources
from molt_worker.processes.commands import Command, Exited, Interrupt, Kill, Ready, Sources, Spawned
from molt_worker.processes.delivery import Delivery, PoolOwner
from molt_worker.processes.handles import ExecutorHandle, ExecutorState, ForkserverHandle, StopWords
from molt_worker.processes.replacement import Replacements
from molt_worker.runtime.log import LogSink
from molt_worker.runtime.loop import EventLoop
from molt_worker.runtime.metrics import Counters

_EXIT_NS: Final = 2 * NS_PER_S  #: how long an idle executor may take to exit once its socket is closed
#: How long the fork server may be silent while it is asked to fork. A fork takes milliseconds.
_STALL_NS: Final = 5 * NS_PER_S
_RSS_CHECK_NS: Final = NS_PER_S
_FIRST_RESPAWN_NS: Final = 100 * NS_PER_MS
_MAX_RESPAWN_NS: Final = 5 * NS_PER_S
#: How long the fork server may take to kill its executors and exit when the worker stops.
_STOP_S: Final = 2.0


@dataclass(eq=False)
class Pool:
    """`config.pool_size` executors, forked from the newest fork server."""

    config: Config
    loop: EventLoop
    log: LogSink
    counters: Counters
    #: A slot for each executor that was not reaped. With no more slots than executors and their successors need, a
    #: reload waits until executors have exited.
    words: StopWords
    delivery: Delivery
    owner: PoolOwner

    def __post_init__(self) -> None:
        self.size = self.config.pool_size
        #: The exports of all executors that get new requests; None until they are imported.
        self.exports: ExportTable | None = None
        self._executors: dict[int, ExecutorHandle] = {}
        self._replacements: Replacements[ExecutorHandle] = Replacements()
        self._numbers = 0
        self._forkservers: list[ForkserverHandle] = []  # the newest last; older ones still have executors
        self._boot_deaths = 0
        self._start_not_before_ns = 0
        self._starved = False  # of descriptors, so that no executor can be started
        self._forkserver_at_ns = 0  # when to start another fork server; 0: not planned
        self._next_rss_ns = 0
        self._stopping = False

    # -- start, reload, stop ----------------------------------------------------------------------------

    def start_forkserver(self) -> None:
        """Import the exports in a new fork server; when it is ready, its executors replace all others."""
        self._forkserver_at_ns = 0
        try:
            forkserver = ForkserverHandle.start(
                self.config, self.words, self.delivery.make_endpoint, self.delivery.descriptors
            )
        except OSError as exc:  # no memory or no descriptor for it; there may be later
            self.log.log("error", "forkserver_not_started", error=str(exc))
            self._forkserver_at_ns = self.loop.at(self._back_off())
            return
        self._forkservers.append(forkserver)
        self.loop.at(forkserver.started_ns + self.config.start_timeout_ms * NS_PER_MS)
        self._watch_forkserver(forkserver)

    @property
    def folders(self) -> tuple[str, ...]:
        """The folders of the project, as the newest fork server knows them."""
        known = self._forkservers[-1].sources if self._forkservers else None
        return known.folders if known is not None else ()

    def is_outdated(self) -> bool:
        """Whether sources of the project are not what they were when the newest fork server imported the exports."""
        known = self._forkservers[-1].sources if self._forkservers else None
        return known is not None and sources.changed(known)

    def older(self) -> list[ExecutorHandle]:
        """Executors that were not reaped, and are not of the newest import of the exports, done or under way."""
        newest = self._forkservers[-1] if self._forkservers else None
        return [executor for executor in self._executors.values() if executor.forkserver is not newest]

    @property
    def is_reloading(self) -> bool:
        """Whether executors that are not of the newest import still get new requests."""
        return bool(self._forkservers) and not self._forkservers[-1].announced

    def stop(self) -> None:
        """Start no more processes from now on."""
        self._stopping = True

    def close(self) -> None:
        """Kill and reap what is left."""
        self.stop()
        for forkserver in self._forkservers:
            forkserver.stop()
        until_s = time.monotonic() + _STOP_S
        for forkserver in self._forkservers:
            # A fork server kills its executors and exits, unless it is in the middle of an import.
            with contextlib.suppress(psutil.TimeoutExpired):
                psutil.Process(forkserver.pid).wait(timeout=max(0.05, until_s - time.monotonic()))
                continue
            forkserver.kill()
            forkserver.reap()
        for executor in self._executors.values():
            executor.sock.close()

    def on_timers(self, now_ns: int) -> None:
        """Do what is due, and tell the loop when to call again."""
        for executor in self._executors.values():
            if executor.kill_ns and executor.kill_ns <= now_ns:
                executor.kill_ns = now_ns + _EXIT_NS
                self._tell(executor, Kill(executor.number))
            self.loop.at(executor.kill_ns)
        if self._forkserver_at_ns and self._forkserver_at_ns <= now_ns:
            self._forkserver_at_ns = 0
            if not self._stopping:
                self.start_forkserver()
        self.loop.at(self._forkserver_at_ns)
        self._check_forkservers(now_ns)
        self._check_rss(now_ns)
        self._fill()

    def holder(self, slot: int, serial: int) -> ExecutorHandle | None:
        """The living executor in a slot, if it says that it has the request with this serial."""
        if self.words.claims().get(slot) != serial:
            return None
        return next((executor for executor in self.living() if executor.slot == slot), None)

    def living(self) -> list[ExecutorHandle]:
        """Executors that start or serve, also those that will retire when they have no request."""
        return [each for each in self._executors.values() if each.state is not ExecutorState.GONE]

    def replaced(self) -> list[ExecutorHandle]:
        """Executors whose successors are ready, and that have not exited yet."""
        return [executor for executor in self.living() if self._replacements.replaced(executor)]

    @property
    def forkserver_pid(self) -> int:
        """The process that executors are forked from, or will be when it has imported the exports; 0: none."""
        forkserver = self._newest_ready() or next(reversed(self._forkservers), None)
        return forkserver.pid if forkserver is not None else 0

    # -- what is done to an executor --------------------------------------------------------------------

    def poll(self, executor: ExecutorHandle) -> None:
        """Handle messages of an executor that the loop has not seen yet."""
        while executor.state is not ExecutorState.GONE and executor.stream.wait_readable(0):
            self._on_readable(executor)

    def kill(self, executor: ExecutorHandle) -> None:
        """SIGKILL an executor and replace it. `on_closed` is not called for it.

        Its request has ended; over shared memory it is KILLING, and ends once the executor is reaped.
        """
        executor.state = ExecutorState.GONE
        self._tell(executor, Kill(executor.number))
        failpoint("supervisor.killed")
        self._drop(executor)

    def send(self, executor: ExecutorHandle, message: Request) -> None:
        """Send an executor a request. If it has just died, this calls the owner's `on_closed`."""
        try:
            executor.stream.send(message)
        except BrokenPipeError:
            self._on_eof(executor)
            return
        if executor.stream.pending_bytes:
            self._watch(executor)

    def interrupt(self, executor: ExecutorHandle, serial: int, reason: StopReason) -> None:
        """Raise in the request that has this serial, if the executor runs it."""
        executor.word.stop(serial, reason)
        failpoint("supervisor.interrupting")
        self._tell(executor, Interrupt(executor.number))

    def recycle(self, executor: ExecutorHandle, why: str) -> None:
        """Have an executor replaced. It serves on until its successor is ready."""
        if executor.state is not ExecutorState.GONE and self._replacements.recycle(executor):
            self.counters.recycled += 1
            served = self.delivery.served(executor)
            self.log.log("info", "executor_recycled", executor=executor.number, why=why, served=served)
            self._fill()

    def retire(self, executor: ExecutorHandle) -> None:
        """Close the socket of an executor that has no request, which makes it exit."""
        self._replacements.forget(executor)
        executor.kill_ns = self.loop.at(time.monotonic_ns() + _EXIT_NS)
        executor.state = ExecutorState.GONE
        self.loop.watch(executor.sock.fileno(), 0)
        executor.sock.close()

    # -- executors --------------------------------------------------------------------------------------

    def _fill(self) -> None:
        """Start executors that are missing, and successors of those that are recycled or outdated."""
        newest = self._newest_ready()
        if newest is None or self._stopping:
            return
        now_ns = time.monotonic_ns()
        if now_ns < self._start_not_before_ns:
            self.loop.at(self._start_not_before_ns)
            return
        counted = self._counted()
        missing: list[ExecutorHandle | None] = [None] * (self.size - len(counted))
        outdated = [
            executor
            for executor in counted
            if not self._replacements.has_successor(executor)
            and (self._replacements.is_recycled(executor) or executor.forkserver is not newest)
        ]
        for old in missing + outdated:
            new = self._start(newest)
            if new is None:
                self.loop.at(now_ns + _FIRST_RESPAWN_NS)
                return
            if old is not None:
                self._replacements.prepare(old, new)

    def _counted(self) -> list[ExecutorHandle]:
        """Executors that count for the pool's size. An executor and its starting successor count as one."""
        return [executor for executor in self.living() if self._replacements.counts(executor)]

    def _newest_ready(self) -> ForkserverHandle | None:
        return next((each for each in reversed(self._forkservers) if each.exports is not None), None)

    def _start(self, forkserver: ForkserverHandle) -> ExecutorHandle | None:
        """Start an executor. None: there is no slot or descriptor for it now, or the fork server has just died."""
        try:
            executor = forkserver.spawn(self._numbers + 1) if self.words.left else None
        except OSError as exc:
            if not self._starved:  # log this once, and not at each of ten attempts a second
                self.log.log("error", "executor_not_started", error=str(exc))
            self._starved = True
            return None
        if executor is None:
            return None
        self._starved = False
        self._numbers += 1
        self.counters.executor_starts += 1
        self._executors[executor.number] = executor
        executor.kill_ns = self.loop.at(executor.asked_ns + self.config.start_timeout_ms * NS_PER_MS)
        self.loop.at(executor.asked_ns + _STALL_NS)
        self._watch(executor)
        return executor

    def _watch(self, executor: ExecutorHandle) -> None:
        self.loop.watch_stream(executor.stream, lambda: self._on_readable(executor))

    def _on_readable(self, executor: ExecutorHandle) -> None:
        """Handle what an executor sent, and its end."""
        if executor.state is ExecutorState.GONE:
            return
        still_open = executor.stream.fill() is not None
        for item in executor.stream.frames():
            if isinstance(item, FrameError) or not self._on_frame(executor, item):
                why = item.detail if isinstance(item, FrameError) else f"unexpected {type(item).__name__}"
                self.log.log("error", "executor_broke_protocol", executor=executor.number, error=why)
                still_open = False
                break
        if not still_open:
            self._on_eof(executor)

    def _on_frame(self, executor: ExecutorHandle, item: Item) -> bool:
        """False if the executor broke the protocol."""
        if executor.state is ExecutorState.READY:
            return self.owner.on_message(executor, item)
        if executor.state is ExecutorState.GONE or not isinstance(item, Hello):
            return False
        self._boot_deaths = 0
        executor.kill_ns = 0
        executor.state = ExecutorState.READY
        old = self._replacements.take_over(executor)
        self.owner.on_executor_ready(executor)
        if old is not None and self.delivery.withdraw(old):
            self.retire(old)
        self._announce_exports()
        return True

    def _on_eof(self, executor: ExecutorHandle) -> None:
        """An executor closed its socket. It may live on, so have it killed; its exit code is still to come."""
        if executor.state is ExecutorState.GONE:
            return
        if executor.state is ExecutorState.STARTING:
            self._start_not_before_ns = self._back_off()
        executor.state = ExecutorState.GONE
        self._tell(executor, Kill(executor.number))
        self.owner.on_closed(executor)
        self._drop(executor)

    def _back_off(self) -> int:
        """Count a start that failed. Returns the time of the next one."""
        self._boot_deaths += 1
        delay_ns = min(_MAX_RESPAWN_NS, _FIRST_RESPAWN_NS << min(self._boot_deaths - 1, 16))
        return time.monotonic_ns() + delay_ns

    def _drop(self, executor: ExecutorHandle) -> None:
        """Stop reading from an executor that is being killed, and start another in its place."""
        self.loop.watch(executor.sock.fileno(), 0)
        if not self._replacements.replaced(executor):
            self.counters.executor_deaths += 1
        self._replacements.forget(executor)
        self._announce_exports()
        self._fill()

    def _on_exited(self, executor: ExecutorHandle, exit_code: int | None) -> None:
        """An executor was reaped. An answer may still be on its socket."""
        self.poll(executor)
        self._on_eof(executor)
        self.owner.on_reaped(executor, exit_code)
        executor.sock.close()
        del self._executors[executor.number]
        self.words.give_back(executor.slot)

    def _check_rss(self, now_ns: int) -> None:
        """Recycle executors that have served and use more memory than `max_rss_mb`."""
        if not self.config.max_rss_mb or self._stopping:
            return
        if now_ns >= self._next_rss_ns:
            self._next_rss_ns = now_ns + _RSS_CHECK_NS
            for executor in filter(self.delivery.served, self.living()):
                with contextlib.suppress(psutil.Error):
                    if psutil.Process(executor.pid).memory_info().rss > self.config.max_rss_mb * 2**20:
                        self.recycle(executor, "max_rss_mb")
        self.loop.at(self._next_rss_ns)

    # -- fork servers --------------------------------------------------------------------------------------

    def _watch_forkserver(self, forkserver: ForkserverHandle) -> None:
        self.loop.watch_stream(forkserver.stream, lambda: self._on_forkserver(forkserver))

    def _tell(self, executor: ExecutorHandle, command: Command) -> None:
        """Send a command for an executor to its fork server."""
        forkserver = executor.forkserver
        # A fork server that was stopped has no socket any more, and its executors die with it.
        if forkserver.control.fileno() >= 0:
            forkserver.tell(command)
            self._watch_forkserver(forkserver)

    def _on_forkserver(self, forkserver: ForkserverHandle) -> None:
        still_open = forkserver.stream.fill() is not None
        forkserver.heard_ns = time.monotonic_ns()
        for item in forkserver.stream.frames():
            if isinstance(item, FrameError):
                forkserver.failure = MoltStartFailed(f"the fork server broke the protocol: {item.detail}")
                still_open = False
                break
            self._on_report(forkserver, item)
        if not still_open:
            self._on_forkserver_gone(forkserver)

    def _on_report(self, forkserver: ForkserverHandle, report: Item) -> None:
        if isinstance(report, StartFailed):
            forkserver.failure = from_wire(Status.INTERNAL_ERROR, report.error)
        elif isinstance(report, Sources):
            forkserver.sources = report
        elif isinstance(report, Ready):
            self._on_forkserver_ready(forkserver, report)
        elif isinstance(report, Spawned | Exited) and report.executor in self._executors:
            executor = self._executors[report.executor]
            if isinstance(report, Spawned):
                executor.pid = report.pid
            else:
                self._on_exited(executor, report.exit_code)
                self._retire_forkservers()

    def _on_forkserver_ready(self, forkserver: ForkserverHandle, report: Ready) -> None:
        forkserver.exports = ExportTable(
            Export(
                *(row.name, row.target, row.codec_in, row.codec_out),
                compiled=row.compiled,
                max_concurrency=row.max_concurrency,
                priority=row.priority,
            )
            for row in report.exports
        )
        counts = {"count": len(forkserver.exports), "compiled": len(forkserver.exports.compiled)}
        self.log.log("info", "exports_loaded", **counts, forkserver=forkserver.pid)
        if forkserver is self._newest_ready():  # else a later reload has overtaken this one
            for executor in self.living():
                if executor.forkserver is not forkserver and executor.state is ExecutorState.STARTING:
                    self.kill(executor)  # its code is outdated before it has begun
            self._announce_exports()
            if self.config.max_rss_mb:
                self.loop.at(time.monotonic_ns() + _RSS_CHECK_NS)
        self._retire_forkservers()
        self._fill()

    def _announce_exports(self) -> None:
        """Tell the owner of new exports, once no request can go to an executor that doesn't have them."""
        newest = self._newest_ready()
        if newest is None or newest.exports is None or newest.announced:
            return
        if all(executor.forkserver is newest for executor in self._counted()):
            newest.announced = True
            if self.exports is not None:
                self.counters.reloads += 1
            self.exports = newest.exports
            self.owner.on_exports(newest.exports)

    def _on_forkserver_gone(self, forkserver: ForkserverHandle) -> None:
        """A fork server exited or was killed, and its executors die with it."""
        was_newest = forkserver is self._newest_ready()
        code = self._end_forkserver(forkserver)
        why = forkserver.failure or MoltStartFailed(f"the fork server died: {exit_text(code)}")
        for executor in self._children(forkserver):
            self._on_exited(executor, None)
        if forkserver.exports is not None:
            self.log.log("error", "forkserver_died", error=why.detail)
            if was_newest:
                later_ns = self._back_off()
                # After a first failure restart at once; after further ones, back off.
                self._forkserver_at_ns = self.loop.at(later_ns if self._boot_deaths > 1 else 1)
        elif self._newest_ready() is not None:
            self.log.log("error", "reload_failed", error=why.detail)
            self.owner.on_reload_failed(why)
        elif not self._forkservers:
            self.owner.on_start_failed(why)
        self._fill()

    def _children(self, forkserver: ForkserverHandle) -> list[ExecutorHandle]:
        return [each for each in self._executors.values() if each.forkserver is forkserver]

    def _end_forkserver(self, forkserver: ForkserverHandle) -> int:
        """Kill and reap a fork server, dead or not, and forget it. Returns its exit code."""
        self.loop.watch(forkserver.control.fileno(), 0)
        self._forkservers.remove(forkserver)
        forkserver.stop()
        forkserver.kill()  # a fork server has nothing to clean up, and waiting for its end must not take long
        return forkserver.reap()

    def _check_forkservers(self, now_ns: int) -> None:
        """Kill fork servers that import for too long, or that don't fork any more."""
        for forkserver in self._forkservers:
            if forkserver.exports is None:
                until_ns = forkserver.started_ns + self.config.start_timeout_ms * NS_PER_MS
                failure = f"importing the exports took longer than {self.config.start_timeout_ms} ms"
            else:
                asked = [executor.asked_ns for executor in self._children(forkserver) if not executor.pid]
                if not asked:
                    continue
                until_ns = max(forkserver.heard_ns, min(asked)) + _STALL_NS
                failure = "the fork server does not answer"
            if now_ns < until_ns:
                self.loop.at(until_ns)
            else:
                forkserver.failure = MoltStartFailed(failure)
                forkserver.kill()

    def _retire_forkservers(self) -> None:
        """End fork servers that are neither the newest nor have executors."""
        newest = self._newest_ready()
        for forkserver in list(self._forkservers):
            is_old = forkserver.exports is not None and forkserver is not newest
            if is_old and not self._children(forkserver):
                self._end_forkserver(forkserver)
