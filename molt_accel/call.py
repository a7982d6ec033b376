"""One call, from its payload to its outcome: encode, send, wait, map, retry, report.

Written once as a generator (`make_call`) that yields what it has to wait for, so that `Client.call` and
`Client.acall`, which wait in different ways, can't differ.
"""

from __future__ import annotations

import itertools
import logging
import os
import time
from collections.abc import Callable, Generator, Mapping
from typing import Any, Final

import msgspec

from molt_accel import codec, lenient
from molt_accel.bulkheads import Passage
from molt_accel.errors import (
    MoltBusy,
    MoltCancelled,
    MoltEntryError,
    MoltError,
    MoltInternalError,
    MoltInvalidInput,
    MoltProtocolError,
    Status,
    from_wire,
    row_of,
    status_label,
)
from molt_accel.forms import failure as failures
from molt_accel.hangup import HALF_CLOSE, hangups
from molt_accel.ipc.frame import Fault, FrameError, format_id
from molt_accel.ipc.messages import UNDECODABLE, WORKER_DEFAULT_WAIT, Codec, Request, Response
from molt_accel.ipc.outcomes import expired_in_queue, http_client_gone, no_answer, worker_gone
from molt_accel.options import CallInfo, CallMetrics, CallOptions, CallPlan
from molt_accel.overload.episode import Episode
from molt_accel.transports.base import PendingCall, Sender, Transport
from molt_accel.transports.line import LeavingLine
from molt_accel.waits import FOREVER, CallEnd, Pause, Wait, WorkerStart, not_started_in_time

log = logging.getLogger("molt_accel")

CANCEL_AFTER_S: Final = 0.01  #: a call that is answered sooner never looks whether its client is still there
_CANCEL_AFTER_NS: Final = int(CANCEL_AFTER_S * 1e9)
#: Faults of a frame that can only come from what the caller gave.
_CALLERS_FAULTS: Final = {Fault.TOO_LARGE: MoltInvalidInput, Fault.ENTRY: MoltEntryError}
CANCEL_POLL_S: Final = 0.02  #: how often a cancel check without a descriptor is asked
#: How often a request that no worker has got is sent again. Callers race for what a start has brought, and may lose a
#: few times; after that they pause before each round, twice as long each time.
_ROUNDS: Final = 12
_ROUNDS_WITHOUT_PAUSE: Final = 3
_FIRST_PAUSE_S: Final = 0.001
_LINE_PAUSE_S: Final = 0.005  #: how often the first call of a client's line looks for a place
# Looking a member up in an enumeration costs more than the call that it is for.
_OK: Final = Status.OK
_OK_LABEL: Final = Status.OK.label

#: What this process's calls were refused. The log has a line for an episode, and not for each of them.
shedding: Final = Episode()

# Ids of different processes and clients should not meet in one log: count on from a random start.
_ids = itertools.count(int.from_bytes(os.urandom(7)) | 1)


def _reseed_ids() -> None:
    global _ids
    _ids = itertools.count(int.from_bytes(os.urandom(7)) | 1)


os.register_at_fork(after_in_child=_reseed_ids)


class Reply(msgspec.Struct, frozen=True):
    """A call that succeeded.

    Attributes:
        value: The result; undecoded bytes with ``decode_response=False``.
        codec: How the worker encoded it.
    """

    value: Any
    codec: Codec
    _request: Request
    _response: Response
    _ended_ns: int

    @property
    def entry(self) -> str:
        """The entrypoint's name."""
        return self._request.entry

    @property
    def metrics(self) -> CallMetrics:
        """The call's metrics, made on demand, since most callers never ask."""
        return CallMetrics.of(_OK_LABEL, self._request, self._response, self._ended_ns)

    def __repr__(self) -> str:
        return f"Reply(value={self.value!r}, codec={self.codec!r}, metrics={self.metrics!r})"


#: A call under way, for `waits.drive` or `waits.adrive`. It ends with its `Reply`, or its value alone.
Call = Generator[Wait, Any, Any]
CancelCheck = Callable[[], bool]


