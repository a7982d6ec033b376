"""The pool of executors: how many there are, which are idle, and when one is replaced.

Knows templates and executors and nothing of deadlines or queues. What happens to a request because its
executor answered, died or was killed is its owner's decision.
"""

from __future__ import annotations

import contextlib
import time
from typing import Final, Protocol

import psutil

from molt_accel import codec
from molt_accel.config import Config
from molt_accel.errors import MoltError, MoltWorkerCrashed
from molt_accel.ipc.frame import HELLO, Codec, Frame, FrameError, Kind
from molt_worker import template as wire
from molt_worker.exports import Export, ExportTable
from molt_worker.lifecycle import Request
from molt_worker.log import LogSink
from molt_worker.loop import READ, WRITE, EventLoop
from molt_worker.metrics import Counters
from molt_worker.process import (
    Executor,
    ExecutorState,
    StopWords,
    Template,
    decode_report,
    exit_facts,
    exit_text,
)
from molt_worker.request import StopReason

_MS: Final = 1_000_000
_S: Final = 1_000_000_000
#: How long an idle executor may take to exit once its socket is closed.
_EXIT_NS: Final = 2 * _S
#: How long the template may be silent while it is asked to fork. A fork takes milliseconds.
_STALL_NS: Final = 5 * _S
_RSS_CHECK_NS: Final = _S
_FIRST_RESPAWN_NS: Final = 100 * _MS
_MAX_RESPAWN_NS: Final = 5 * _S
#: How long the template may take to kill its executors and exit when the worker stops.
_STOP_S: Final = 2.0


class PoolOwner(Protocol):
    """What the pool tells whoever hands out requests."""

    def on_exports(self, exports: ExportTable) -> None:
        """The exports were imported, at start or at a reload."""

    def on_executor_ready(self) -> None:
        """An executor has started and is idle."""

    def on_response(self, request: Request, response: Frame) -> None:
        """An executor answered."""

    def on_not_started(self, request: Request) -> None:
        """The executor died before it had read its request."""

    def on_silent(self, request: Request) -> None:
        """The executor's socket closed without an answer; `on_crash` follows when it was reaped."""

    def on_crash(self, request: Request, crash: MoltError) -> None:
        """The executor is dead and did not answer. The request must end, which releases the executor."""

    def on_start_failed(self, why: str) -> None:
        """The exports can't be imported, so there will never be an executor."""


