"""molt_accel.transports.line: who may try to get a place."""

from molt_accel.ipc.messages import Request
from molt_accel.transports.base import Pending
from molt_accel.transports.line import LeavingLine, Line
from tests.support.scripted_transport import ScriptedTransport, answer, unsent


def test_first_come_first_served() -> None:
    line = Line()
    places = [line.join(request_id) for request_id in (7, 3, 5)]
    assert [place.done for place in places] == [True, False, False]
    assert [line.holds_back(request_id) for request_id in (7, 3, 5, 9)] == [False, True, True, True]
    line.leave(7)
    assert [place.done for place in places] == [True, True, False]
    assert [line.holds_back(request_id) for request_id in (3, 5, 9)] == [False, True, True]


def test_who_leaves_in_the_middle_changes_nothing_for_the_first() -> None:
    line = Line()
    first, second, third = (line.join(request_id) for request_id in (1, 2, 3))
    line.leave(2)
    line.leave(9)  # who isn't in it
    assert (first.done, second.done, third.done) == (True, False, False)
    line.leave(1)
    assert third.done
    line.leave(3)
    assert not line.holds_back(4)


def test_a_request_leaves_the_line_when_it_is_sent_and_not_before() -> None:
    line = Line()
    line.join(1)
    behind: Pending = line.join(2)
    sender = LeavingLine(ScriptedTransport(unsent, answer("sent")), line)
    request = Request(1, "echo")
    assert sender.submit(request) is None
    assert (sender.sent, behind.done) == (False, False)
    assert sender.submit(request) is not None
    assert (sender.sent, behind.done) == (True, True)