def make_call(
    transport: Transport,
    options: CallOptions,
    payload: object,
    cancel_check: CancelCheck | None = None,
    metadata: Mapping[str, Any] | None = None,
    passage: Passage | None = None,
    *,
    blocks: bool = False,
    value_only: bool = False,
) -> Call:
    """Make one call. It ends with its `Reply`, or raises a MoltError (or what a `before_send` hook raised).

    Most calls end within their first wait, and have succeeded. That is the short way, seen here as a whole; `_go_on`
    has all others.

    Args:
        transport: What takes the request to a worker.
        options: How the call is made.
        payload: What the codec encodes.
        cancel_check: In place of the options' own.
        metadata: Travels behind the payload.
        passage: Its way through the bulkheads; None: nothing bounds the calls of this process.
        blocks: It is for `drive`: the first wait may block at once, which saves a step.
        value_only: It ends with the reply's value. A caller that asks for no more saves what makes the rest.
    """
    plan = options.plan
    now_ns = time.monotonic_ns()
    deadline_ns = now_ns + plan.timeout_ns if plan.timeout_ns else 0
    # By position, which is faster. Payload and generation are set later.
    request = Request(next(_ids), options.entry, b"", plan.codec, 0, deadline_ns, now_ns, plan.max_wait_ms)
    sent: PendingCall | MoltError | None = None
    response: Response | None = None  # of a call that went the short way `sent` makes it, if somebody asks
    try:
        if passage is not None:
            passage.enter()
        try:
            data = request.payload = plan.encode(payload)
        except codec.UNENCODABLE as exc:
            why = codec.unencodable(plan.codec, payload, plan.encode, exc)
            why.__cause__ = exc
            raise MoltInvalidInput(why.of("payload", "the payload")) from why
        if metadata:
            _append(request, metadata)
        if options.before_send is not None:
            options.before_send(CallInfo(options.entry, format_id(request.request_id), len(data)))
        check = options.cancel_check if cancel_check is None else cancel_check
        sent = _send(transport, request)
        success = ended = None
        if sent is not None and not isinstance(sent, MoltError):
            try:
                until_ns = deadline_ns if check is None else _first_look_ns(request)
                ended = sent.wait_until(until_ns) if blocks else (yield CallEnd(sent, until_ns))
            except BaseException:
                _stop(transport, sent)
                raise
            success = sent.success
        if success is None:  # what follows is unusual
            first, sent = (sent, ended), None
            response, failure = yield from _go_on(transport, plan, request, check, first)
            if failure is not None:
                _blame(failure, payload)
                try:
                    raise failure
                finally:
                    # Its traceback refers to this frame: the two would keep each other alive.
                    del failure, first
            assert response is not None  # without a failure there is a response
            success = response.codec, response.payload
        encoding, value = success
        if options.decode_response:
            try:
                value = codec.DECODERS[encoding](value)
            except codec.UNDECODABLE:  # or msgspec says so
                value = decode_result(options.entry, encoding, value)
    except BaseException as exc:
        _note_failure(exc, options, request, response or _response_of(sent))
        raise
    finally:
        if passage is not None:
            passage.leave(response or _response_of(sent))
    if value_only and not plan.reports:
        return value
    response = response or _response_of(sent)
    assert response is not None  # every call that has succeeded has one
    reply = Reply(value, encoding, request, response, time.monotonic_ns())
    if plan.reports:
        _report(options, reply.metrics, None)
    return value if value_only else reply


def report_refusal(options: CallOptions, error: MoltBusy) -> None:
    """Report a call that is refused before it is made, as one that was made: with an id, to hooks and log."""
    now_ns = time.monotonic_ns()
    _note_failure(error, options, Request(next(_ids), options.entry, b"", sent_ns=now_ns), None)


def _note_failure(
    error: BaseException, options: CallOptions, request: Request, response: Response | None
) -> None:
    if isinstance(error, MoltError) and not error.request_id:
        error.request_id = format_id(request.request_id)
    now_ns = time.monotonic_ns()
    reason = ""
    if isinstance(error, MoltBusy):
        reason = error.reason
        if line := shedding.refused(reason, now_ns):
            log.warning(
                "requests are refused: %s", ", ".join(f"{key}={value}" for key, value in line.items())
            )
    if options.plan.reports:
        _report(options, CallMetrics.of(_label(error), request, response, now_ns, reason), error)


def _append(request: Request, metadata: Mapping[str, Any]) -> None:
    """Put metadata behind the payload."""
    try:
        encoded = codec.encode_metadata(metadata)
    except codec.EncodeError as exc:
        raise MoltInvalidInput(f"the metadata {exc}") from exc
    request.payload = bytes(request.payload) + encoded
    request.metadata_bytes = len(encoded)


#: How a call ended: the response, if one came, and the error unless it succeeded.
_Outcome = tuple[Response | None, MoltError | None]
#: What became of sending a request: the call in flight; why there is none; None: there must be a worker first. And
#: whether it has ended within the first wait; None: nobody has waited yet.
_Sent = tuple[PendingCall | MoltError | None, bool | None]


def _send(transport: Sender, request: Request) -> PendingCall | MoltError | None:
    try:
        return transport.submit(request)
    except FrameError as exc:
        return whose_fault(exc)
    except MoltError as exc:
        return exc