class Pool:
    """`config.pool_size` executors, forked from the newest template.

    Args:
        owner: Is told what happens.
    """

    def __init__(
        self, config: Config, loop: EventLoop, log: LogSink, counters: Counters, owner: PoolOwner
    ) -> None:
        self._config = config
        self._loop = loop
        self._log = log
        self._counters = counters
        self._owner = owner
        self.size: Final = config.pool_size
        # Enough for a whole pool being replaced while one more generation is being reaped.
        self._words = StopWords(4 * self.size + 16)
        self._executors: dict[int, Executor] = {}
        self._idle: list[Executor] = []  # the one used last is used next: its caches are warm
        self._busy = 0
        self._numbers = 0
        self._templates: list[Template] = []  # the newest last; older ones still have executors
        self._boot_deaths = 0
        self._spawn_not_before_ns = 0
        self._template_at_ns = 0  # when to start another template; 0: not planned
        self._next_rss_ns = 0
        self._stopping = False

    # -- requests ---------------------------------------------------------------------------------------

    @property
    def idle(self) -> bool:
        """Whether an executor is free."""
        return bool(self._idle)

    @property
    def busy(self) -> int:
        """How many executors have a request."""
        return self._busy

    def hand_out(self, request: Request, queue_depth: int) -> None:
        """Give a request to an idle executor. If that one has just died, `on_not_started` gives it back.

        Raises:
            IndexError: no executor is idle.
        """
        executor = self._idle.pop()
        executor.state = ExecutorState.BUSY
        executor.request = request
        request.executor = executor
        executor.serial = executor.serial % 0xFFFF_FFFF + 1
        self._busy += 1
        frame = request.frame
        client_generation = frame.generation
        frame.queue_depth = queue_depth
        frame.in_flight = self._busy
        frame.generation = executor.serial  # on this socket; the client's own comes back with the response
        try:
            executor.stream.send(frame)
        except BrokenPipeError:
            self._on_eof(executor)
            return
        finally:
            frame.generation = client_generation
        if executor.stream.pending_bytes:
            self._watch(executor)

    def release(self, executor: Executor) -> None:
        """Take the request off an executor; it has ended."""
        if executor.request is not None:
            executor.request.executor = None
            executor.request = None
            self._busy -= 1

    def interrupt(self, executor: Executor, reason: StopReason) -> None:
        """Raise in the request that the executor runs; a later one is not touched."""
        executor.word.stop(executor.serial, reason)
        self._tell(executor, wire.INTERRUPT)

    def poll(self, executor: Executor) -> None:
        """Take in an answer that may have come in this moment."""
        while executor.state is not ExecutorState.GONE and executor.stream.wait_readable(0):
            if not self._read(executor):
                self._on_eof(executor)

    def kill(self, executor: Executor) -> None:
        """SIGKILL an executor and replace it. Its request must have ended before."""
        executor.state = ExecutorState.GONE
        self._tell(executor, wire.KILL)
        self._drop(executor)

    def describe(self) -> dict[str, object]:
        """The pool's part of a health report."""
        states = [executor.state for executor in self._executors.values()]
        return {
            "size": self.size,
            "idle": states.count(ExecutorState.IDLE),
            "busy": states.count(ExecutorState.BUSY),
            "starting": states.count(ExecutorState.STARTING),
            "pids": [executor.pid for executor in self._living() if executor.pid],
        }

    # -- start, reload, stop ----------------------------------------------------------------------------

    def start_template(self) -> None:
        """Import the exports in a new template; when it is ready, its executors replace all others."""
        now_ns = time.monotonic_ns()
        self._template_at_ns = 0
        try:
            template = Template(self._config, self._words, now_ns)
        except OSError as exc:  # no memory or no descriptor for it; there may be later
            self._log.log("error", "template_not_started", error=str(exc))
            self._template_at_ns = self._loop.at(self._back_off())
            return
        self._templates.append(template)
        self._loop.at(now_ns + self._config.start_timeout_ms * _MS)
        self._watch_template(template)

    def stop(self) -> None:
        """From now on nothing is spawned."""
        self._stopping = True

    def close(self) -> None:
        """Kill what is left, and reap it."""
        self.stop()
        for template in self._templates:
            template.stop()
        until_s = time.monotonic() + _STOP_S
        for template in self._templates:
            # It kills its executors and exits; one that imports something just now can't.
            with contextlib.suppress(psutil.TimeoutExpired):
                psutil.Process(template.pid).wait(timeout=max(0.05, until_s - time.monotonic()))
                continue
            template.kill()
            template.reap()
        for executor in self._executors.values():
            executor.sock.close()

    def on_timers(self, now_ns: int) -> None:
        """Look at everything that has a time."""
        for executor in list(self._executors.values()):
            if executor.kill_ns and executor.kill_ns <= now_ns:
                executor.kill_ns = now_ns + _EXIT_NS
                self._tell(executor, wire.KILL)
            self._loop.at(executor.kill_ns)
        if self._template_at_ns and self._template_at_ns <= now_ns:
            self._template_at_ns = 0
            if not self._stopping:
                self.start_template()
        self._loop.at(self._template_at_ns)
        self._check_templates(now_ns)
        self._check_rss(now_ns)
        self._fill()

    # -- executors --------------------------------------------------------------------------------------

    def _fill(self) -> None:
        """Spawn what is missing, and a replacement for whatever is outdated."""
        newest = self._newest_ready()
        if newest is None or self._stopping:
            return
        now_ns = time.monotonic_ns()
        if now_ns < self._spawn_not_before_ns:
            self._loop.at(self._spawn_not_before_ns)
            return
        counted = [executor for executor in self._executors.values() if executor.counts]
        missing: list[Executor | None] = [None] * (self.size - len(counted))
        outdated = [
            executor
            for executor in counted
            if executor.replacement is None and (executor.recycle or executor.template is not newest)
        ]
        for old in missing + outdated:
            new = self._spawn(newest)
            if new is None:
                self._loop.at(now_ns + _FIRST_RESPAWN_NS)
                return
            if old is not None:  # the new one retires it when it is ready
                new.replaces = old
                old.replacement = new

    def _newest_ready(self) -> Template | None:
        return next((each for each in reversed(self._templates) if each.exports is not None), None)

    def _spawn(self, template: Template) -> Executor | None:
        executor = template.spawn(self._numbers + 1) if self._words.left else None
        if executor is None:
            return None
        self._numbers += 1
        self._counters.executor_starts += 1
        self._executors[executor.number] = executor
        executor.kill_ns = self._loop.at(executor.asked_ns + self._config.start_timeout_ms * _MS)
        self._loop.at(executor.asked_ns + _STALL_NS)
        self._watch(executor)
        return executor

    def _recycle(self, executor: Executor, why: str) -> None:
        if executor.counts and not executor.recycle:
            executor.recycle = True
            self._counters.recycled += 1
            self._log.log(
                "info", "executor_recycled", executor=executor.number, why=why, served=executor.served
            )
            self._fill()

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
            if item.kind is Kind.RESPONSE:
                if not self._on_response(executor, item):
                    self._log.log("error", "executor_broke_protocol", executor=executor.number)
                    return False
            elif executor.state is ExecutorState.STARTING:
                self._on_ready(executor)
        return got is not None

    def _on_ready(self, executor: Executor) -> None:
        self._boot_deaths = 0
        executor.kill_ns = 0
        old = executor.replaces
        executor.untie()
        self._make_idle(executor)
        self._owner.on_executor_ready()
        if old is not None and old.state is not ExecutorState.GONE:
            old.retire = True
            if old.state is not ExecutorState.BUSY:
                self._dismiss(old)
        self._announce_exports()

    def _make_idle(self, executor: Executor) -> None:
        executor.state = ExecutorState.IDLE
        self._idle.append(executor)

    def _on_response(self, executor: Executor, response: Frame) -> bool:
        """Pass an answer on. False for one to nothing it was given: it can't be trusted any more."""
        request = executor.request
        if request is None or response.generation != executor.serial:
            return False
        self.release(executor)
        self._owner.on_response(request, response)
        executor.served += 1
        if executor.retire:
            self._dismiss(executor)
            return True
        self._make_idle(executor)
        if self._config.max_requests and executor.served >= self._config.max_requests:
            self._recycle(executor, "max_requests")
        return True

    def _dismiss(self, executor: Executor) -> None:
        """Close its socket, which makes it exit."""
        if executor in self._idle:
            self._idle.remove(executor)
        executor.kill_ns = self._loop.at(time.monotonic_ns() + _EXIT_NS)
        executor.state = ExecutorState.GONE
        self._loop.watch(executor.sock.fileno(), 0)
        executor.sock.close()

    def _on_eof(self, executor: Executor) -> None:
        """Its socket closed. That is not its death: make sure of it, and wait for the exit code."""
        if executor.state is ExecutorState.GONE:
            return
        if executor.state is ExecutorState.STARTING:
            self._spawn_not_before_ns = self._back_off()
        executor.state = ExecutorState.GONE
        self._tell(executor, wire.KILL)
        request = executor.request
        unread = executor.stream.was_reset or executor.stream.pending_bytes
        if request is not None and unread and request.handed_back < self.size:
            # It died before it had read its request, so that has not begun. That may be chance, for each
            # executor of the pool once; if it goes on, it is the request that kills them.
            self.release(executor)
            self._owner.on_not_started(request)
        elif request is not None:
            self._owner.on_silent(request)
        self._drop(executor)

    def _back_off(self) -> int:
        """After a start that failed: the time of the next one."""
        self._boot_deaths += 1
        delay_ns = min(_MAX_RESPAWN_NS, _FIRST_RESPAWN_NS << min(self._boot_deaths - 1, 16))
        return time.monotonic_ns() + delay_ns

    def _drop(self, executor: Executor) -> None:
        """It is as good as dead: nothing is read from it any more, and another takes its place."""
        if executor in self._idle:
            self._idle.remove(executor)
        self._loop.watch(executor.sock.fileno(), 0)
        executor.untie()
        self._counters.executor_deaths += 1
        self._announce_exports()
        self._fill()

    def _on_exited(self, executor: Executor, crash: MoltWorkerCrashed) -> None:
        """It was reaped. An answer may still be on its socket."""
        self.poll(executor)
        self._on_eof(executor)
        if executor.request is not None:
            request = executor.request
            self._log.log("error", "executor_crashed", executor=executor.number, error=crash.detail)
            self._owner.on_crash(request, crash)
        executor.sock.close()
        del self._executors[executor.number]
        self._words.give_back(executor.word_index)

    def _check_rss(self, now_ns: int) -> None:
        if not self._config.max_rss_mb or self._stopping:
            return
        if now_ns >= self._next_rss_ns:
            self._next_rss_ns = now_ns + _RSS_CHECK_NS
            for executor in self._living():
                if executor.served:
                    with contextlib.suppress(psutil.Error):
                        rss = psutil.Process(executor.pid).memory_info().rss
                        if rss > self._config.max_rss_mb * 1024 * 1024:
                            self._recycle(executor, "max_rss_mb")
        self._loop.at(self._next_rss_ns)

    # -- templates --------------------------------------------------------------------------------------

    def _watch_template(self, template: Template) -> None:
        if template.control.fileno() >= 0:
            events = READ | (WRITE if template.stream.pending_bytes else 0)
            self._loop.watch(
                template.control.fileno(), events, lambda mask: self._on_template(template, mask)
            )

    def _tell(self, executor: Executor, command: str) -> None:
        executor.template.tell(command, executor)
        self._watch_template(executor.template)

    def _on_template(self, template: Template, mask: int) -> None:
        if mask & WRITE:
            with contextlib.suppress(BrokenPipeError):  # its end of file will say the same
                template.stream.flush()
            self._watch_template(template)
        still_open = template.stream.fill() is not None
        template.heard_ns = time.monotonic_ns()
        for item in template.stream.frames():
            if isinstance(item, FrameError):
                template.failure = f"the template process broke the protocol: {item.detail}"
                still_open = False
                break
            self._on_report(template, item)
        if not still_open:
            self._on_template_gone(template)

    def _on_report(self, template: Template, report: Frame) -> None:
        if report.kind is Kind.RESPONSE:  # why it can't import the exports
            template.failure = str(codec.decode(Codec.MSGPACK, report.payload)["detail"])
        elif report.entry == HELLO:
            self._on_template_ready(template, report)
        elif report.request_id in self._executors:
            executor = self._executors[report.request_id]
            if report.entry == wire.SPAWNED:
                executor.pid = decode_report(report)
            elif report.entry == wire.EXITED:
                code = decode_report(report)
                self._on_exited(executor, _crash(executor, exit_text(code), exit_facts(code)))
                self._retire_templates()

    def _on_template_ready(self, template: Template, report: Frame) -> None:
        template.exports = ExportTable(
            Export(name, target, codec.parse(codec_in), codec.parse(codec_out))
            for name, codec_in, codec_out, target in codec.decode(Codec.MSGPACK, report.payload)
        )
        self._log.log("info", "exports_loaded", count=len(template.exports), template=template.pid)
        if template is self._newest_ready():  # else a later reload has overtaken this one
            for executor in self._living():
                if executor.template is not template and executor.state is ExecutorState.STARTING:
                    self.kill(executor)  # its code is outdated before it has begun
            self._announce_exports()
            if self._config.max_rss_mb:
                self._loop.at(time.monotonic_ns() + _RSS_CHECK_NS)
        self._retire_templates()
        self._fill()

    def _announce_exports(self) -> None:
        """Tell the owner of new exports, once no request can go to an executor that doesn't have them."""
        newest = self._newest_ready()
        if newest is None or newest.exports is None or newest.announced:
            return
        if all(item.template is newest for item in self._executors.values() if item.counts):
            newest.announced = True
            self._owner.on_exports(newest.exports)

    def _living(self) -> list[Executor]:
        return [item for item in self._executors.values() if item.state is not ExecutorState.GONE]

    def _on_template_gone(self, template: Template) -> None:
        """Its end of file: it exited or was killed, and its executors die with it."""
        was_newest = template is self._newest_ready()
        code = self._end_template(template)
        text = template.failure or f"the template process died: {exit_text(code)}"
        for executor in [item for item in self._executors.values() if item.template is template]:
            self._on_exited(executor, _crash(executor, "with its template process", {}))
        if template.exports is not None:
            self._log.log("error", "template_died", error=text)
            if was_newest:
                later_ns = self._back_off()
                # At once, but for one whose executors didn't live either.
                self._template_at_ns = self._loop.at(later_ns if self._boot_deaths > 1 else 1)
        elif self._newest_ready() is not None:
            self._log.log("error", "reload_failed", error=text)
        elif not self._templates:
            self._owner.on_start_failed(text)
        self._fill()

    def _end_template(self, template: Template) -> int:
        """Have done with a template, dead or not. Returns its exit code."""
        self._loop.watch(template.control.fileno(), 0)
        self._templates.remove(template)
        template.stop()
        template.kill()  # it has nothing to clean up, and waiting for it must not take long
        return template.reap()

    def _check_templates(self, now_ns: int) -> None:
        """Kill those that import for too long, or don't fork any more."""
        for template in self._templates:
            if template.exports is None:
                until_ns = template.started_ns + self._config.start_timeout_ms * _MS
                failure = f"importing the exports took longer than {self._config.start_timeout_ms} ms"
            else:
                asked = [e.asked_ns for e in self._executors.values() if e.template is template and not e.pid]
                if not asked:
                    continue
                until_ns = max(template.heard_ns, min(asked)) + _STALL_NS
                failure = "the template process does not answer"
            if now_ns < until_ns:
                self._loop.at(until_ns)
            else:
                template.failure = failure
                template.kill()

    def _retire_templates(self) -> None:
        """A template that is neither the newest nor has executors is not needed any more."""
        newest = self._newest_ready()
        for template in list(self._templates):
            used = any(executor.template is template for executor in self._executors.values())
            if template.exports is not None and template is not newest and not used:
                self._end_template(template)


def _crash(executor: Executor, how: str, facts: dict[str, int | str]) -> MoltWorkerCrashed:
    entry = executor.request.frame.entry if executor.request is not None else ""
    return MoltWorkerCrashed(f"the executor died while it ran {entry!r}: {how}", facts=facts)
