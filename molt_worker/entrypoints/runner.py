"""Runs one request: decodes, calls the entrypoint, encodes, and turns every outcome into one response frame."""

from __future__ import annotations

import contextlib
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import Final

from molt_accel import codec
from molt_accel.errors import (
    MoltCancelled,
    MoltError,
    MoltInternalError,
    MoltInvalidInput,
    Status,
    to_wire,
    wire_status,
)
from molt_accel.forms import failure as failures
from molt_accel.forms import raised
from molt_accel.ipc.failpoint import failpoint
from molt_accel.ipc.frame import FrameError
from molt_accel.ipc.messages import (
    MAX_METADATA_BYTES,
    U32_MAX,
    UNDECODABLE,
    Codec,
    Request,
    Response,
)
from molt_accel.ipc.outcomes import expired_in_queue, timed_out_running
from molt_worker.entrypoints import answers
from molt_worker.entrypoints.exports import Export, ExportTable
from molt_worker.entrypoints.request import (
    STOP_EXCEPTIONS,
    CurrentRequest,
    InvalidInput,
    RequestCancelled,
    RequestStopped,
    StopWord,
    current_request,
    in_context,
    in_process,
)

LogTraceback = Callable[[str, str, str], object]

# Looked up once: looking up a member of an enumeration costs as much as a function call.
_MSGPACK: Final = Codec.MSGPACK
_OK: Final = Status.OK


def error_response(request: Request, error: MoltError) -> Response:
    """Return the response that carries an error to the client."""
    status, encoding, body = _encoded_error(error)
    return Response(request.request_id, status, body, encoding, generation=request.generation)


def _encoded_error(error: MoltError) -> tuple[Status, Codec, bytes]:
    """Return what a response that carries an error consists of: its status, codec and payload."""
    return wire_status(error), _MSGPACK, codec.encode(_MSGPACK, to_wire(error))


def set_error(response: Response, error: MoltError) -> None:
    """Replace the status, codec and payload of a response by those of an error."""
    response.status, response.codec, response.payload = _encoded_error(error)


def too_large(request: Request, response: Response, why: FrameError) -> Response:
    """Return what is sent in the place of a response over the frame limit: an error, or its text alone if it is one."""
    if response.status is _OK:
        return error_response(request, MoltInternalError(f"the result is {why.detail}"))
    body = codec.decode(_MSGPACK, response.payload)
    for long in ("traceback", "raised", "failure"):
        body.pop(long, None)
    response.payload = codec.encode(_MSGPACK, body)
    return response


class _BadPayload(Exception):
    """The payload can't be decoded. Not a DecodeError: an entrypoint may raise that itself."""


class _BadResult(Exception):
    """The result can't be encoded. Not an EncodeError: an entrypoint may raise that itself."""


def _encoded_otherwise(export: Export, result: object, why: Exception) -> bytes:
    """Return what stands for a result that its codec has refused, as msgpack. Raises _BadResult: nothing does."""
    whole = f"the result of {export.name!r}"
    try:
        answer = answers.encoded(result)
    except answers.NotSendable as refusal:
        raise _BadResult(f"{whole} {refusal}") from why
    if answer is None:
        encode = export.encode or codec.ENCODERS[export.codec_out]
        error = codec.unencodable(export.codec_out, result, encode, why)
        error.__cause__ = why
        raise _BadResult(error.of("result", whole)) from error
    return answer


def _fit(response: Response) -> None:
    """Shorten times that are longer than their fields: more than an hour."""
    for name in ("queue_us", "decode_us", "handler_us", "encode_us", "exec_us"):
        setattr(response, name, min(max(getattr(response, name), 0), U32_MAX))


def _taken_from(request: Request) -> bytes:
    """Take the metadata off the payload of a request. Raises MoltInvalidInput: there can't be so much."""
    size, payload = request.metadata_bytes, request.payload
    if size > min(len(payload), MAX_METADATA_BYTES):
        raise MoltInvalidInput(f"the metadata can't have {size} bytes in a payload of {len(payload)}")
    request.payload = payload[: len(payload) - size]
    return bytes(payload[len(payload) - size :])


def _initialised(frame: FrameType | None) -> str | None:
    """What an entrypoint is in the middle of, if a process does it only once: an import, or Django's set-up.

    Modules that were interrupted stay half made: every later import of them fails or finds them incomplete. Returns the
    name of the outermost module that is being imported; empty: there is none; None: it does nothing of the kind.
    """
    found = None
    while frame is not None and frame.f_code is not Runner.run.__code__:
        code = frame.f_code
        if code.co_filename.startswith("<frozen importlib"):
            name = frame.f_locals.get("name") if code.co_name == "_find_and_load" else None
            found = name if isinstance(name, str) else found or ""
        elif code.co_name == "<module>" or (
            code.co_name == "populate" and frame.f_globals.get("__name__") == "django.apps.registry"
        ):
            found = found or ""
        frame = frame.f_back
    return found


