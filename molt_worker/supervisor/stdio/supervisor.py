"""The supervisor of stdio: what becomes of requests.

Frames come from the one client and go to the pool's executors. Timers and signals decide what else happens. `_finish`
ends every request, once.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from typing import Final

from molt_accel import errors
from molt_accel.config import Config
from molt_accel.durations import NS_PER_MS, NS_PER_S, NS_PER_US
from molt_accel.errors import BusyReason, MoltError
from molt_accel.ipc import messages
from molt_accel.ipc.frame import FrameError, Item, format_id
from molt_accel.ipc.messages import Message, Response
from molt_accel.ipc.outcomes import (
    busy,
    crashed,
    died_unreported,
    expired_in_queue,
    timed_out_running,
    too_late,
)
from molt_accel.ipc.stream import FrameStream
from molt_accel.overload.episode import Episode
from molt_worker.entrypoints.exports import ExportTable
from molt_worker.entrypoints.request import StopReason
from molt_worker.entrypoints.runner import error_response, set_error
from molt_worker.processes.handles import ExecutorHandle, ExecutorState, StopWords
from molt_worker.processes.pool import Pool
from molt_worker.runtime.log import LogSink
from molt_worker.runtime.loop import READ, WRITE
from molt_worker.runtime.metrics import request_fields, request_level
from molt_worker.supervisor import report
from molt_worker.supervisor.base import Worker
from molt_worker.supervisor.stdio.admission import Admission
from molt_worker.supervisor.stdio.handout import HandOut
from molt_worker.supervisor.stdio.lifecycle import HELD, Request, RequestEvent, RequestState
from molt_worker.supervisor.stdio.queue import BoundedQueue, Verdict

#: While the client doesn't read its responses, requests are read only up to this many unsent bytes.
_HIGH_WATER_BYTES: Final = 4 * 1024 * 1024
_QUEUE_FRAMES: Final = 4  #: all queued payloads together may hold this many times the frame limit
#: How long the report of an executor's exit may lag behind the end of its socket.
_EXIT_REPORT_NS: Final = 2 * NS_PER_S
_FLUSH_NS: Final = NS_PER_S  #: how long the last responses may take to leave when the worker stops
#: Exit code if responses couldn't be sent any more: a client must not take unanswered requests for unread ones.
EXIT_UNSENT: Final = 1


class StdioSupervisor:
    """Serves one client over a pair of descriptors, with a pool of executors. `run` makes them non-blocking."""

    def __init__(self, config: Config, read_fd: int, write_fd: int, log: LogSink) -> None:
        self._worker = worker = Worker(config, log)
        self._config, self._log, self._loop, self._counters = config, log, worker.loop, worker.counters
        self._handout = HandOut(config.max_frame_bytes)
        # Slots for a whole pool being replaced while one more generation is being reaped.
        words = StopWords(4 * config.pool_size + 16)
        self.pool = Pool(config, worker.loop, log, worker.counters, words, self._handout, self)
        self._client = FrameStream(read_fd, write_fd, config.max_frame_bytes, messages.STDIO_FROM_CLIENT)
        self._client_open = True
        self._requests: dict[int, Request] = {}
        queued_bytes = _QUEUE_FRAMES * config.max_frame_bytes
        self._admission = Admission(config.queue_target_ms * NS_PER_MS, self._handout.running)
        self._queue: BoundedQueue[Request] = BoundedQueue(config.max_queue, queued_bytes, self._order)
        self._episode = Episode()
        self._greeted = False
        self._flush_until_ns = 0
        self._blocking: dict[int, bool] = {}  # what the descriptors were before `run`

    def run(self) -> int:
        """Serve until the client is gone or a signal says so. Returns the exit code."""
        for fd in (self._client.read_fd, self._client.write_fd):
            self._blocking.setdefault(fd, os.get_blocking(fd))
            os.set_blocking(fd, False)
        return self._worker.run(self)

    # -- Supervisor -------------------------------------------------------------------------------------

    def settle(self) -> None:
        self._loop.guard(self._dispatch)
        self._watch_client()

    def close(self) -> None:
        for fd, was_blocking in self._blocking.items():
            with contextlib.suppress(OSError):
                os.set_blocking(fd, was_blocking)

    def finished(self) -> bool:
        if self._requests or not (self._worker.stopping or self._worker.draining):
            return False
        if not self._client.pending_bytes:
            return True
        now_ns = time.monotonic_ns()
        self._flush_until_ns = self._flush_until_ns or now_ns + _FLUSH_NS
        self._loop.at(self._flush_until_ns)
        if now_ns < self._flush_until_ns:
            return False
        self._worker.exit_code = self._worker.exit_code or EXIT_UNSENT
        return True

    def drain(self) -> None:
        self._log.log("info", "worker_draining", requests=len(self._requests))

    def stop(self, why: MoltError) -> None:
        """End every request with this error. Running requests are interrupted and get their grace time."""
        self._worker.stopping = True
        self.pool.stop()
        for request in list(self._requests.values()):
            error = why
            if request.state in HELD and isinstance(why, errors.MoltWorkerUnavailable):
                error = errors.MoltWorkerUnavailable(why.detail, facts={"may_have_run": 1})
            self._cancel(request, error)

    def on_timers(self, now_ns: int) -> None:
        for request in list(self._requests.values()):
            if request.wake_ns and request.wake_ns <= now_ns:
                request.wake_ns = 0
                self._loop.guard(self._on_due, request, now_ns)
            if request.state is not RequestState.ENDED:
                self._loop.at(request.wake_ns)

    # -- the client -------------------------------------------------------------------------------------

    def _watch_client(self) -> None:
        client = self._client
        reading = READ if self._client_open and client.pending_bytes < _HIGH_WATER_BYTES else 0
        writing = WRITE if client.pending_bytes else 0
        for fd in {client.read_fd, client.write_fd}:
            events = (reading if fd == client.read_fd else 0) | (writing if fd == client.write_fd else 0)
            self._loop.watch(fd, events, self._on_client)

    def _on_client(self, mask: int) -> None:
        if mask & WRITE:
            try:
                self._client.flush()
            except BrokenPipeError:
                self._client_unreachable()
        if mask & READ and self._client_open:
            got = self._client.fill()
            for item in self._client.frames():
                self._loop.guard(self._on_frame, item)
            if got is None:
                self._client_gone()

    def _client_gone(self) -> None:
        if self._client_open:
            self._client_open = False
            self._log.log("info", "client_gone", requests=len(self._requests))
            self.stop(errors.MoltCancelled("the client is gone"))

    def _client_unreachable(self) -> None:
        self._client.discard()
        self._client_gone()

    def _on_frame(self, item: Item | FrameError) -> None:
        if isinstance(item, messages.Request):
            self._on_request(item)
        elif isinstance(item, FrameError):
            self._refuse(item.raw_id, item.raw_generation, item.detail)
        elif isinstance(item, messages.Cancel):
            request = self._requests.get(item.request_id)
            if request is not None and request.frame.generation == item.generation:
                self._cancel(request, errors.MoltCancelled("the client asked to stop"))
        elif isinstance(item, Response):
            self._refuse(item.request_id, item.generation, "a response is not for a worker")

    def _refuse(self, request_id: int, generation: int, why: str) -> None:
        """Refuse a frame: by an answer under its id, unless it has none or a request of this id is in flight."""
        self._counters.bad_frames += 1
        self._log.log("warning", "bad_frame", error=why)
        if request_id and request_id not in self._requests:
            error = errors.MoltInvalidInput(why)
            self._send(error_response(messages.Request(request_id, "", generation=generation), error))
        else:
            self._send(messages.BadFrame(why))

    def _send(self, item: Response | Message) -> None:
        try:
            self._client.send(item)
        except BrokenPipeError:
            self._client_unreachable()
        except FrameError as exc:
            if isinstance(item, Message):
                raise
            # The report of a ping is larger than a small frame limit.
            set_error(item, errors.MoltInternalError(f"the result is {exc.detail}"))
            self._send(item)

    # -- requests: placed, handed out, stopped, ended ---------------------------------------------------

    def _on_request(self, frame: messages.Request) -> None:
        if frame.request_id in self._requests:
            why = f"request id {format_id(frame.request_id)} is in flight already"
            self._refuse(frame.request_id, frame.generation, why)
            return
        now_ns = time.monotonic_ns()
        request = self._requests[frame.request_id] = Request(frame, arrived_ns=now_ns)
        try:
            if frame.entry == messages.PING:
                self._finish(request, self._pong(frame))
                return
            if self._worker.draining or self._worker.stopping:
                raise busy(BusyReason.STOPPING)
            if self.pool.exports is not None:
                self.pool.exports.find(frame)
            self._place(request, now_ns)
        except MoltError as exc:
            self._finish(request, exc)

    def _place(self, request: Request, now_ns: int) -> None:
        """Hand a new request out, queue it, or let it wait for a place. Raises MoltTimeout or MoltBusy if it can't."""
        frame = request.frame
        if 0 < frame.deadline_ns <= now_ns:
            raise expired_in_queue()
        if self._is_next(request):
            self._admission.began_at_once(frame.entry, now_ns)
            self._hand_out(request)
            return
        self._judge(request, now_ns)
        is_default = frame.max_wait_ms == messages.WORKER_DEFAULT_WAIT
        wait_ms = self._config.max_wait_ms if is_default else frame.max_wait_ms
        verdict = self._queue.offer(frame.request_id, request, len(frame.payload), may_wait=wait_ms > 0)
        if verdict is Verdict.BUSY:
            raise self._queue_full(request, now_ns)
        if verdict is Verdict.WAITING:
            request.advance(RequestEvent.WAIT)
            give_up_ns = now_ns + wait_ms * NS_PER_MS
            request.wake_ns = min(give_up_ns, frame.deadline_ns or give_up_ns)
        else:
            request.advance(RequestEvent.ENQUEUE)
            request.wake_ns = frame.deadline_ns
        self._loop.at(request.wake_ns)

    def _order(self, request: Request) -> int:
        return self._admission.order(request.frame.entry, request.arrived_ns)

    def _is_next(self, request: Request) -> bool:
        """Whether a new request can be handed out at once, since nobody who is queued can."""
        if not self._may_hand_out():
            return False
        passed = self._admission.at_limit()
        return request.frame.entry not in passed and all(each.frame.entry in passed for each in self._queue)

    def _judge(self, request: Request, now_ns: int) -> None:
        """Raise MoltBusy for a new request that would have to wait for too long."""
        frame, idle = request.frame, self._handout.idle
        refusal = self._admission.refusal(frame.entry, now_ns, frame.deadline_ns, self._ahead(request), idle)
        if refusal is not None:
            raise busy(refusal.reason, refusal.wait_ns)

    def _ahead(self, request: Request) -> Iterator[str]:
        """The entrypoints of what is queued before a request."""
        return (each.frame.entry for each in self._queue.before(self._order(request)))

    def _queue_full(self, request: Request, now_ns: int) -> MoltError:
        """The error of a request for which there is no place."""
        wait_ns = self._admission.wait_ns(
            request.frame.entry, now_ns, self._ahead(request), self._handout.idle
        )
        return busy(BusyReason.QUEUE_FULL, wait_ns)

    def _dispatch(self) -> None:
        """Give idle executors those who are next, and free places in the queue to requests that wait for one."""
        while self._may_hand_out() and (request := self._take()) is not None:
            late = self._lateness(request)
            if late is not None:
                self._finish(request, late)
            else:
                self._hand_out(request)
        while (waiting := self._queue.promote()) is not None:
            waiting.advance(RequestEvent.ENQUEUE)
            waiting.wake_ns = self._loop.at(waiting.frame.deadline_ns)

    def _take(self) -> Request | None:
        """Take up who is next. Others pass those of whose entrypoint so many requests run as may."""
        passed = self._admission.at_limit()
        return self._queue.take(lambda each: each.frame.entry not in passed)

    def _lateness(self, request: Request) -> MoltError | None:
        """The error of a request that has been taken up and can't end before its deadline any more; None: it can."""
        frame = request.frame
        now_ns = time.monotonic_ns()
        left_ns = frame.deadline_ns - now_ns
        if not frame.deadline_ns:
            return None
        if left_ns <= 0:
            return expired_in_queue()
        hopeless = self._admission.is_hopeless(frame.entry, now_ns, left_ns, len(self._queue))
        return too_late() if hopeless else None

    def _may_hand_out(self) -> bool:
        """Whether an executor is idle, and the client reads its responses."""
        return self._handout.idle > 0 and self._client.pending_bytes < _HIGH_WATER_BYTES

    def _hand_out(self, request: Request) -> None:
        request.advance(RequestEvent.HAND_OUT)
        request.wake_ns = self._loop.at(request.frame.deadline_ns)
        executor, serial = self._handout.assign(request, time.monotonic_ns())
        frame = request.frame
        client_generation = frame.generation
        frame.queue_depth = len(self._queue)
        frame.in_flight = self._handout.busy
        frame.generation = serial  # on this socket; the client's own comes back with the response
        try:
            # If the executor has just died, `on_closed` puts the request back.
            self.pool.send(executor, frame)
        finally:
            frame.generation = client_generation

    def _cancel(self, request: Request, error: MoltError) -> None:
        if request.state is RequestState.ENDED:
            return  # answering an earlier request found the client's pipe closed, which ended this one too
        if request.state not in HELD:
            self._queue.remove(request.frame.request_id)
            self._finish(request, error)
        elif request.state is RequestState.RUNNING:
            self._stop(request, StopReason.CANCELLED, error)

    def _stop(self, request: Request, reason: StopReason, error: MoltError) -> None:
        """Interrupt a running request, which begins its grace time."""
        assert request.executor is not None  # RUNNING
        request.advance(RequestEvent.STOP)
        request.stop_error = error
        self.pool.interrupt(request.executor, self._handout.serial(request.executor), reason)
        request.wake_ns = self._loop.at(time.monotonic_ns() + self._config.grace_ms * NS_PER_MS)

    def _finish(
        self, request: Request, outcome: Response | MoltError, error: MoltError | None = None
    ) -> None:
        """End a request: forget it, answer it, and log it. `error` replaces the status of an executor's response."""
        request.advance(RequestEvent.END)
        frame = request.frame
        del self._requests[frame.request_id]
        if isinstance(outcome, MoltError):
            error = outcome
            response = self._own_response(request)
        else:
            response = outcome
            response.request_id, response.generation = frame.request_id, frame.generation
        if error is not None:
            set_error(response, error)
        label = response.status.label if error is None else errors.status_label(error)
        if isinstance(error, errors.MoltBusy) and error.reason != BusyReason.STOPPING:
            self._count_refusal(frame.entry, error)
        self._send(response)
        self._counters.outcomes[label] += 1
        # Refusals come by the thousand; the first one of an episode has a line of its own.
        level = "debug" if isinstance(error, errors.MoltBusy) else request_level(label)
        if self._log.wants(level):
            self._log.log(level, "request", **request_fields(frame, response, label))

    def _count_refusal(self, entry: str, why: errors.MoltBusy) -> None:
        self._admission.count(entry)
        line = self._episode.refused(why.reason, time.monotonic_ns())
        if line is not None:
            self._log.log("warning", "shedding", entry=entry, **line)

    def _own_response(self, request: Request) -> Response:
        """A response that no executor sent, with the metrics that are known here."""
        frame = request.frame
        response = Response(frame.request_id, generation=frame.generation)
        response.queue_depth, response.in_flight = len(self._queue), self._handout.busy
        if request.executor is not None:
            response.executor = request.executor.number
            self._handout.release(request.executor)
        elif frame.sent_ns:
            waited_us = (time.monotonic_ns() - frame.sent_ns) // 1000
            response.queue_us = min(max(0, waited_us), messages.U32_MAX)
        return response

    def _pong(self, ping: messages.Request) -> Response:
        living = self.pool.living()
        ready = sum(executor.state is ExecutorState.READY for executor in living)
        idle = self._handout.idle
        return report.pong(
            ping,
            self.pool,
            self._counters,
            executors={"idle": idle, "busy": ready - idle, "starting": len(living) - ready},
            queue_depth=len(self._queue),
            in_flight=self._handout.busy,
            transport="stdio",
            ready=self.pool.exports is not None,
            max_queue=self._queue.capacity,
            shed={reason.value: self._episode.by_reason[reason.value] for reason in BusyReason},
            entries=self._admission.report(each.frame.entry for each in self._queue),
        )

    # -- requests: what is due ---------------------------------------------------------------------------

    def _on_due(self, request: Request, now_ns: int) -> None:
        if request.state in (RequestState.WAITING, RequestState.QUEUED):
            self._queue.remove(request.frame.request_id)
            expired = 0 < request.frame.deadline_ns <= now_ns
            self._finish(request, expired_in_queue() if expired else self._queue_full(request, now_ns))
        elif request.state is RequestState.RUNNING:
            self._stop(request, StopReason.TIMED_OUT, timed_out_running())
        elif request.state is RequestState.STOPPING:
            self._kill(request)
        elif request.state is RequestState.LOST:
            self._finish(request, request.stop_error or died_unreported())

    def _kill(self, request: Request) -> None:
        """The grace time is over: answer in place of the executor, and kill it."""
        executor = request.executor
        assert executor is not None  # STOPPING
        assert request.stop_error is not None
        self.pool.poll(executor)  # if its answer came in this very moment, there is nothing to kill
        if request.state is RequestState.STOPPING:
            now_ns = time.monotonic_ns()
            ran_ns = now_ns - self._handout.running[executor].since_ns
            self._admission.learn(request.frame.entry, now_ns, ran_ns, stopped=True)
            self._log.log("warning", "executor_killed", executor=executor.number, entry=request.frame.entry)
            self._finish(request, request.stop_error)
            self.pool.kill(executor)

    # -- what the pool tells ------------------------------------------------------------------------------

    def on_exports(self, exports: ExportTable) -> None:
        self._admission.set_exports(exports)
        self._queue.sort()
        for request in list(self._queue):  # requests that came before the exports were known
            if request.state is RequestState.ENDED:
                continue  # answering an earlier request found the client's pipe closed, which ended this one too
            try:
                exports.find(request.frame)
            except errors.MoltEntryError as exc:
                self._queue.remove(request.frame.request_id)
                self._finish(request, exc)

    def on_start_failed(self, why: MoltError) -> None:
        self._send(messages.StartFailed(errors.to_wire(why)))
        self.stop(self._worker.start_failed(why))

    def on_reload_failed(self, why: MoltError) -> None:
        """Do nothing: the client has not asked for the reload."""

    def on_executor_ready(self, executor: ExecutorHandle) -> None:
        self._handout.add(executor)
        if not self._greeted:
            self._greeted = True
            self._send(messages.Hello())

    def on_message(self, executor: ExecutorHandle, message: Item) -> bool:
        if not isinstance(message, Response):
            return True  # the executor says again that it is ready
        request = self._handout.request_of(executor)
        if request is None or message.generation != self._handout.serial(executor):
            return False  # the executor answers a request that it was not given
        self._handout.release(executor)
        # An executor that gave in says only that it was stopped. The reason is known here.
        stopped = message.status in (errors.Status.CANCELLED, errors.Status.TIMEOUT)
        took_ns = message.exec_us * NS_PER_US
        self._admission.learn(request.frame.entry, time.monotonic_ns(), took_ns, stopped=stopped)
        gave_in = request.state is RequestState.STOPPING and stopped
        self._finish(request, message, request.stop_error if gave_in else None)
        if not self._handout.answered(executor):
            self.pool.retire(executor)
        elif 0 < self._config.max_requests <= self._handout.served(executor):
            self.pool.recycle(executor, "max_requests")
        return True

    def on_closed(self, executor: ExecutorHandle) -> None:
        self._handout.closed(executor)
        request = self._handout.request_of(executor)
        if request is None:
            return
        unread = executor.stream.was_reset or executor.stream.pending_bytes
        if unread and request.handed_back < self.pool.size:
            # The executor died before it had read the request, so the request has not begun. This may happen by chance,
            # to each executor of the pool once. If it goes on, the request kills them.
            self._handout.release(executor)
            if request.stop_error is not None:  # the request was to be stopped anyway
                self._finish(request, request.stop_error)
                return
            request.advance(RequestEvent.HAND_BACK)
            request.handed_back += 1
            self._queue.put_back(request.frame.request_id, request, len(request.frame.payload))
        else:
            request.advance(RequestEvent.LOSE)
            request.wake_ns = self._loop.at(time.monotonic_ns() + _EXIT_REPORT_NS)

    def on_reaped(self, executor: ExecutorHandle, exit_code: int | None) -> None:
        request = self._handout.request_of(executor)
        if request is not None:
            crash = crashed(request.frame.entry, exit_code)
            self._log.log("error", "executor_crashed", executor=executor.number, error=crash.detail)
            self._finish(request, request.stop_error or crash)
        self._handout.reaped(executor)
