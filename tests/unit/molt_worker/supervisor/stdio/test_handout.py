"""Who has which request: bookkeeping of executors that are idle, busy or leaving."""

from typing import Any

import pytest

from molt_accel.ipc import messages
from molt_accel.ipc.messages import U32_MAX
from molt_worker.supervisor.stdio.handout import HandOut
from molt_worker.supervisor.stdio.lifecycle import Request


def request() -> Request:
    return Request(messages.Request(1, "echo"))


@pytest.fixture
def handout() -> Any:
    handout: Any = HandOut(1024)
    for executor in ("first", "second"):
        handout.add(executor)
    return handout


def test_the_executor_used_last_is_used_next_and_each_request_has_another_serial(handout: Any) -> None:
    given = request()
    assert handout.assign(given, 5) == ("second", 1)
    assert (given.executor, handout.request_of("second"), handout.serial("second")) == ("second", given, 1)
    assert (handout.busy, handout.idle) == (1, 1)
    assert handout.running == {"second": ("echo", 5)}
    handout.release("second")
    assert (given.executor, handout.request_of("second"), handout.busy, handout.idle) == (None, None, 0, 1)
    handout.release("second")  # it has ended already
    assert handout.busy == 0
    assert handout.answered("second")
    handout._assignments["second"].serial = U32_MAX - 1
    assert handout.assign(request(), 5) == ("second", U32_MAX)
    handout.release("second")
    assert handout.answered("second")
    assert handout.assign(request(), 5) == ("second", 1)  # 0 is no request's
    assert (handout.served("second"), handout.served("first"), handout.served("unknown")) == (2, 0, 0)


def test_nothing_is_handed_out_when_nobody_is_idle(handout: Any) -> None:
    handout.assign(request(), 5)
    handout.closed("first")
    with pytest.raises(IndexError):
        handout.assign(request(), 5)


def test_one_that_is_withdrawn_leaves_at_once_or_after_its_answer(handout: Any) -> None:
    handout.assign(request(), 5)
    assert handout.withdraw("first")
    assert not handout.withdraw("second")
    handout.release("second")
    assert not handout.answered("second")
    assert handout.idle == 0


def test_the_dead_have_their_request_until_they_are_reaped(handout: Any) -> None:
    given = request()
    handout.assign(given, 5)
    handout.closed("second")
    assert (handout.request_of("second"), handout.busy) == (given, 1)
    handout.release("second")
    handout.reaped("second")
    assert handout.request_of("second") is None
    handout.reaped("never ready")
