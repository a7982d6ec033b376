"""How a call is made (`CallOptions`), and what is known of it afterwards (`CallMetrics`)."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from molt_accel import codec as codecs
from molt_accel.durations import Milliseconds, in_ms
from molt_accel.ipc.frame import format_id
from molt_accel.ipc.messages import FLAG_COMPILED, WORKER_DEFAULT_WAIT, Codec, Request, Response

#: gunicorn kills a worker that is silent for so long; a call without a timeout of its own ends before that.
DEFAULT_TIMEOUT_MS: Final = 30_000


class CallMetrics(msgspec.Struct, frozen=True):
    """What a call took. `*_us` are microseconds; 0 if the call never got that far.

    Attributes:
        entry: The entrypoint's name.
        status: ``Ok`` or the error's name: ``Busy``, ``Timeout``, ``WorkerCrashed``, ...
        request_id: 16 hexadecimal digits, the same as in the worker's log.
        ts_ms: When the call ended, milliseconds since the epoch.
        queue_us: From the client's call until an executor took the request up, transport included.
        decode_us, handler_us, encode_us: In the executor: payload, entrypoint, result.
        exec_us: All of the request's time in the executor.
        queue_depth: Requests that waited when this one was handed to its executor.
        in_flight: Requests that ran then, this one included.
        executor: Number of the executor.
        compiled: Whether the entrypoint ran as compiled code.
        payload_bytes, response_bytes: Sizes of the encoded payload and result.
        client_us: The whole call as its caller saw it, encoding and retries included.
        reason: Why the call was refused, one of `molt_accel.errors.BusyReason`; empty unless the status is ``Busy``.
    """

    entry: str
    status: str
    request_id: str
    ts_ms: int
    queue_us: int = 0
    decode_us: int = 0
    handler_us: int = 0
    encode_us: int = 0
    exec_us: int = 0
    queue_depth: int = 0
    in_flight: int = 0
    executor: int = 0
    compiled: bool = False
    payload_bytes: int = 0
    response_bytes: int = 0
    client_us: int = 0
    reason: str = ""

    @classmethod
    def of(
        cls, status: str, request: Request, response: Response | None, ended_ns: int, reason: str = ""
    ) -> CallMetrics:
        """The metrics of a call that ended at `ended_ns` of CLOCK_MONOTONIC.

        `response` is None if the call ended without an answer of the worker.
        """
        response = response or _NO_RESPONSE
        return cls(
            request.entry,
            status,
            format_id(request.request_id),
            (time.time_ns() - time.monotonic_ns() + ended_ns) // 1_000_000,
            response.queue_us,
            response.decode_us,
            response.handler_us,
            response.encode_us,
            response.exec_us,
            response.queue_depth,
            response.in_flight,
            response.executor,
            response.flags & FLAG_COMPILED != 0,
            len(request.payload),
            len(response.payload),
            (ended_ns - request.sent_ns) // 1000,
            reason,
        )

    def as_dict(self) -> dict[str, Any]:
        """A flat row for JSON lines, with `queue_ms` and `exec_ms` beside their microseconds."""
        milliseconds = {"queue_ms": self.queue_us / 1000, "exec_ms": self.exec_us / 1000}
        return {**msgspec.structs.asdict(self), **milliseconds}


_NO_RESPONSE: Final = Response(0)


@dataclass(frozen=True, slots=True)
class CallInfo:
    """What the `before_send` and `after_recv` hooks are given.

    Attributes:
        entry: The entrypoint's name.
        request_id: 16 hexadecimal digits.
        payload_bytes: Size of the encoded payload.
        error: None before sending and on success, else the error that the call raises.
        metrics: None before sending, else the call's metrics.
    """

    entry: str
    request_id: str
    payload_bytes: int
    error: BaseException | None = None
    metrics: CallMetrics | None = None


Hook = Callable[[CallInfo], object]


class CallPlan(msgspec.Struct, frozen=True):
    """`CallOptions` in the terms of a call, worked out once and not for every call."""

    codec: Codec
    encode: Callable[[Any], bytes]  #: the codec's; raises what `codec.UNENCODABLE` lists
    timeout_ns: int  #: from the call to its deadline; 0: no deadline
    max_wait_ms: int  #: as the request's frame has it
    retries: int  #: 0 unless the call is idempotent
    pause_s: float  #: before the first retry
    reports: bool  #: a hook wants to know how the call ended


class _Planned:
    # Declared here, so that it is none of the options. A plain attribute, since every call reads it.
    plan: CallPlan


@dataclass(frozen=True, kw_only=True)
class CallOptions(_Planned):
    """How a call is made. A client has defaults, the decorator and each call may change them.

    Times (`*_ms`) are milliseconds, as an int or a float, or a `datetime.timedelta`.

    Attributes:
        entry: The entrypoint's name.
        codec: Of the payload: ``msgpack``, ``json`` or ``raw``.
        timeout_ms: Deadline, counted from the call on; None: no deadline.
        queue_timeout_ms: Longest wait for a place in a full queue; None: as the worker is configured.
        idempotent: Running it twice does no harm. Only then is a call ever sent again.
        retries: How often at most an idempotent call is sent again after Busy or a lost worker.
        retry_backoff_ms: Wait before the first retry; doubled before each further one.
        decode_response: False returns the result's bytes undecoded.
        before_send: Called before the request leaves. What it raises ends the call.
        after_recv: Called with every outcome. What it raises is logged.
        metrics_hook: Called with the `CallMetrics` of every outcome. What it raises is logged.
        cancel_check: Called from time to time while the call waits; true cancels the call. If it has a
            ``fileno()``, it is called only when that descriptor hangs up. A call that is answered within
            `CANCEL_AFTER_S` never calls it.
    """

    entry: str = ""
    codec: str = Codec.MSGPACK.label
    timeout_ms: Milliseconds | None = DEFAULT_TIMEOUT_MS
    queue_timeout_ms: Milliseconds | None = None
    idempotent: bool = False
    retries: int = 1
    retry_backoff_ms: Milliseconds = 20
    decode_response: bool = True
    before_send: Hook | None = None
    after_recv: Hook | None = None
    metrics_hook: Callable[[CallMetrics], object] | None = None
    cancel_check: Callable[[], bool] | None = None

    def __post_init__(self) -> None:
        codecs.parse(self.codec)
        for name in ("timeout_ms", "queue_timeout_ms"):
            value = getattr(self, name)
            if value is not None and in_ms(name, value) == 0 and name == "timeout_ms":
                raise ValueError(f"timeout_ms: {value!r} is not allowed; None means no deadline")
        in_ms("retry_backoff_ms", self.retry_backoff_ms)
        if not isinstance(self.retries, int) or self.retries < 0:
            kind = ValueError if isinstance(self.retries, int) else TypeError
            raise kind(f"retries: {self.retries!r} is not allowed; it must be a whole number, 0 or more")
        object.__setattr__(self, "plan", self._planned())

    def _planned(self) -> CallPlan:
        limit_ms, wait_ms = self.timeout_ms, self.queue_timeout_ms
        wait = WORKER_DEFAULT_WAIT
        if wait_ms is not None:
            wait = min(int(in_ms("queue_timeout_ms", wait_ms)), WORKER_DEFAULT_WAIT - 1)
        codec = codecs.parse(self.codec)
        return CallPlan(
            codec,
            codecs.ENCODERS[codec],
            0 if limit_ms is None else max(1, int(in_ms("timeout_ms", limit_ms) * 1e6)),
            wait,
            self.retries if self.idempotent else 0,
            in_ms("retry_backoff_ms", self.retry_backoff_ms) / 1000,
            self.metrics_hook is not None or self.after_recv is not None,
        )

    def replace(self, changes: Mapping[str, Any]) -> CallOptions:
        """Return these options with some changed.

        Raises:
            TypeError: a name is no option, or a value is of the wrong type.
            ValueError: a value is not allowed.
        """
        unknown = sorted(set(changes) - _OPTION_NAMES)
        if unknown:
            raise TypeError(f"unknown option {unknown[0]!r}; allowed: {', '.join(sorted(_OPTION_NAMES))}")
        return dataclasses.replace(self, **changes) if changes else self


#: An entrypoint: its name, or its function.
Entry = str | Callable[..., Any]


def entry_name(entry: Entry) -> str:
    """Return the name of an entrypoint. Raises TypeError: it is a function that nothing has marked as one."""
    if isinstance(entry, str):
        return entry
    exports = sys.modules.get("molt_worker.entrypoints.exports")  # only what that has marked is an entrypoint
    mark = exports.mark_of(entry) if exports is not None else None
    if mark is None:
        named = getattr(entry, "__qualname__", repr(entry))
        raise TypeError(
            f"{named} is no entrypoint; mark it with @molt_worker.export, or give the entry's name"
        )
    name: str = mark.name
    return name


#: The options that are functions.
HOOKS: Final = frozenset(("before_send", "after_recv", "metrics_hook", "cancel_check"))
_OPTION_NAMES: Final = frozenset(field.name for field in dataclasses.fields(CallOptions))
