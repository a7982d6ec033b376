"""The supervisor: policy for requests and executors. It never runs user code and never blocks.

One thread, one event loop. Frames come from the client and go to executors; timers, signals and the
template's reports decide what else happens. Every request's outcome is decided here, once, by `_finish`.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import time
from collections.abc import Callable
from typing import Final

import psutil

from molt_accel import __version__, codec
from molt_accel.config import Config
from molt_accel.errors import (
    MoltBusy,
    MoltCancelled,
    MoltError,
    MoltInternalError,
    MoltInvalidInput,
    MoltTimeout,
    MoltWorkerCrashed,
    MoltWorkerUnavailable,
    Status,
    status_label,
)
from molt_accel.ipc.frame import CANCEL, HELLO, PING, WORKER_DEFAULT_WAIT, Codec, Frame, FrameError, Kind
from molt_accel.ipc.stream import FrameStream
from molt_worker import template as wire
from molt_worker.exports import Export, ExportsError, ExportTable, check
from molt_worker.lifecycle import HELD, State, Step, advance
from molt_worker.log import STDERR_FD, LogSink
from molt_worker.metrics import Counters, request_fields
from molt_worker.process import (
    Executor,
    ExecutorState,
    StopWords,
    Template,
    decode_report,
    exit_facts,
    exit_text,
)
from molt_worker.queue import BoundedQueue, Verdict
from molt_worker.request import StopReason
from molt_worker.runner import error_response

EXIT_OK: Final = 0
EXIT_FAILED: Final = 1

_MS: Final = 1_000_000
_S: Final = 1_000_000_000
#: While the client doesn't read its responses, requests are read only up to this many unsent bytes.
_HIGH_WATER_BYTES: Final = 4 * 1024 * 1024
#: All queued payloads together may hold this many times the frame limit.
_QUEUE_FRAMES: Final = 4
#: How long the report of an executor's exit may lag behind the end of its socket.
_EXIT_REPORT_NS: Final = 2 * _S
#: How long an idle executor may take to exit once its socket is closed.
_EXIT_NS: Final = 2 * _S
_RSS_CHECK_NS: Final = _S
#: How long the last responses may take to leave when the worker stops.
_FLUSH_NS: Final = _S
_FIRST_RESPAWN_NS: Final = 100 * _MS
_MAX_RESPAWN_NS: Final = 5 * _S


class Request:
    """A request from its arrival to its end."""

    __slots__ = ("executor", "frame", "state", "stop_error", "wake_ns")

    def __init__(self, frame: Frame) -> None:
        self.frame = frame
        self.state = State.ARRIVED
        self.executor: Executor | None = None
        self.stop_error: MoltError | None = None  #: the outcome if the executor doesn't answer any more
        self.wake_ns = 0  #: when its state has to be looked at; 0: never

    def advance(self, step: Step) -> None:
        self.state = advance(self.state, step)


class Supervisor:
    """Serves one client over a pair of descriptors, with a pool of executors.

    Args:
        config: The worker's configuration.
        read_fd, write_fd: The client's frames in and out; both are made non-blocking.
        log: Where events go.
    """

    def __init__(self, config: Config, read_fd: int, write_fd: int, log: LogSink) -> None:
        self._config = config
        self._log = log
        self._counters = Counters()
        self._client = FrameStream(read_fd, write_fd, config.max_frame_bytes)
        self._client_open = True
        self._selector = selectors.PollSelector()  # unlike epoll, it takes regular files as stdin too
        self._events: dict[int, int] = {}  # what each registered descriptor is watched for
        self._requests: dict[int, Request] = {}
        self._queue: BoundedQueue[Request] = BoundedQueue(
            config.max_queue, _QUEUE_FRAMES * config.max_frame_bytes
        )
        pool_size = config.pool_size
        self._pool_size = pool_size
        self._words = StopWords(4 * pool_size + 16)
        self._executors: dict[int, Executor] = {}
        self._idle: list[Executor] = []  # the one used last is used next: its caches are warm
        self._running = 0
        self._numbers = 0
        self._templates: list[Template] = []  # the newest last; older ones still have executors
        self._exports: ExportTable | None = None
        self._boot_deaths = 0
        self._spawn_not_before_ns = 0
        self._timer_ns = 0  # no timer is due before; 0: none is set
        self._next_rss_ns = 0
        self._draining = False
        self._stopping = False
        self._flush_until_ns = 0
        self._signals: list[int] = []
        self._exit_code = EXIT_OK

    # -- the loop ---------------------------------------------------------------------------------------

    def run(self) -> int:
        """Serve until told to stop or the client is gone. Returns the exit code."""
        wake_r, wake_w = socket.socketpair()
        wake_r.setblocking(False)
        wake_w.setblocking(False)
        blocking = {fd: os.get_blocking(fd) for fd in (self._client.read_fd, self._client.write_fd)}
        for fd in blocking:
            os.set_blocking(fd, False)
        try:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
                signal.signal(number, lambda signum, _: self._signals.append(signum))
            signal.set_wakeup_fd(wake_w.fileno(), warn_on_full_buffer=False)
            self._watch(wake_r.fileno(), selectors.EVENT_READ, lambda _: self._on_signals(wake_r))
            self._start_template()
            while not self._finished():
                self._turn()
        finally:
            self._shut_down()
            for fd, was_blocking in blocking.items():
                with contextlib.suppress(OSError):
                    os.set_blocking(fd, was_blocking)
        return self._exit_code

    def _turn(self) -> None:
        self._watch_client()
        for key, mask in self._selector.select(self._timeout_s()):
            if key.fd in self._events:  # an earlier event of this turn may have closed it
                self._guard(key.data, mask)
        if self._timer_ns and time.monotonic_ns() >= self._timer_ns:
            self._guard(self._on_timers)
        self._guard(self._dispatch)

    def _guard(self, action: Callable[..., object], *args: object) -> None:
        """A bug in here must cost one event, not the worker."""
        try:
            action(*args)
        except Exception as exc:
            self._log.log("error", "supervisor_bug", error=f"{type(exc).__name__}: {exc}", at=_where(exc))

    def _timeout_s(self) -> float | None:
        if not self._timer_ns:
            return None
        return max(0.0, (self._timer_ns - time.monotonic_ns()) / _S)

    def _at(self, when_ns: int) -> int:
        """Note that something is due at `when_ns` (0: never). Returns it."""
        if when_ns and (not self._timer_ns or when_ns < self._timer_ns):
            self._timer_ns = when_ns
        return when_ns

    def _watch(self, fd: int, events: int, action: Callable[[int], object] | None = None) -> None:
        """Watch a descriptor for these events from now on; 0: no longer."""
        known = self._events.get(fd)
        if known == events or (known is None and not events):
            return
        if not events:
            self._selector.unregister(fd)
            del self._events[fd]
            return
        if known is None:
            self._selector.register(fd, events, action)
        else:
            self._selector.modify(fd, events, action or self._selector.get_key(fd).data)
        self._events[fd] = events

    def _watch_client(self) -> None:
        client = self._client
        reading = self._client_open and client.pending_bytes < _HIGH_WATER_BYTES
        if client.read_fd == client.write_fd:
            both = (selectors.EVENT_READ if reading else 0) | (selectors.EVENT_WRITE if client.pending_bytes else 0)
            self._watch(client.read_fd, both, self._on_client)
        else:
            self._watch(client.read_fd, selectors.EVENT_READ if reading else 0, self._on_client)
            self._watch(client.write_fd, selectors.EVENT_WRITE if client.pending_bytes else 0, self._on_client)
        self._watch(STDERR_FD, selectors.EVENT_WRITE if self._log.pending else 0, lambda _: self._log.flush())

    def _finished(self) -> bool:
        if not (self._stopping or (self._draining and not self._requests)):
            return False
        if self._requests:
            return False
        if not self._client.pending_bytes:
            return True
        now_ns = time.monotonic_ns()
        if not self._flush_until_ns:
            self._flush_until_ns = now_ns + _FLUSH_NS
        self._at(self._flush_until_ns)
        return now_ns >= self._flush_until_ns

    def _shut_down(self) -> None:
        signal.set_wakeup_fd(-1)
        for each in self._templates:
            each.stop()
        until = time.monotonic() + 2.0
        for each in self._templates:
            # It kills its executors and exits; one that imports something just now can't.
            with contextlib.suppress(psutil.NoSuchProcess, psutil.TimeoutExpired, ChildProcessError):
                psutil.Process(each.pid).wait(timeout=max(0.05, until - time.monotonic()))
                continue
            each.kill()
            with contextlib.suppress(ChildProcessError):
                each.reap(block=True)
        for executor in self._executors.values():
            executor.sock.close()
        self._selector.close()
        self._log.log("info", "worker_stopped", code=self._exit_code)

    # -- signals ----------------------------------------------------------------------------------------

    def _on_signals(self, wake: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError):
            wake.recv(4096)
        while self._signals:
            number = self._signals.pop(0)
            if number == signal.SIGHUP:
                self._reload()
            elif number == signal.SIGTERM and not self._draining:
                self._log.log("info", "worker_draining", requests=len(self._requests))
                self._draining = True
            elif number in (signal.SIGTERM, signal.SIGINT):
                self._stop_all("the worker is stopping")

    def _reload(self) -> None:
        try:
            check(self._config.exports)
        except ExportsError as exc:
            self._log.log("error", "reload_failed", error=str(exc))
            return
        self._log.log("info", "worker_reloading", exports=self._config.exports)
        self._start_template()

    def _stop_all(self, why: str) -> None:
        """End every request as cancelled, the running ones through their interrupt and grace time."""
        self._stopping = True
        for request in list(self._requests.values()):
            self._cancel(request, MoltCancelled(why))

    # -- the client -------------------------------------------------------------------------------------

    def _on_client(self, mask: int) -> None:
        if mask & selectors.EVENT_WRITE:
            try:
                self._client.flush()
            except BrokenPipeError:
                self._client_gone()
        if mask & selectors.EVENT_READ and self._client_open:
            still_open = self._client.fill()
            for item in self._client.frames():
                self._guard(self._on_frame, item)
            if not still_open:
                self._client_gone()

    def _client_gone(self) -> None:
        if not self._client_open:
            return
        self._client_open = False
        self._log.log("info", "client_gone", requests=len(self._requests))
        self._stop_all("the client is gone")

    def _on_frame(self, item: Frame | FrameError) -> None:
        if isinstance(item, FrameError):
            self._counters.bad_frames += 1
            self._log.log("warning", "bad_frame", error=item.detail)
            self._send(error_response(Frame(Kind.REQUEST, item.raw_id), MoltInvalidInput(item.detail)))
        elif item.kind is Kind.REQUEST:
            self._on_request(item)
        elif item.kind is Kind.CONTROL and item.entry == CANCEL:
            request = self._requests.get(item.request_id)
            if request is not None and request.frame.generation == item.generation:
                self._cancel(request, MoltCancelled("the client asked to stop"))
        else:
            self._counters.bad_frames += 1
            refused = MoltInvalidInput(f"a {item.kind.name} frame {item.entry!r} is not for a worker")
            self._send(error_response(Frame(Kind.REQUEST, item.request_id), refused))

    def _send(self, response: Frame) -> None:
        if not self._client_open and self._client.pending_bytes:
            return  # nobody reads
        try:
            self._client.send(response)
        except BrokenPipeError:
            self._client_gone()

    # -- requests ---------------------------------------------------------------------------------------

    def _on_request(self, frame: Frame) -> None:
        request = Request(frame)
        if frame.request_id in self._requests:
            # Not a second entry in the table: the first one keeps the id and its own outcome.
            refused = MoltInvalidInput("this request id is in flight already")
            self._send(error_response(frame, refused))
            return
        self._requests[frame.request_id] = request
        now_ns = time.monotonic_ns()
        try:
            if frame.entry == PING:
                self._finish(request, self._pong(frame))
                return
            if self._draining or self._stopping:
                raise MoltBusy("the worker is stopping")
            if self._exports is not None:
                self._exports.find(frame)
            if frame.deadline_ns and frame.deadline_ns <= now_ns:
                raise _expired()
            self._place(request, now_ns)
        except MoltError as exc:
            self._finish(request, exc)

    def _place(self, request: Request, now_ns: int) -> None:
        """Hand a new request out, or queue it, or let it wait for a place. Raises MoltBusy."""
        frame = request.frame
        if self._idle and not len(self._queue):
            self._hand_out(request)
            return
        max_wait_ms = self._config.max_wait_ms if frame.max_wait_ms == WORKER_DEFAULT_WAIT else frame.max_wait_ms
        verdict = self._queue.offer(
            frame.request_id, request, len(frame.payload), may_wait=max_wait_ms > 0
        )
        if verdict is Verdict.BUSY:
            raise _busy()
        if verdict is Verdict.WAITING:
            request.advance(Step.WAIT)
            give_up_ns = now_ns + max_wait_ms * _MS
            request.wake_ns = min(give_up_ns, frame.deadline_ns or give_up_ns)
        else:
            request.advance(Step.ENQUEUE)
            request.wake_ns = frame.deadline_ns
        self._at(request.wake_ns)

    def _dispatch(self) -> None:
        """Give idle executors the oldest requests, and free places to those that wait for one."""
        while self._idle:
            request = self._queue.take()
            if request is None:
                break
            if request.frame.deadline_ns and request.frame.deadline_ns <= time.monotonic_ns():
                self._finish(request, _expired())
            else:
                self._hand_out(request)
            self._promote()
        self._promote()

    def _promote(self) -> None:
        while (waiting := self._queue.promote()) is not None:
            waiting.advance(Step.ENQUEUE)
            waiting.wake_ns = self._at(waiting.frame.deadline_ns)

    def _hand_out(self, request: Request) -> None:
        executor = self._idle.pop()
        frame = request.frame
        generation = frame.generation
        request.advance(Step.HAND_OUT)
        request.executor = executor
        executor.request = request
        executor.state = ExecutorState.BUSY
        executor.serial = executor.serial % 0xFFFF_FFFF + 1
        self._running += 1
        frame.queue_depth = len(self._queue)
        frame.in_flight = self._running
        frame.generation = executor.serial  # on this socket; the client's own comes back in _on_response
        try:
            executor.stream.send(frame)
        except BrokenPipeError:
            # It died idle, so this request can't have started.
            frame.generation = generation
            self._release(executor)
            request.advance(Step.HAND_BACK)
            self._queue.put_back(frame.request_id, request, len(frame.payload))
            self._on_executor_eof(executor)
            return
        frame.generation = generation
        request.wake_ns = self._at(frame.deadline_ns)
        if executor.stream.pending_bytes:
            self._watch_executor(executor)

    def _cancel(self, request: Request, error: MoltError) -> None:
        if request.state not in HELD:
            self._queue.remove(request.frame.request_id)
            self._finish(request, error)
        elif request.state is State.RUNNING:
            self._stop(request, StopReason.CANCELLED, error)

    def _stop(self, request: Request, reason: StopReason, error: MoltError) -> None:
        """Interrupt a running request softly; the grace time begins."""
        executor = request.executor
        assert executor is not None  # RUNNING
        request.advance(Step.STOP)
        request.stop_error = error
        executor.word.stop(executor.serial, reason)
        executor.template.tell(wire.INTERRUPT, executor)
        request.wake_ns = self._at(time.monotonic_ns() + self._config.grace_ms * _MS)

    def _finish(self, request: Request, outcome: Frame | MoltError) -> None:
        """The one end of every request: out of the table, response to the client, line in the log."""
        request.advance(Step.END)
        frame = request.frame
        self._requests.pop(frame.request_id, None)
        response = error_response(frame, outcome) if isinstance(outcome, MoltError) else outcome
        if request.executor is not None:
            response.executor = request.executor.number
            self._release(request.executor)
        response.request_id = frame.request_id
        response.generation = frame.generation
        self._send(response)
        if isinstance(outcome, MoltError):
            label = status_label(outcome)
        else:
            label = outcome.status.label if outcome.status is not None else ""
        self._counters.outcomes[label] += 1
        level = "info" if label == Status.OK.label else "warning"
        if self._log.wants(level):
            self._log.log(level, "request", **request_fields(frame, response, label))

    def _release(self, executor: Executor) -> None:
        """Take the request off an executor."""
        if executor.request is not None:
            executor.request.executor = None
            executor.request = None
            self._running -= 1

    def _pong(self, frame: Frame) -> Frame:
        states = [executor.state for executor in self._executors.values()]
        report = {
            "version": __version__,
            "pid": os.getpid(),
            "ready": self._exports is not None,
            "exports": [export.name for export in self._exports] if self._exports is not None else [],
            "executors": {
                "size": self._pool_size,
                "idle": states.count(ExecutorState.IDLE),
                "busy": states.count(ExecutorState.BUSY),
                "starting": states.count(ExecutorState.STARTING),
                "pids": [executor.pid for executor in self._executors.values() if executor.pid],
            },
            "queue_depth": len(self._queue),
            "max_queue": self._queue.places,
            "in_flight": self._running,
            **self._counters.as_dict(),
        }
        return Frame(
            Kind.RESPONSE,
            frame.request_id,
            payload=codec.encode(Codec.MSGPACK, report),
            status=Status.OK,
            queue_depth=len(self._queue),
            in_flight=self._running,
        )

    # -- timers -----------------------------------------------------------------------------------------

    def _on_timers(self) -> None:
        """Look at everything that has a time; each sets its next one."""
        now_ns = time.monotonic_ns()
        self._timer_ns = 0
        for request in list(self._requests.values()):
            if request.wake_ns and request.wake_ns <= now_ns:
                self._guard(self._on_request_due, request)
            if request.state is not State.ENDED:
                self._at(request.wake_ns)
        for executor in list(self._executors.values()):
            if executor.kill_ns and executor.kill_ns <= now_ns:
                executor.kill_ns = now_ns + _EXIT_NS
                executor.template.tell(wire.KILL, executor)
            self._at(executor.kill_ns)
        self._check_template_start(now_ns)
        self._check_rss(now_ns)
        self._fill_pool(now_ns)

    def _on_request_due(self, request: Request) -> None:
        request.wake_ns = 0
        if request.state in (State.WAITING, State.QUEUED):
            self._queue.remove(request.frame.request_id)
            expired = request.frame.deadline_ns and request.frame.deadline_ns <= time.monotonic_ns()
            self._finish(request, _expired() if expired else _busy())
        elif request.state is State.RUNNING:
            late = MoltTimeout("the deadline passed while the request ran", facts={"phase": "running"})
            self._stop(request, StopReason.TIMED_OUT, late)
        elif request.state is State.STOPPING:
            self._kill(request)
        elif request.state is State.LOST:
            self._finish(request, request.stop_error or MoltWorkerCrashed("the executor died"))

    def _kill(self, request: Request) -> None:
        """The grace time is over: answer for the executor and replace it."""
        executor = request.executor
        assert executor is not None  # STOPPING
        self._read_executor(executor)  # its answer may have come in this moment; then there is nothing to kill
        if request.state is not State.STOPPING:
            return
        self._log.log("warning", "executor_killed", executor=executor.number, entry=request.frame.entry)
        executor.template.tell(wire.KILL, executor)
        executor.state = ExecutorState.GONE
        self._finish(request, request.stop_error or MoltInternalError("the executor was killed"))
        self._drop_executor(executor)

    # -- executors --------------------------------------------------------------------------------------

    def _fill_pool(self, now_ns: int | None = None) -> None:
        """Spawn what is missing."""
        if self._exports is None or self._stopping or not self._templates:
            return
        now_ns = time.monotonic_ns() if now_ns is None else now_ns
        if now_ns < self._spawn_not_before_ns:
            self._at(self._spawn_not_before_ns)
            return
        newest = self._newest_ready()
        present = sum(
            1
            for executor in self._executors.values()
            if executor.state is not ExecutorState.GONE and executor.replaces is None and not executor.retire
        )
        for _ in range(self._pool_size - present):
            if newest is None or self._spawn(newest) is None:
                self._at(now_ns + _FIRST_RESPAWN_NS)
                return

    def _newest_ready(self) -> Template | None:
        return next((each for each in reversed(self._templates) if each.exports is not None), None)

    def _spawn(self, parent: Template, replaces: Executor | None = None) -> Executor | None:
        if not self._words.left:
            return None
        executor = parent.spawn(self._numbers + 1)
        if executor is None:
            return None
        self._numbers += 1
        self._counters.executor_starts += 1
        executor.replaces = replaces
        if replaces is not None:
            replaces.replacement = executor
        self._executors[executor.number] = executor
        self._watch_executor(executor)
        return executor

    def _replace(self, executor: Executor) -> None:
        """Start another one first; it retires this one when it is ready."""
        newest = self._newest_ready()
        if executor.replacement is None and newest is not None and not self._stopping:
            self._spawn(newest, replaces=executor)

    def _watch_executor(self, executor: Executor) -> None:
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if executor.stream.pending_bytes else 0)
        self._watch(executor.sock.fileno(), events, lambda mask: self._on_executor(executor, mask))

    def _on_executor(self, executor: Executor, mask: int) -> None:
        if mask & selectors.EVENT_WRITE:
            with contextlib.suppress(BrokenPipeError):  # its end of file says the same, with its answer before
                executor.stream.flush()
            self._watch_executor(executor)
        if mask & selectors.EVENT_READ and not self._read_executor(executor):
            self._on_executor_eof(executor)

    def _read_executor(self, executor: Executor) -> bool:
        """Take in what an executor sent. False at its end of file."""
        still_open = executor.stream.fill()
        for item in executor.stream.frames():
            if isinstance(item, FrameError):
                self._log.log("error", "executor_broke_protocol", executor=executor.number, error=item.detail)
                return False
            if item.kind is Kind.RESPONSE:
                self._on_response(executor, item)
            elif executor.state is ExecutorState.STARTING:
                self._on_executor_ready(executor)
        return still_open

    def _on_executor_ready(self, executor: Executor) -> None:
        self._boot_deaths = 0
        old, executor.replaces = executor.replaces, None
        if old is not None:
            old.replacement = None
            if old.number in self._executors and old.state is not ExecutorState.GONE:
                self._retire(old)
        self._make_idle(executor)

    def _make_idle(self, executor: Executor) -> None:
        executor.state = ExecutorState.IDLE
        self._idle.append(executor)

    def _on_response(self, executor: Executor, response: Frame) -> None:
        request = executor.request
        if request is None or response.generation != executor.serial or response.request_id != request.frame.request_id:
            # Not an answer to what it was given: it can't be trusted with another request.
            self._log.log("error", "executor_broke_protocol", executor=executor.number)
            executor.template.tell(wire.KILL, executor)
            return
        self._finish(request, response)
        executor.served += 1
        if executor.retire:
            self._dismiss(executor)
            return
        self._make_idle(executor)
        if self._config.max_requests and executor.served >= self._config.max_requests:
            self._recycle(executor, "max_requests")

    def _recycle(self, executor: Executor, why: str) -> None:
        if executor.replacement is None:
            self._counters.recycled += 1
            self._log.log("info", "executor_recycled", executor=executor.number, why=why, served=executor.served)
            self._replace(executor)

    def _retire(self, executor: Executor) -> None:
        """Let an executor exit, after its request if it has one."""
        executor.retire = True
        if executor.state is not ExecutorState.BUSY:
            self._dismiss(executor)

    def _dismiss(self, executor: Executor) -> None:
        if executor in self._idle:
            self._idle.remove(executor)
        executor.kill_ns = self._at(time.monotonic_ns() + _EXIT_NS)
        self._watch(executor.sock.fileno(), 0)
        executor.close()

    def _on_executor_eof(self, executor: Executor) -> None:
        """Its socket closed. That is not its death: make sure of it, and wait for the exit code."""
        if executor.state is ExecutorState.GONE:
            return
        booting = executor.state is ExecutorState.STARTING
        executor.state = ExecutorState.GONE
        executor.template.tell(wire.KILL, executor)
        request = executor.request
        if request is not None and request.state is not State.LOST:
            request.advance(Step.LOSE)
            request.wake_ns = self._at(time.monotonic_ns() + _EXIT_REPORT_NS)
        if booting:
            self._boot_deaths += 1
            delay_ns = min(_MAX_RESPAWN_NS, _FIRST_RESPAWN_NS * 2 ** (self._boot_deaths - 1))
            self._spawn_not_before_ns = time.monotonic_ns() + delay_ns
        self._drop_executor(executor)

    def _drop_executor(self, executor: Executor) -> None:
        """It is as good as dead: nothing is read from it any more, and another takes its place."""
        if executor in self._idle:
            self._idle.remove(executor)
        if executor.sock.fileno() >= 0:
            self._watch(executor.sock.fileno(), 0)
        self._untie(executor)
        self._counters.executor_deaths += 1
        self._fill_pool()

    def _untie(self, executor: Executor) -> None:
        """It replaces nobody and nobody replaces it: who was tied to it counts for itself again."""
        if executor.replaces is not None:
            executor.replaces.replacement = None
            executor.replaces = None
        if executor.replacement is not None:
            executor.replacement.replaces = None
            executor.replacement = None

    def _on_exited(self, executor: Executor, code: int) -> None:
        """The template reaped it."""
        if executor.state is not ExecutorState.GONE:
            # Reaped before its end of file was seen: an answer may still be on the socket.
            self._read_executor(executor)
            if executor.state is not ExecutorState.GONE:
                self._on_executor_eof(executor)
        request = executor.request
        if request is not None:
            crash = MoltWorkerCrashed(
                f"the executor died while it ran {request.frame.entry!r}: {exit_text(code)}",
                facts=exit_facts(code),
            )
            self._finish(request, request.stop_error or crash)
            self._log.log("error", "executor_crashed", executor=executor.number, exit=exit_text(code))
        self._forget(executor)

    def _forget(self, executor: Executor) -> None:
        executor.sock.close()
        if self._executors.pop(executor.number, None) is not None:
            self._words.give_back(executor.word_index)
        self._retire_templates()

    def _check_rss(self, now_ns: int) -> None:
        if not self._config.max_rss_mb or self._stopping:
            return
        if now_ns >= self._next_rss_ns:
            self._next_rss_ns = now_ns + _RSS_CHECK_NS
            for executor in list(self._executors.values()):
                if executor.served and executor.pid and executor.state is not ExecutorState.GONE:
                    with contextlib.suppress(psutil.Error):
                        rss = psutil.Process(executor.pid).memory_info().rss
                        if rss > self._config.max_rss_mb * 1024 * 1024:
                            self._recycle(executor, "max_rss_mb")
        self._at(self._next_rss_ns)

    # -- templates --------------------------------------------------------------------------------------

    def _start_template(self) -> None:
        now_ns = time.monotonic_ns()
        started = Template(self._config, self._words, now_ns)
        self._templates.append(started)
        self._at(now_ns + self._config.start_timeout_ms * _MS)
        self._watch(started.control.fileno(), selectors.EVENT_READ, lambda _: self._on_template(started))

    def _on_template(self, each: Template) -> None:
        still_open = each.stream.fill()
        for item in each.stream.frames():
            if isinstance(item, FrameError):
                still_open = False
                each.kill()
                break
            self._on_report(each, item)
        if not still_open:
            self._on_template_gone(each)

    def _on_report(self, each: Template, report: Frame) -> None:
        if report.kind is Kind.RESPONSE:  # why it can't import the exports
            body = codec.decode(Codec.MSGPACK, report.payload)
            each.failure = str(body["detail"])
        elif report.entry == HELLO:
            self._on_template_ready(each, report)
        else:
            executor = self._executors.get(report.request_id)
            if executor is None:
                return
            if report.entry == wire.SPAWNED:
                executor.pid = decode_report(report)
            elif report.entry == wire.EXITED:
                self._on_exited(executor, decode_report(report))

    def _on_template_ready(self, each: Template, report: Frame) -> None:
        rows = codec.decode(Codec.MSGPACK, report.payload)
        each.exports = ExportTable(
            Export(name, target, codec.parse(codec_in), codec.parse(codec_out))
            for name, codec_in, codec_out, target in rows
        )
        first = self._exports is None
        self._exports = each.exports
        self._boot_deaths = 0
        self._log.log("info", "exports_loaded", count=len(each.exports), template=each.pid)
        if first:
            self._refuse_unknown()
            with contextlib.suppress(FrameError):
                self._send(Frame(Kind.CONTROL, 0, HELLO))
        else:
            self._counters.reloads += 1
            for executor in list(self._executors.values()):
                if executor.template is not each and executor.state is not ExecutorState.GONE:
                    self._replace(executor)
        self._at(time.monotonic_ns() + _RSS_CHECK_NS if self._config.max_rss_mb else 0)
        self._fill_pool()

    def _refuse_unknown(self) -> None:
        """Requests that came before the exports were known can be checked now."""
        assert self._exports is not None
        for request in list(self._queue):
            try:
                self._exports.find(request.frame)
            except MoltInvalidInput as exc:
                self._queue.remove(request.frame.request_id)
                self._finish(request, exc)

    def _on_template_gone(self, each: Template) -> None:
        """Its end of file: it exited or was killed, and its executors die with it."""
        self._watch(each.control.fileno(), 0)
        each.stop()
        self._templates.remove(each)
        each.kill()  # one that only closed its socket is of no use any more
        code = each.reap(block=True)
        text = each.failure or f"the template process died: {exit_text(code or 0)}"
        for executor in [item for item in self._executors.values() if item.template is each]:
            self._on_orphaned(executor)
        if each.exports is None and self._exports is not None:
            self._log.log("error", "reload_failed", error=text)
        elif self._exports is None:
            self._fail_start(text)
        else:
            self._log.log("error", "template_died", error=text)
            if self._newest_ready() is None and not self._stopping:
                self._start_template()
        self._fill_pool()

    def _on_orphaned(self, executor: Executor) -> None:
        if executor.state is not ExecutorState.GONE:
            self._read_executor(executor)
        if executor.state is not ExecutorState.GONE:
            self._on_executor_eof(executor)
        if executor.request is not None:
            crash = MoltWorkerCrashed("the executor died with its template process")
            self._finish(executor.request, executor.request.stop_error or crash)
        self._forget(executor)

    def _fail_start(self, why: str) -> None:
        """Without exports there is nothing to serve: say why, to the client and in the log, and exit."""
        self._exit_code = wire.EXIT_BAD_EXPORTS
        self._log.log("error", "start_failed", error=why)
        self._send(error_response(Frame(Kind.REQUEST, 0), MoltWorkerUnavailable(why)))
        self._stop_all(f"the worker can't start: {why}")

    def _check_template_start(self, now_ns: int) -> None:
        for each in self._templates:
            if each.exports is None:
                until_ns = each.started_ns + self._config.start_timeout_ms * _MS
                if now_ns >= until_ns:
                    each.failure = f"the exports took longer than {self._config.start_timeout_ms} ms to import"
                    each.kill()
                else:
                    self._at(until_ns)

    def _retire_templates(self) -> None:
        """A template that is neither the newest nor has executors is not needed any more."""
        newest = self._newest_ready()
        for each in list(self._templates):
            used = any(executor.template is each for executor in self._executors.values())
            if each.exports is not None and each is not newest and not used:
                self._watch(each.control.fileno(), 0)
                each.stop()
                self._templates.remove(each)
                each.reap(block=True)


def _expired() -> MoltTimeout:
    return MoltTimeout("the deadline passed in the queue", facts={"phase": "queue"})


def _busy() -> MoltBusy:
    return MoltBusy("the queue is full", facts={"retry_after_s": 1})


def _where(exc: BaseException) -> str:
    trace = exc.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"{os.path.basename(trace.tb_frame.f_code.co_filename)}:{trace.tb_lineno}" if trace else "?"