@dataclass(eq=False)
class Runner:
    """Runs requests one at a time, on the thread that takes signals.

    `interrupt` is the handler of the soft interrupt. It raises inside the entrypoint, and only there: the runner is
    armed with the serial of the running request while user code may run, and the stop word holds the serial of the
    request to stop. A handler that comes early, late or twice finds no match and does nothing.
    """

    exports: ExportTable
    word: StopWord  #: the supervisor writes it
    #: Called with request id, entry and traceback text when an entrypoint has raised.
    log_traceback: LogTraceback
    number: int = 0  #: this executor's, for the metrics
    #: Called before each entrypoint, with the request's metadata; raises nothing.
    before: Callable[[bytes], None] | None = None
    #: Called after each one with its name, also if it has failed; raises nothing. It counts as part of the request.
    after: Callable[[str], None] | None = None
    own_clock: bool = False  #: no supervisor watches deadlines: `current_request().check()` reads the clock
    #: A stop has interrupted something that can't be done again, so no other request may run in this process.
    spoiled: bool = False
    interrupted_import: str = ""  #: if that was an import: of this module
    _armed: int = 0

    def interrupt(self, signum: int, stack: FrameType | None) -> None:
        """Signal handler: raise inside the entrypoint if the stop word names the request that it serves."""
        reason = self.word.reason(self._armed) if self._armed else 0
        if reason:
            self._armed = 0  # raise only once: a second time would interrupt the entrypoint's clean-up
            if (name := _initialised(stack)) is not None:
                self.spoiled, self.interrupted_import = True, name
            failpoint("executor.interrupted")
            raise STOP_EXCEPTIONS[reason]

    def run(self, request: Request, serial: int) -> Response:
        """Run a request, which the stop word names by `serial`, and return its response.

        Nothing that the request or its entrypoint does makes this raise. The way of a request is seen here as a whole;
        what becomes of one that fails is said below.
        """
        started_ns = time.monotonic_ns()
        decoded_ns = handled_ns = ended_ns = 0  # 0: it did not get so far
        status, encoding, body = _OK, _MSGPACK, b""
        flags = 0
        own_clock, stop = self.own_clock, self.word.cell
        failure: BaseException | None = None
        try:
            steps = self.exports.steps.get(request.entry)
            if steps is None or request.codec is not steps[0]:
                steps = self.exports.steps[self.exports.find(request).name]  # `find` raises, and says why
            _, decode, function, encode, codec_out, flags, export = steps
            if request.deadline_ns and started_ns >= request.deadline_ns:
                raise expired_in_queue()
            metadata = _taken_from(request) if request.metadata_bytes else b""
            facts = (request, self.word, serial, metadata)
            token = in_context.set(CurrentRequest._of(*facts, own_clock)) if own_clock else None
            if token is None:
                in_process.facts = facts
            try:
                if self.before is not None:
                    self.before(metadata)
                self._armed = serial
                # A stop that came before the handler was armed has raised nothing. Looking at the word saves a call.
                if own_clock or stop:
                    current_request().check()
                try:
                    try:
                        payload = decode(request.payload)
                    except codec.UNDECODABLE as exc:
                        if export.decode is not None:  # what decodes typed payloads says itself what is wrong
                            raise
                        raise _BadPayload(
                            f"the payload is {codec.undecodable(export.codec_in, exc)}"
                        ) from exc
                    decoded_ns = time.monotonic_ns()
                    result = function(payload)
                    handled_ns = time.monotonic_ns()
                    try:
                        body, encoding = encode(result), codec_out
                    except codec.UNENCODABLE as exc:
                        body = _encoded_otherwise(export, result, exc)  # as msgpack
                    ended_ns = time.monotonic_ns()
                except BaseException as exc:  # user code may raise anything, also SystemExit
                    if decoded_ns and not handled_ns:
                        handled_ns = time.monotonic_ns()
                    if isinstance(exc, RequestStopped):
                        raise
                    failure = exc
                # User code may have swallowed the stop, or have ended before the stop could interrupt it.
                if own_clock or stop:
                    current_request().check()
            finally:
                self._armed = 0
                if token is None:
                    in_process.facts = None
                else:
                    in_context.reset(token)
            if failure is not None:
                raise self._mapped(failure, export, CurrentRequest._of(*facts)) from failure
        except MoltError as exc:
            status, encoding, body = _encoded_error(exc)
        except RequestCancelled:
            status, encoding, body = _encoded_error(MoltCancelled("the request was cancelled while it ran"))
        except RequestStopped:
            status, encoding, body = _encoded_error(timed_out_running())
        del failure  # its traceback refers to this frame
        over_ns = ended_ns
        if self.after is not None:
            self.after(request.entry)
            over_ns = 0
        queue_us = (started_ns - request.sent_ns) // 1000 if request.sent_ns else 0
        exec_us = ((over_ns or time.monotonic_ns()) - started_ns) // 1000
        response = Response(
            request.request_id,
            status,
            body,
            encoding,
            flags,
            request.generation,
            request.queue_depth,
            request.in_flight,
            queue_us,
            (decoded_ns - started_ns) // 1000 if decoded_ns else 0,
            (handled_ns - decoded_ns) // 1000 if handled_ns else 0,
            (ended_ns - handled_ns) // 1000 if ended_ns else 0,
            exec_us,
            self.number,
        )
        if queue_us < 0 or queue_us > U32_MAX or exec_us > U32_MAX:
            _fit(response)
        return response

    def _mapped(self, failure: BaseException, export: Export, current: CurrentRequest) -> MoltError:
        if isinstance(failure, _BadPayload):
            return MoltInvalidInput(str(failure), facts={UNDECODABLE: 1})
        if isinstance(failure, InvalidInput):
            text = "the input is not valid"
            with contextlib.suppress(Exception):  # user code defines __str__, and may fail there too
                text = str(failure)
            return MoltInvalidInput(text)
        what = f"{export.name!r} raised {type(failure).__name__}"
        known = raised.packed(failure)
        text = "".join(traceback.format_exception(failure))
        if known is not None and raised.refuses(known):
            error: MoltError = MoltInvalidInput(what)
        else:
            self.log_traceback(current.log_id, export.name, text)
            error = MoltInternalError(str(failure) if isinstance(failure, _BadResult) else what)
        error.remote_traceback, error.raised = text, known
        if not isinstance(failure, _BadResult):
            error.failure = failures.packed(failure, Runner.run.__code__)
        return error
