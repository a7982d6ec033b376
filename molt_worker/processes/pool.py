"""The pool of executors: how many there are, how they start, and when one is replaced.

It knows fork servers and executors and nothing of requests: how those reach an executor is a `Delivery`, and what
becomes of them because it answered or died is for the `PoolOwner`. What is done to an executor, and when:

| verb | what is done | when |
|---|---|---|
| start | the fork server forks it, in a free slot | fewer than `config.pool_size` live, or one is recycled |
| recycle | it serves until the successor that is started is ready | it served enough or grew, or exports are newer |
| retire | its socket is closed, so that it exits | its successor is ready and it has no request |
| kill | SIGKILL | it hung up, broke the protocol, did not start or exit in time, or its request did not stop |
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import Final

import psutil

from molt_accel import codec
from molt_accel.config import Config
from molt_accel.ipc.failpoint import failpoint
from molt_accel.ipc.frame import HELLO, Codec, Frame, FrameError, Kind
from molt_accel.ipc.outcomes import exit_text
from molt_worker.entrypoints.exports import Export, ExportTable
from molt_worker.entrypoints.request import StopReason
from molt_worker.processes import forkserver as wire
from molt_worker.processes.delivery import Delivery, PoolOwner
from molt_worker.processes.handles import Executor, ExecutorState, Forkserver, StopWords, decode_report
from molt_worker.processes.replacement import Replacements
from molt_worker.runtime.log import LogSink
from molt_worker.runtime.loop import READ, WRITE, EventLoop
from molt_worker.runtime.metrics import Counters

_MS: Final = 1_000_000
_S: Final = 1_000_000_000
#: How long an idle executor may take to exit once its socket is closed.
_EXIT_NS: Final = 2 * _S
#: How long the fork server may be silent while it is asked to fork. A fork takes milliseconds.
_STALL_NS: Final = 5 * _S
_RSS_CHECK_NS: Final = _S
_FIRST_RESPAWN_NS: Final = 100 * _MS
_MAX_RESPAWN_NS: Final = 5 * _S
#: How long the fork server may take to kill its executors and exit when the worker stops.
_STOP_S: Final = 2.0


class Pool:
    """`config.pool_size` executors, forked from the newest fork server.

    Args:
        words: One slot for each executor that there may be at a time, with those that are not reaped yet: some more
            than a pool and its successors, so that a reload need not wait.
        delivery: How requests reach the executors.
        owner: Is told what happens.
    """

    def __init__(
        self,
        config: Config,
        loop: EventLoop,
        log: LogSink,
        counters: Counters,
        words: StopWords,
        delivery: Delivery,
        owner: PoolOwner,
    ) -> None:
        self._config = config
        self._loop = loop
        self._log = log
        self._counters = counters
        self.words: Final = words
        self._delivery = delivery
        self._owner = owner
        self.size: Final = config.pool_size
        #: What all executors that get new requests have; None until they are imported.
        self.exports: ExportTable | None = None
        self._executors: dict[int, Executor] = {}
        self._replacements: Replacements[Executor] = Replacements()
        self._numbers = 0
        self._forkservers: list[Forkserver] = []  # the newest last; older ones still have executors
        self._boot_deaths = 0
        self._start_not_before_ns = 0
        self._starved = False  # of descriptors, so that no executor can be started
        self._forkserver_at_ns = 0  # when to start another fork server; 0: not planned
        self._next_rss_ns = 0
        self._stopping = False

    # -- start, reload, stop ----------------------------------------------------------------------------

    def start_forkserver(self) -> None:
        """Import the exports in a new fork server; when it is ready, its executors replace all others."""
        now_ns = time.monotonic_ns()
        self._forkserver_at_ns = 0
        try:
            forkserver = Forkserver(self._config, self.words, self._delivery.make_endpoint, now_ns)
        except OSError as exc:  # no memory or no descriptor for it; there may be later
            self._log.log("error", "forkserver_not_started", error=str(exc))
            self._forkserver_at_ns = self._loop.at(self._back_off())
            return
        self._forkservers.append(forkserver)
        self._loop.at(now_ns + self._config.start_timeout_ms * _MS)
        self._watch_forkserver(forkserver)

    def is_outdated(self) -> bool:
        """Whether a file that the newest fork server has imported was changed since."""
        newest = self._forkservers[-1] if self._forkservers else None
        return newest is not None and any(_mtime(path) != mtime for path, mtime in newest.sources)

    def stop(self) -> None:
        """From now on nothing is spawned."""
        self._stopping = True

    def close(self) -> None:
        """Kill what is left, and reap it."""
        self.stop()
        for forkserver in self._forkservers:
            forkserver.stop()
        until_s = time.monotonic() + _STOP_S
        for forkserver in self._forkservers:
            # It kills its executors and exits; one that imports something just now can't.
            with contextlib.suppress(psutil.TimeoutExpired):
                psutil.Process(forkserver.pid).wait(timeout=max(0.05, until_s - time.monotonic()))
                continue
            forkserver.kill()
            forkserver.reap()
        for executor in self._executors.values():
            executor.sock.close()

    def on_timers(self, now_ns: int) -> None:
        """Look at everything that has a time."""
        for executor in list(self._executors.values()):
            if executor.kill_ns and executor.kill_ns <= now_ns:
                executor.kill_ns = now_ns + _EXIT_NS
                self._tell(executor, wire.KILL)
            self._loop.at(executor.kill_ns)
        if self._forkserver_at_ns and self._forkserver_at_ns <= now_ns:
            self._forkserver_at_ns = 0
            if not self._stopping:
                self.start_forkserver()
        self._loop.at(self._forkserver_at_ns)
        self._check_forkservers(now_ns)
        self._check_rss(now_ns)
        self._fill()

    def holder(self, slot: int, serial: int) -> Executor | None:
        """The living executor in a slot, if it says that it has the request with this serial."""
        if self.words.claims().get(slot) != serial:
            return None
        return next((executor for executor in self.living() if executor.slot == slot), None)

    def replaced(self) -> list[Executor]:
        """Executors whose successors are ready, and that have not exited yet."""
        return [executor for executor in self.living() if self._replacements.replaced(executor)]

    @property
    def forkserver_pid(self) -> int:
        """The process that executors are forked from, or will be when it has imported the exports; 0: none."""
        forkserver = self._newest_ready() or next(reversed(self._forkservers), None)
        return forkserver.pid if forkserver is not None else 0

    # -- what is done to an executor --------------------------------------------------------------------

    def poll(self, executor: Executor) -> None:
        """Take in a message that may have come in this moment."""
        while executor.state is not ExecutorState.GONE and executor.stream.wait_readable(0):
            if not self._read(executor):
                self._on_eof(executor)

    def kill(self, executor: Executor) -> None:
        """SIGKILL an executor and replace it. It must have no request any more; `on_closed` is not called for it."""
        executor.state = ExecutorState.GONE
        self._tell(executor, wire.KILL)
        failpoint("supervisor.killed")
        self._drop(executor)

    def send(self, executor: Executor, message: Frame) -> None:
        """Send an executor a frame. If it has just died, the owner's `on_closed` is called in here."""
        try:
            executor.stream.send(message)
        except BrokenPipeError:
            self._on_eof(executor)
            return
        if executor.stream.pending_bytes:
            self._watch(executor)

    def interrupt(self, executor: Executor, serial: int, reason: StopReason) -> None:
        """Raise in the request that has this serial, if it is the one that runs."""
        executor.word.stop(serial, reason)
        failpoint("supervisor.interrupting")
        self._tell(executor, wire.INTERRUPT)

    def recycle(self, executor: Executor, why: str) -> None:
        """Have an executor replaced. It serves on until its successor is ready."""
        if executor.state is not ExecutorState.GONE and self._replacements.recycle(executor):
            self._counters.recycled += 1
            served = self._delivery.served(executor)
            self._log.log("info", "executor_recycled", executor=executor.number, why=why, served=served)
            self._fill()

    def retire(self, executor: Executor) -> None:
        """Close the socket of an executor that has no request, which makes it exit."""
        self._replacements.forget(executor)
        executor.kill_ns = self._loop.at(time.monotonic_ns() + _EXIT_NS)
        executor.state = ExecutorState.GONE
        self._loop.watch(executor.sock.fileno(), 0)
        executor.sock.close()

    # -- executors --------------------------------------------------------------------------------------

    def _fill(self) -> None:
        """Start what is missing, and successors of executors that are to be recycled or outdated."""
        newest = self._newest_ready()
        if newest is None or self._stopping:
            return
        now_ns = time.monotonic_ns()
        if now_ns < self._start_not_before_ns:
            self._loop.at(self._start_not_before_ns)
            return
        counted = self._counted()
        missing: list[Executor | None] = [None] * (self.size - len(counted))
        outdated = [
            executor
            for executor in counted
            if not self._replacements.has_successor(executor)
            and (self._replacements.is_recycled(executor) or executor.forkserver is not newest)
        ]
        for old in missing + outdated:
            try:
                new = self._start(newest)
            except OSError as exc:
                new = None
                if not self._starved:  # once, and not ten times a second
                    self._log.log("error", "executor_not_started", error=str(exc))
                self._starved = True
            if new is None:
                self._loop.at(now_ns + _FIRST_RESPAWN_NS)
                return
            self._starved = False
            if old is not None:
                self._replacements.prepare(old, new)

    def living(self) -> list[Executor]:
        """Executors that start or serve, with those that will retire when they have no request."""
        return [item for item in self._executors.values() if item.state is not ExecutorState.GONE]

    def _counted(self) -> list[Executor]:
        """Those that are of the pool's number, now or when they have started."""
        return [executor for executor in self.living() if self._replacements.counts(executor)]

    def _newest_ready(self) -> Forkserver | None:
        return next((each for each in reversed(self._forkservers) if each.exports is not None), None)

    def _start(self, forkserver: Forkserver) -> Executor | None:
        if not self.words.left or (executor := forkserver.spawn(self._numbers + 1)) is None:
            return None
        self._numbers += 1
        self._counters.executor_starts += 1
        self._executors[executor.number] = executor
        executor.kill_ns = self._loop.at(executor.asked_ns + self._config.start_timeout_ms * _MS)
        self._loop.at(executor.asked_ns + _STALL_NS)
        self._watch(executor)
        return executor

    def _watch(self, executor: Executor) -> None:
        events = READ | (WRITE if executor.stream.pending_bytes else 0)
        self._loop.watch(executor.sock.fileno(), events, lambda mask: self._on_executor(executor, mask))

    def _on_executor(self, executor: Executor, mask: int) -> None:
        if mask & WRITE:
            with contextlib.suppress(BrokenPipeError):  # its end of file will say the same
                executor.stream.flush()
            self._watch(executor)
        if mask & READ and not self._read(executor):
            self._on_eof(executor)

    def _read(self, executor: Executor) -> bool:
        """Take in what an executor sent. False when nothing more will come."""
        if executor.state is ExecutorState.GONE:
            return False
        got = executor.stream.fill()
        for item in executor.stream.frames():
            if isinstance(item, FrameError):
                self._log.log("error", "executor_broke_protocol", executor=executor.number, error=item.detail)
                return False
            if not self._on_frame(executor, item):
                self._log.log("error", "executor_broke_protocol", executor=executor.number)
                return False
        return got is not None

    def _on_frame(self, executor: Executor, frame: Frame) -> bool:
        """False if the executor can't be trusted any more."""
        if executor.state is ExecutorState.READY:
            return self._owner.on_message(executor, frame)
        if executor.state is ExecutorState.GONE or frame.kind is Kind.RESPONSE:
            return False
        self._on_started(executor)
        return True

    def _on_started(self, executor: Executor) -> None:
        self._boot_deaths = 0
        executor.kill_ns = 0
        executor.state = ExecutorState.READY
        old = self._replacements.take_over(executor)
        self._owner.on_executor_ready(executor)
        if old is not None and self._delivery.withdraw(old):
            self.retire(old)
        self._announce_exports()

    def _on_eof(self, executor: Executor) -> None:
        """An executor closed its socket. It may live on, so have it killed; its exit code is still to come."""
        if executor.state is ExecutorState.GONE:
            return
        if executor.state is ExecutorState.STARTING:
            self._start_not_before_ns = self._back_off()
        executor.state = ExecutorState.GONE
        self._tell(executor, wire.KILL)
        self._owner.on_closed(executor)
        self._drop(executor)

    def _back_off(self) -> int:
        """After a start that failed: the time of the next one."""
        self._boot_deaths += 1
        delay_ns = min(_MAX_RESPAWN_NS, _FIRST_RESPAWN_NS << min(self._boot_deaths - 1, 16))
        return time.monotonic_ns() + delay_ns

    def _drop(self, executor: Executor) -> None:
        """Read nothing from an executor that is being killed any more, and have another take its place."""
        self._loop.watch(executor.sock.fileno(), 0)
        if not self._replacements.replaced(executor):
            self._counters.executor_deaths += 1
        self._replacements.forget(executor)
        self._announce_exports()
        self._fill()

    def _on_exited(self, executor: Executor, exit_code: int | None) -> None:
        """An executor was reaped. An answer may still be on its socket."""
        self.poll(executor)
        self._on_eof(executor)
        self._owner.on_reaped(executor, exit_code)
        executor.sock.close()
        del self._executors[executor.number]
        self.words.give_back(executor.slot)

    def _check_rss(self, now_ns: int) -> None:
        if not self._config.max_rss_mb or self._stopping:
            return
        if now_ns >= self._next_rss_ns:
            self._next_rss_ns = now_ns + _RSS_CHECK_NS
            for executor in self.living():
                if self._delivery.served(executor):
                    with contextlib.suppress(psutil.Error):
                        rss = psutil.Process(executor.pid).memory_info().rss
                        if rss > self._config.max_rss_mb * 1024 * 1024:
                            self.recycle(executor, "max_rss_mb")
        self._loop.at(self._next_rss_ns)

    # -- fork servers --------------------------------------------------------------------------------------

    def _watch_forkserver(self, forkserver: Forkserver) -> None:
        if forkserver.control.fileno() >= 0:
            events = READ | (WRITE if forkserver.stream.pending_bytes else 0)
            self._loop.watch(
                forkserver.control.fileno(), events, lambda mask: self._on_forkserver(forkserver, mask)
            )

    def _tell(self, executor: Executor, command: str) -> None:
        executor.forkserver.tell(command, executor)
        self._watch_forkserver(executor.forkserver)

    def _on_forkserver(self, forkserver: Forkserver, mask: int) -> None:
        if mask & WRITE:
            with contextlib.suppress(BrokenPipeError):  # its end of file will say the same
                forkserver.stream.flush()
            self._watch_forkserver(forkserver)
        still_open = forkserver.stream.fill() is not None
        forkserver.heard_ns = time.monotonic_ns()
        for item in forkserver.stream.frames():
            if isinstance(item, FrameError):
                forkserver.failure = f"the fork server broke the protocol: {item.detail}"
                still_open = False
                break
            self._on_report(forkserver, item)
        if not still_open:
            self._on_forkserver_gone(forkserver)

    def _on_report(self, forkserver: Forkserver, report: Frame) -> None:
        if report.kind is Kind.RESPONSE:  # why it can't import the exports
            forkserver.failure = str(codec.decode(Codec.MSGPACK, report.payload)["detail"])
        elif report.entry == wire.SOURCES:
            forkserver.sources = [
                (path, mtime) for path, mtime in codec.decode(Codec.MSGPACK, report.payload)
            ]
        elif report.entry == HELLO:
            self._on_forkserver_ready(forkserver, report)
        elif report.request_id in self._executors:
            executor = self._executors[report.request_id]
            if report.entry == wire.SPAWNED:
                executor.pid = decode_report(report)
            elif report.entry == wire.EXITED:
                self._on_exited(executor, decode_report(report))
                self._retire_forkservers()

    def _on_forkserver_ready(self, forkserver: Forkserver, report: Frame) -> None:
        forkserver.exports = ExportTable(
            Export(name, target, codec.parse(codec_in), codec.parse(codec_out), compiled=is_compiled)
            for name, codec_in, codec_out, target, is_compiled in codec.decode(Codec.MSGPACK, report.payload)
        )
        counts = {"count": len(forkserver.exports), "compiled": len(forkserver.exports.compiled)}
        self._log.log("info", "exports_loaded", **counts, forkserver=forkserver.pid)
        if forkserver is self._newest_ready():  # else a later reload has overtaken this one
            for executor in self.living():
                if executor.forkserver is not forkserver and executor.state is ExecutorState.STARTING:
                    self.kill(executor)  # its code is outdated before it has begun
            self._announce_exports()
            if self._config.max_rss_mb:
                self._loop.at(time.monotonic_ns() + _RSS_CHECK_NS)
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
                self._counters.reloads += 1
            self.exports = newest.exports
            self._owner.on_exports(newest.exports)

    def _on_forkserver_gone(self, forkserver: Forkserver) -> None:
        """A fork server exited or was killed, and its executors die with it."""
        was_newest = forkserver is self._newest_ready()
        code = self._end_forkserver(forkserver)
        text = forkserver.failure or f"the fork server died: {exit_text(code)}"
        for executor in [item for item in self._executors.values() if item.forkserver is forkserver]:
            self._on_exited(executor, None)
        if forkserver.exports is not None:
            self._log.log("error", "forkserver_died", error=text)
            if was_newest:
                later_ns = self._back_off()
                # At once, but for one whose executors didn't live either.
                self._forkserver_at_ns = self._loop.at(later_ns if self._boot_deaths > 1 else 1)
        elif self._newest_ready() is not None:
            self._log.log("error", "reload_failed", error=text)
        elif not self._forkservers:
            self._owner.on_start_failed(text)
        self._fill()

    def _end_forkserver(self, forkserver: Forkserver) -> int:
        """Have done with a fork server, dead or not. Returns its exit code."""
        self._loop.watch(forkserver.control.fileno(), 0)
        self._forkservers.remove(forkserver)
        forkserver.stop()
        forkserver.kill()  # it has nothing to clean up, and waiting for it must not take long
        return forkserver.reap()

    def _check_forkservers(self, now_ns: int) -> None:
        """Kill those that import for too long, or don't fork any more."""
        for forkserver in self._forkservers:
            if forkserver.exports is None:
                until_ns = forkserver.started_ns + self._config.start_timeout_ms * _MS
                failure = f"importing the exports took longer than {self._config.start_timeout_ms} ms"
            else:
                asked = [
                    e.asked_ns for e in self._executors.values() if e.forkserver is forkserver and not e.pid
                ]
                if not asked:
                    continue
                until_ns = max(forkserver.heard_ns, min(asked)) + _STALL_NS
                failure = "the fork server does not answer"
            if now_ns < until_ns:
                self._loop.at(until_ns)
            else:
                forkserver.failure = failure
                forkserver.kill()

    def _retire_forkservers(self) -> None:
        """A fork server that is neither the newest nor has executors is not needed any more."""
        newest = self._newest_ready()
        for forkserver in list(self._forkservers):
            used = any(executor.forkserver is forkserver for executor in self._executors.values())
            if forkserver.exports is not None and forkserver is not newest and not used:
                self._end_forkserver(forkserver)


def _mtime(path: str) -> int:
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return 0