def _first_look_ns(request: Request) -> int:
    """Until when a call with a cancel check waits before anything else is looked at."""
    soon_ns = time.monotonic_ns() + _CANCEL_AFTER_NS
    return min(request.deadline_ns, soon_ns) if request.deadline_ns else soon_ns


def _response_of(sent: PendingCall | MoltError | None) -> Response | None:
    """The response of a call in flight that has ended with one."""
    result = None if sent is None or isinstance(sent, MoltError) else sent.result
    return result if isinstance(result, Response) else None


def _stop(transport: Sender, pending: PendingCall) -> None:
    """Ctrl-C, a cancelled task, a failing cancel check: whoever stops waiting stops the work too."""
    transport.abandon(pending, MoltCancelled("the caller stopped waiting"))


def _go_on(
    transport: Transport, plan: CallPlan, request: Request, check: CancelCheck | None, sent: _Sent
) -> Generator[Wait, Any, _Outcome]:
    """Go on with a request that was sent, and send it again while that may help and time is left."""
    tries_left = plan.retries
    pause_s = plan.pause_s
    first: _Sent | None = sent
    while True:
        response, error = yield from attempt(transport, request, check, first)
        first = None
        if isinstance(error, MoltBusy):
            response, error = yield from _after_busy(transport, request, check, (response, error))
        passing = error is not None and row_of(error).passing
        if not tries_left or not passing or _seconds_left(request) <= pause_s:
            return response, error
        if check is not None and check():
            return response, http_client_gone()
        yield Pause(pause_s)
        tries_left -= 1
        pause_s *= 2


def _seconds_left(request: Request) -> float:
    if not request.deadline_ns:
        return FOREVER
    return (request.deadline_ns - time.monotonic_ns()) / 1e9


def _in_ns(seconds: float) -> int:
    """The time of CLOCK_MONOTONIC, in ns, that comes after so many seconds."""
    return time.monotonic_ns() + int(seconds * 1e9)


def _after_busy(
    transport: Transport, request: Request, check: CancelCheck | None, outcome: _Outcome
) -> Generator[Wait, Any, _Outcome]:
    """After Busy: send the request to another host, if there is one, or wait for a place here, if the call may."""
    overflow = transport.overflow
    elsewhere = None if overflow is None else overflow.for_request(request)
    if overflow is not None and elsewhere is not None:
        theirs = yield from attempt(elsewhere, request, check)
        if overflow.note(theirs[1]):
            return theirs
    return (yield from _in_line(transport, request, check, outcome))


