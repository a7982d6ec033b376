"""Every way a call can fail, and the one table that maps wire status, exception and HTTP status.

An error knows whose fault it was: the caller's (`MoltInvalidInput`, `MoltClientClosed`), the load's (`MoltBusy`),
the clock's (`MoltTimeout`), the client's (`MoltCancelled`), the entrypoint's (`MoltInternalError`), the
deployment's (`MoltEntryError`), the worker's (`MoltWorkerUnavailable` and its subclasses, `MoltWorkerCrashed`) or the
peer's (`MoltProtocolError`).
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final

#: What an error may carry on the wire beside its text: small facts such as ``{"signal": 9}``.
Facts = Mapping[str, "int | str"]
#: Longest error text that travels, in characters; a response with it fits the smallest frame limit.
MAX_DETAIL: Final = 1000
MAX_TRACEBACK: Final = 16_384  #: characters of a traceback that travels; a longer one keeps both ends
#: Keys of an error's body on the wire that are no facts.
_NO_FACTS: Final = ("error", "detail", "code", "traceback", "raised", "failure")


class Status(enum.IntEnum):
    """The outcome of a request as it stands in a response frame (one byte)."""

    OK = 1
    INVALID_INPUT = 2
    BUSY = 3
    TIMEOUT = 4
    CANCELLED = 5
    INTERNAL_ERROR = 6

    @property
    def label(self) -> str:
        """The status's name in logs and metrics, for example ``InvalidInput``."""
        return _LABELS[self]


_LABELS: Final = {status: status.name.title().replace("_", "") for status in Status}


class BusyReason(enum.StrEnum):
    """Why a request was refused."""

    QUEUE_FULL = "queue_full"  #: as many requests are queued as may be
    QUEUE_DELAY = "queue_delay"  #: requests would stand in the queue for too long
    DEADLINE = "deadline"  #: it could not end before its deadline
    ENTRY_LIMIT = (
        "entry_limit"  #: as QUEUE_DELAY, since only so many requests of its entrypoint may run at once
    )
    IN_FLIGHT = "in_flight"  #: its process, its view or its client has as many calls under way as it may
    NO_CHANNEL = "no_channel"  #: other clients have the channels that this one would need
    UNREAD = "unread"  #: the pipe to the worker is full
    STOPPING = "stopping"  #: the worker is


class RemoteError(Exception):
    """What an entrypoint raised, as the cause of the call's error. Its text is the executor's traceback."""

    def __str__(self) -> str:
        return "\n" + super().__str__()


