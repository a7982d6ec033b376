"""A transport that follows a script, for tests of what a call does with the ways in which it can go."""

import threading
from collections.abc import Callable
from typing import Any

from molt_accel import codec
from molt_accel.errors import BusyReason, MoltBusy, MoltError, Status, to_wire, wire_status
from molt_accel.ipc import outcomes
from molt_accel.ipc.messages import Codec, Request, Response
from molt_accel.transports.base import Pending, PendingCall
from molt_accel.transports.line import Line


class ScriptedCall(Pending):
    """A call in flight that may be lost, too."""

    lost = False

    @property
    def done(self) -> bool:
        return self.lost or self.result is not None

    def lose(self) -> None:
        """End it: nobody took the request up."""
        self.lost = True
        self._gate.release()
        if self._callback is not None:
            self._callback()

    def wait(self, timeout_s: float | None) -> bool:
        return super().wait(timeout_s) or self.lost

    def on_done(self, callback: Callable[[], object]) -> None:
        super().on_done(callback)
        if self.lost:
            callback()


#: One submitted request's fate: may raise, end the call now or later, or do nothing; or return `UNSENT`.
Act = Callable[[Request, ScriptedCall], object]
#: It could not be sent.
UNSENT = object()


def response(request: Request, value: object = None, status: Status = Status.OK, **fields: Any) -> Response:
    return Response(request.request_id, status, codec.encode(Codec.MSGPACK, value), **fields)


def answer(value: object = None, status: Status = Status.OK, **fields: Any) -> Act:
    return lambda request, pending: pending.resolve(response(request, value, status, **fields))


def answer_error(error: MoltError) -> Act:
    return answer(to_wire(error), wire_status(error))


def answer_in(seconds: float, value: object = None) -> Act:
    def act(request: Request, pending: Pending) -> None:
        threading.Timer(seconds, pending.resolve, (response(request, value),)).start()

    return act


def end(error: MoltError) -> Act:
    return lambda request, pending: pending.resolve(error)


def refuse(error: MoltError) -> Act:
    def act(request: Request, pending: Pending) -> None:
        raise error

    return act


def lose(request: Request, pending: ScriptedCall) -> None:
    """The worker dies before anybody takes the request up."""
    pending.lose()


def lose_in(seconds: float) -> Act:
    return lambda request, pending: threading.Timer(seconds, pending.lose).start()


def unsent(request: Request, pending: ScriptedCall) -> object:
    return UNSENT


def silence(request: Request, pending: Pending) -> None:
    """Nothing ever comes."""


class ScriptedTransport:
    """A `Transport` whose n-th request meets the n-th act; the last act goes for all further ones."""

    def __init__(self, *script: Act, ready: bool = True, patience_s: float = 0.05) -> None:
        self.script = script
        self.ready = ready
        self.patience_s = patience_s
        self.max_wait_ms = 0
        self.line = Line()
        self.overflow = None
        self.starts = 0
        self.submitted: list[Request] = []
        self.calls: list[ScriptedCall] = []
        self.abandoned: list[MoltError] = []

    def start(self) -> None:
        self.starts += 1
        self.ready = True

    def submit(self, request: Request) -> PendingCall | None:
        if not self.ready:
            return None
        pending = ScriptedCall(request.request_id)
        self.submitted.append(request)
        self.calls.append(pending)
        act = self.script[min(len(self.submitted), len(self.script)) - 1]
        return None if act(request, pending) is UNSENT else pending

    def abandon(self, pending: ScriptedCall, error: MoltError) -> bool:
        if pending.done:
            return False
        self.abandoned.append(error)
        pending.resolve(error)
        return True

    def refusal(self, entry: str, left_ns: int | None) -> MoltBusy | None:
        return None

    def busy(self, reason: BusyReason, wait_ns: int) -> MoltBusy:
        return outcomes.busy(reason, wait_ns)

    def wait_ready(self, timeout_s: float) -> None:
        self.start()

    def close(self) -> None:
        self.ready = False