def _in_line(
    transport: Transport, request: Request, check: CancelCheck | None, outcome: _Outcome
) -> Generator[Wait, Any, _Outcome]:
    """After Busy: if the call may wait for a place, wait for one in this client's line, and send the request again."""
    is_default = request.max_wait_ms == WORKER_DEFAULT_WAIT
    wait_ms = transport.max_wait_ms if is_default else request.max_wait_ms
    until_ns = request.sent_ns + wait_ms * 1_000_000
    if time.monotonic_ns() >= until_ns:  # it has waited in the worker's queue, or may not wait
        return outcome
    line = transport.line
    first = line.join(request.request_id)
    sender = LeavingLine(transport, line)
    tried = False
    try:
        while isinstance(outcome[1], MoltBusy) and request.max_wait_ms:
            left_s = max(0.0, (until_ns - time.monotonic_ns()) / 1e9)
            pause_s = left_s if check is None else min(left_s, CANCEL_POLL_S)
            pause_s = max(0.0, min(pause_s, _seconds_left(request)))
            if not first.done:
                yield CallEnd(first, _in_ns(pause_s))
            elif tried:
                yield Pause(min(pause_s, _LINE_PAUSE_S))
            if check is not None and check():
                return None, http_client_gone()
            if _seconds_left(request) <= 0:
                return None, expired_in_queue()
            left_ms = max(0, (until_ns - time.monotonic_ns()) // 1_000_000)
            if first.done or not left_ms:
                tried = True
                request.max_wait_ms = left_ms  # 0: one last try
                outcome = yield from attempt(sender, request, check)
                if sender.sent and time.monotonic_ns() >= until_ns:
                    break
    finally:
        line.leave(request.request_id)
    return outcome


def attempt(
    transport: Sender, request: Request, check: CancelCheck | None, sent: _Sent | None = None
) -> Generator[Wait, Any, _Outcome]:
    """Get the request to a worker, and wait until it has ended. `sent`: what has become of that so far."""
    rounds = 0
    pause_s = _FIRST_PAUSE_S
    while True:
        pending, ended = sent or (_send(transport, request), None)
        sent = None
        if isinstance(pending, MoltError):
            return None, pending
        if pending is not None:
            try:
                if ended is None:
                    until_ns = request.deadline_ns if check is None else _first_look_ns(request)
                    ended = yield CallEnd(pending, until_ns)
                if not ended:
                    yield from _wait(transport, request, pending, check)
            except BaseException:
                _stop(transport, pending)
                raise
            result = pending.result
            if isinstance(result, Response):
                return result, None if result.status is _OK else _error_of(result)
            if result is not None:
                return None, result
            assert pending.lost
        left_s = _seconds_left(request)
        if left_s <= 0:
            return None, not_started_in_time()
        if rounds == _ROUNDS:
            return None, worker_gone()
        rounds += 1
        if rounds > _ROUNDS_WITHOUT_PAUSE:
            yield Pause(min(pause_s, left_s))
            pause_s *= 2
        try:
            yield WorkerStart(transport, left_s)
        except MoltError as exc:
            return None, exc


def whose_fault(error: FrameError) -> MoltError:
    """Return the error of a call whose request fits no frame: the caller's, if what it gave is the reason."""
    callers = _CALLERS_FAULTS.get(error.fault)
    return error if callers is None else callers(error.detail)


def _wait(
    transport: Sender, request: Request, pending: PendingCall, check: CancelCheck | None
) -> Generator[Wait, Any, None]:
    """Wait on until `pending` ends, and end it if the HTTP client goes away. Most calls never get here."""
    if check is not None:
        cancelled = http_client_gone()
        fileno = getattr(check, "fileno", None)
        if fileno is not None and hangups.start():
            with hangups.watching(
                fileno(),
                lambda: transport.abandon(pending, cancelled) if check() else None,
                getattr(check, "events", HALF_CLOSE),
            ):
                yield from _wait_out(transport, request, pending)
            return
        while not check():
            left_s = _seconds_left(request) + transport.patience_s
            if left_s <= 0:
                break
            ended = yield CallEnd(pending, _in_ns(min(CANCEL_POLL_S, left_s)))
            if ended:
                return
        else:
            transport.abandon(pending, cancelled)
    yield from _wait_out(transport, request, pending)


def _wait_out(transport: Sender, request: Request, pending: PendingCall) -> Generator[Wait, Any, None]:
    """Wait until `pending` ends; end it as timed out if the worker does not do so in time."""
    patience_ns = int(transport.patience_s * 1e9)
    ended = yield CallEnd(pending, request.deadline_ns + patience_ns if request.deadline_ns else 0)
    if not ended:
        transport.abandon(pending, no_answer())
        # If the answer came just now, another thread is setting it as the outcome: wait for that.
        yield CallEnd(pending, 0)


def _error_of(response: Response) -> MoltError:
    request_id = format_id(response.request_id)
    try:
        body = codec.decode(Codec.MSGPACK, response.payload)
    except codec.DecodeError as exc:
        return MoltProtocolError(f"the worker sent a {response.status.label} error that is {exc}")
    error = from_wire(response.status, body, request_id)
    if error.failure is not None:
        # Raising it puts this process's frames above.
        error.__traceback__ = failures.traceback_of(error.failure)
    return error


def _blame(failure: MoltError, payload: object) -> None:
    """If the worker could not decode what was encoded here, say so: then no input of a visitor is at fault."""
    if failure.facts.get(UNDECODABLE) and not isinstance(payload, (bytes, bytearray, memoryview)):
        levels = lenient.depth(payload)
        failure.__cause__ = codec.EncodeError(f"encodes to what can't be decoded; it is {levels} levels deep")


def decode_result(entry: str, encoding: Codec, data: bytes | memoryview) -> Any:
    """Decode the result of an entrypoint.

    Raises MoltInternalError: it is not valid in its codec, for example JSON text that the entrypoint wrote itself.
    """
    try:
        return codec.decode(encoding, data)
    except codec.DecodeError as exc:
        raise MoltInternalError(f"the result of {entry!r} is {exc}") from exc


def _label(error: BaseException) -> str:
    if isinstance(error, MoltError):
        return status_label(error)
    # Ctrl-C and cancelled tasks; anything else came from a hook of the caller's.
    return Status.CANCELLED.label if not isinstance(error, Exception) else type(error).__name__


def _report(options: CallOptions, metrics: CallMetrics, error: BaseException | None) -> None:
    """Call the hooks. A hook that fails is logged: it must not change the call's outcome."""
    if options.metrics_hook is not None:
        try:
            options.metrics_hook(metrics)
        except Exception:
            log.exception("metrics_hook failed for call %s", metrics.request_id)
    if options.after_recv is not None:
        info = CallInfo(options.entry, metrics.request_id, metrics.payload_bytes, error, metrics)
        try:
            options.after_recv(info)
        except Exception:
            log.exception("after_recv failed for call %s", metrics.request_id)