class MoltError(Exception):
    """Base of all errors this library raises.

    Args:
        detail: A text that is safe to show to the sender of the request.
        request_id: The call it belongs to (16 hexadecimal digits), or empty when there was none yet.
        facts: Small machine-readable facts; see the properties of the subclasses.
    """

    def __init__(self, detail: str = "", *, request_id: str = "", facts: Facts | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.request_id = request_id
        self.facts: dict[str, int | str] = dict(facts or {})

    #: The executor's traceback, for this process only; empty if there is none. `__cause__` has it too.
    remote_traceback: str = ""
    #: An exception of the entrypoint's that Django knows; see `molt_accel.forms.raised`.
    raised: Mapping[str, Any] | None = None
    #: What an entrypoint has raised, and where; see `molt_accel.forms.failure`.
    failure: dict[str, Any] | None = None

    def __reduce__(self) -> tuple[object, ...]:
        # BaseException pickles by its args alone; keep the keyword-only state too.
        return (type(self), self.args, self.__dict__)

    def _int_fact(self, name: str) -> int | None:
        value = self.facts.get(name)
        return value if isinstance(value, int) else None


class MoltInvalidInput(MoltError):
    """The request was refused: undecodable or invalid payload, or one over the frame limit."""


class MoltBusy(MoltError):
    """The request was refused and was not run; try again later. `reason` says why."""

    @property
    def reason(self) -> str:
        """One of `BusyReason`; empty if the worker has not said."""
        return str(self.facts.get("reason", ""))

    @property
    def retry_after_s(self) -> int:
        """Seconds to wait before another try, for the Retry-After header: worked out from what is queued, at random."""
        return self._int_fact("retry_after_s") or 1


class MoltTimeout(MoltError):
    """The deadline passed."""

    @property
    def phase(self) -> str:
        """Where it passed: ``queue`` (never started), ``running``, or ``transport`` (no answer came)."""
        return str(self.facts.get("phase", "transport"))


class MoltCancelled(MoltError):
    """The client went away or asked to stop."""


class MoltInternalError(MoltError):
    """The entrypoint raised. The traceback is `remote_traceback`, and in the worker's log, under the request id."""


class MoltEntryError(MoltInternalError):
    """The pool has no entrypoint of this name, or that takes another codec. Caller and pool are deployed apart."""


class MoltWorkerCrashed(MoltInternalError):
    """The executor process died while it ran this request."""

    @property
    def signal(self) -> int | None:
        """The signal that killed it, if one did."""
        return self._int_fact("signal")

    @property
    def exit_code(self) -> int | None:
        """The code it exited with, if it exited by itself."""
        return self._int_fact("exit_code")


class MoltWorkerUnavailable(MoltError):
    """No worker could be started or reached, or it died with the request's outcome unknown."""

    code: ClassVar[str | None] = None  #: the key ``code`` of the error's body on the wire; None: it has none

    @property
    def may_have_run(self) -> bool:
        """Whether the request may have been run; False: it was certainly not."""
        return bool(self._int_fact("may_have_run"))


class MoltStartFailed(MoltWorkerUnavailable):
    """The worker could not start: no such command, bad manifest, import error, no memory. The text is the reason."""

    code = "start_failed"


class MoltIncompatible(MoltWorkerUnavailable):
    """The worker is of another version, of the package or its protocol, or runs another application."""

    code = "incompatible"


class WorkerVanished(MoltWorkerUnavailable):
    """The worker stopped while this process attached to it. The client attaches to its successor at once."""

    code = "stopping"


class AlreadyServed(MoltWorkerUnavailable):
    """Another worker has begun to serve the pool. The client attaches to that one as soon as it listens."""

    code = "already_served"


class NoSharedMemory(MoltStartFailed):
    """Shared memory can't serve here; the text says why. The transport `auto` goes on with stdio."""

    code = "no_shared_memory"


class MoltClientClosed(MoltError):
    """The client was closed before the call was sent, or sent again. It is neither retried nor run by the view.

    If the call is idempotent, an earlier try may have run; else nothing has run.
    """

    def __init__(self, detail: str = "the client is closed", **rest: Any) -> None:
        super().__init__(detail, **rest)


class MoltProtocolError(MoltError):
    """The peer broke the protocol."""


def start_failure(why: MoltError) -> MoltWorkerUnavailable:
    """The error of calls whose worker can't start, and why: of the same kind if that has a code."""
    kind: type[MoltWorkerUnavailable] = MoltStartFailed
    if isinstance(why, MoltWorkerUnavailable) and why.code is not None:
        kind = type(why)
    return kind(f"the worker can't start: {why.detail}")


def unavailable_class(code: object) -> type[MoltWorkerUnavailable]:
    """The exception for a `code` on the wire; MoltWorkerUnavailable if there is none of that code."""
    for cls in (MoltStartFailed, MoltIncompatible, WorkerVanished, AlreadyServed, NoSharedMemory):
        if cls.code == code:
            return cls
    return MoltWorkerUnavailable


@dataclass(frozen=True, slots=True)
class ErrorRow:
    """One row of the mapping."""

    status: Status | None  #: on the wire; None: never there
    exception: type[MoltError]  #: what a client raises
    http_status: int  #: what a view answers
    public: str | None = None  #: the text of an HTTP body, if the error's own is for operators only
    passing: bool = False  #: another try may end otherwise, so an idempotent call is sent again
    falls_back: bool = False  #: a view that allows it runs its own body instead


_FAILED: Final = "the request failed"
_UNAVAILABLE: Final = "the service is not available"

#: The only place that maps status, exception and HTTP. The first row of a status is its default exception.
ERROR_TABLE: Final = (
    ErrorRow(Status.INVALID_INPUT, MoltInvalidInput, 400),
    ErrorRow(Status.BUSY, MoltBusy, 429, passing=True),
    ErrorRow(Status.TIMEOUT, MoltTimeout, 504),
    ErrorRow(Status.CANCELLED, MoltCancelled, 499),
    ErrorRow(Status.INTERNAL_ERROR, MoltInternalError, 500, _FAILED),
    ErrorRow(Status.INTERNAL_ERROR, MoltEntryError, 500, _FAILED),
    ErrorRow(Status.INTERNAL_ERROR, MoltWorkerCrashed, 500, _FAILED, passing=True),
    ErrorRow(Status.INTERNAL_ERROR, MoltWorkerUnavailable, 503, _UNAVAILABLE, passing=True, falls_back=True),
    ErrorRow(Status.INTERNAL_ERROR, MoltStartFailed, 503, _UNAVAILABLE, passing=True, falls_back=True),
    ErrorRow(Status.INTERNAL_ERROR, MoltIncompatible, 503, _UNAVAILABLE, passing=True, falls_back=True),
    ErrorRow(None, MoltClientClosed, 503, _UNAVAILABLE),
    ErrorRow(None, MoltProtocolError, 502, "the service gave no valid answer"),
)

_DEFAULT_BY_STATUS: Final = {row.status: row for row in reversed(ERROR_TABLE) if row.status is not None}
_BY_STATUS_AND_NAME: Final = {(row.status, row.exception.__name__): row for row in ERROR_TABLE}
_BY_EXCEPTION: Final = {row.exception: row for row in ERROR_TABLE}


def row_of(error: MoltError | type[MoltError]) -> ErrorRow:
    """The table's row for an error or its class; a subclass has the row of its nearest listed parent."""
    cls = error if isinstance(error, type) else type(error)
    for base in cls.__mro__:
        if base in _BY_EXCEPTION:
            return _BY_EXCEPTION[base]
    return _BY_EXCEPTION[MoltInternalError]


def http_status(error: MoltError | type[MoltError]) -> int:
    """The HTTP status of the response that tells a browser of an error, or of an error's class."""
    return row_of(error).http_status


def wire_status(error: MoltError | type[MoltError]) -> Status:
    """The status that carries an error over the wire."""
    return row_of(error).status or Status.INTERNAL_ERROR


def status_label(error: MoltError) -> str:
    """The outcome's name in metrics and logs: the status, or the class if the status has several."""
    row = row_of(error)
    if row.status is not None and _DEFAULT_BY_STATUS[row.status] is row:
        return row.status.label
    return row.exception.__name__.removeprefix("Molt")


def error_body(error: MoltError, request_id: str | None = None) -> dict[str, str | int]:
    """The public JSON body of an error: class name, safe text, request id; of Busy the reason and when to come back."""
    row = row_of(error)
    body: dict[str, str | int] = {
        "error": row.exception.__name__,
        "detail": error.detail if row.public is None else row.public,
        "request_id": error.request_id if request_id is None else request_id,
    }
    if isinstance(error, MoltBusy):
        body |= {"reason": error.reason, "retry_after_s": error.retry_after_s}
    return body


def to_wire(error: MoltError) -> dict[str, Any]:
    """The payload of an error response."""
    # A text with a file name or from user code may hold surrogates, which no codec can encode.
    facts = {
        name: value.encode(errors="replace").decode() if isinstance(value, str) else value
        for name, value in {"detail": error.detail[:MAX_DETAIL], **error.facts}.items()
    }
    body: dict[str, Any] = {"error": row_of(error).exception.__name__, **facts}
    if isinstance(error, MoltWorkerUnavailable) and error.code is not None:
        body["code"] = error.code
    if text := error.remote_traceback:
        if len(text) > MAX_TRACEBACK:
            half = MAX_TRACEBACK // 2
            text = f"{text[:half]}\n[{len(text) - 2 * half} characters left out]\n{text[-half:]}"
        body["traceback"] = text.encode(errors="replace").decode()
    if error.raised is not None:
        body["raised"] = error.raised
    if error.failure is not None:
        body["failure"] = error.failure
    return body


def from_wire(status: Status, body: object, request_id: str = "") -> MoltError:
    """The exception for an error response; MoltProtocolError for a body of the wrong shape."""
    if not isinstance(body, dict) or not isinstance(body.get("detail"), str):
        return MoltProtocolError(f"the worker sent a malformed {status.label} error", request_id=request_id)
    name = body.get("error")
    known = _BY_STATUS_AND_NAME.get((status, name)) if isinstance(name, str) else None
    exception = (known or _DEFAULT_BY_STATUS[status]).exception
    if issubclass(exception, MoltWorkerUnavailable) and "code" in body:
        exception = unavailable_class(body["code"])
    facts = {
        str(key): value
        for key, value in body.items()
        if key not in _NO_FACTS and isinstance(value, (int, str))
    }
    made = exception(body["detail"], request_id=request_id, facts=facts)
    if isinstance(text := body.get("traceback"), str):
        made.remote_traceback = text
        made.__cause__ = RemoteError(text)
    if isinstance(raised := body.get("raised"), dict):
        made.raised = raised
    if isinstance(failure := body.get("failure"), dict):
        made.failure = failure
    return made
