"""A transport that follows a script, for tests of what a call does with the ways in which it can go."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from molt_accel import codec
from molt_accel.errors import MoltError, Status, to_wire, wire_status
from molt_accel.ipc.frame import Codec, Frame, Kind
from molt_accel.transport import Pending

#: One submitted request's fate: may raise, resolve the call now or later, or do nothing.
Act = Callable[[Frame, Pending], object]


def response(request: Frame, value: object = None, status: Status = Status.OK, **fields: Any) -> Frame:
    """A response with a msgpack payload."""
    payload = codec.encode(Codec.MSGPACK, value)
    return Frame(Kind.RESPONSE, request.request_id, payload=payload, status=status, **fields)


def answer(value: object = None, status: Status = Status.OK, **fields: Any) -> Act:
    """The worker answers at once."""
    return lambda request, pending: pending.resolve(response(request, value, status, **fields))


def answer_error(error: MoltError) -> Act:
    """The worker answers with an error."""
    return answer(to_wire(error), wire_status(error))


def answer_in(seconds: float, value: object = None) -> Act:
    """The worker answers from another thread, after a time."""

    def act(request: Frame, pending: Pending) -> None:
        threading.Timer(seconds, pending.resolve, (response(request, value),)).start()

    return act


def end(error: MoltError) -> Act:
    """The connection ends the call with an error."""
    return lambda request, pending: pending.resolve(error)


def refuse(error: MoltError) -> Act:
    """Submitting raises."""

    def act(request: Frame, pending: Pending) -> None:
        raise error

    return act


def silence(request: Frame, pending: Pending) -> None:
    """Nothing ever comes."""


class ScriptedTransport:
    """A `Transport` whose n-th request meets the n-th act; the last act goes for all further ones."""

    def __init__(self, *script: Act, ready: bool = True, patience_s: float = 0.05) -> None:
        self.script = script
        self.ready = ready
        self.patience_s = patience_s
        self.starts = 0
        self.submitted: list[Frame] = []
        self.calls: list[Pending] = []
        self.abandoned: list[MoltError] = []

    def start(self) -> None:
        self.starts += 1
        self.ready = True

    def submit(self, frame: Frame) -> Pending:
        pending = Pending(frame.request_id)
        self.submitted.append(frame)
        self.calls.append(pending)
        self.script[min(len(self.submitted), len(self.script)) - 1](frame, pending)
        return pending

    def abandon(self, pending: Pending, error: MoltError) -> bool:
        if pending.done:
            return False
        self.abandoned.append(error)
        pending.resolve(error)
        return True

    def wait_ready(self, timeout_s: float) -> None:
        self.start()

    def close(self) -> None:
        self.ready = False
