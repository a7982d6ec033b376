"""molt_accel.testing.staged_call: a call that begins late ends once, whoever ends it."""

import time

import pytest

from molt_accel.errors import MoltBusy, MoltCancelled, MoltInvalidInput, MoltTimeout
from molt_accel.ipc.frame import Fault, FrameError
from molt_accel.ipc.messages import Request
from molt_accel.testing.staged_call import StagedCall
from molt_accel.transports.base import PendingCall
from tests.support.scripted_transport import ScriptedTransport, answer, lose, refuse, silence, unsent


def call(transport: ScriptedTransport, delay_s: float = 0.01, deadline_s: float = 0.0) -> PendingCall:
    deadline_ns = time.monotonic_ns() + int(deadline_s * 1e9) if deadline_s else 0
    return StagedCall(Request(7, "e", deadline_ns=deadline_ns), transport, delay_s=delay_s)


def test_it_begins_when_it_is_due() -> None:
    transport = ScriptedTransport(answer("there"))
    pending = call(transport)
    assert (pending.request_id, pending.done, pending.wait(0), transport.submitted) == (7, False, False, [])
    assert pending.wait(None)
    assert (pending.done, pending.lost, len(transport.submitted)) == (True, False, 1)
    assert pending.result is transport.calls[0].result


@pytest.mark.parametrize("act", [unsent, lose])
def test_it_is_lost_if_nobody_takes_it(act: object) -> None:
    pending = call(ScriptedTransport(act))  # type: ignore[arg-type]
    assert pending.wait(None)
    assert (pending.lost, pending.result) == (True, None)


def test_it_ends_as_its_transport_refuses_it() -> None:
    error = MoltBusy("the queue is full")
    pending = call(ScriptedTransport(refuse(error)))
    assert pending.wait(None)
    assert pending.result is error


def test_a_request_that_fits_no_frame_is_its_caller_s_fault() -> None:
    too_large = FrameError(Fault.TOO_LARGE, "9 bytes, 8 at most")
    broken = FrameError(Fault.VERSION)
    for error, kind in ((too_large, MoltInvalidInput), (broken, FrameError)):
        pending = call(ScriptedTransport(refuse(error)))
        assert pending.wait(None)
        assert (type(pending.result), str(pending.result)) == (kind, str(error))


def test_it_ends_at_a_deadline_that_comes_first() -> None:
    transport = ScriptedTransport(silence)
    pending = call(transport, delay_s=60, deadline_s=0.01)
    assert pending.wait(30)
    assert isinstance(pending.result, MoltTimeout)
    assert transport.submitted == []


def test_it_can_be_given_up_before_and_after_it_has_begun() -> None:
    transport = ScriptedTransport(silence)
    early, late = call(transport, delay_s=60), call(transport)
    error = MoltCancelled("enough")
    assert early.abandon(error)  # type: ignore[attr-defined]
    assert not early.abandon(MoltCancelled("again"))  # type: ignore[attr-defined]
    assert (early.wait(None), early.result) == (True, error)
    assert not late.wait(0.05)
    assert late.abandon(error)  # type: ignore[attr-defined]
    assert transport.abandoned == [error]
