"""molt_accel.transports.connection: the states of a connection and the errors that its end stands for."""

import itertools

import pytest

from molt_accel.errors import (
    MoltCancelled,
    MoltError,
    MoltIncompatible,
    MoltProtocolError,
    MoltStartFailed,
    MoltWorkerUnavailable,
    Status,
    to_wire,
)
from molt_accel.ipc.frame import Fault, FrameError
from molt_accel.ipc.messages import Cancel, Hello, Response, StartFailed
from molt_accel.transports.base import Pending
from molt_accel.transports.connection import (
    CONNECTION_TRANSITIONS,
    BaseConnection,
    ConnectionState,
    copy_error,
)


class Scripted(BaseConnection):
    """A connection to nobody, whose worker ends as `heard` says."""

    heard: MoltError | BaseException | str = "how"

    def close(self) -> None:
        raise NotImplementedError

    def forget(self) -> None:
        raise NotImplementedError

    def _listen(self) -> MoltError:
        if isinstance(self.heard, str):
            return self._farewell(self.heard)
        raise self.heard

    def _end(self, error: MoltError) -> None:
        with self.lock:
            self._note_end(error, drained=self.state is ConnectionState.FINISHING)

    def ended(self) -> tuple[type[MoltError], str, ConnectionState]:
        self._attend()
        assert self.end_error is not None
        return type(self.end_error), self.end_error.detail, self.state


def at(state: ConnectionState) -> Scripted:
    connection = Scripted(1)
    connection.state = state
    return connection


@pytest.mark.parametrize(("before", "after"), list(itertools.product(ConnectionState, repeat=2)))
def test_a_connection_takes_the_steps_of_the_table(before: ConnectionState, after: ConnectionState) -> None:
    connection = at(before)
    assert connection.move_to(after) is (after in CONNECTION_TRANSITIONS[before])
    assert connection.state is (after if after in CONNECTION_TRANSITIONS[before] else before)
    assert connection.closing is (connection.state in (ConnectionState.CLOSING, ConnectionState.CLOSED))


def test_a_connection_is_open_until_its_first_step_and_never_again() -> None:
    for state in CONNECTION_TRANSITIONS[ConnectionState.OPEN]:
        connection = Scripted(1)
        assert connection.open
        assert connection.move_to(state)
        assert not connection.open
    assert all(ConnectionState.OPEN not in steps for steps in CONNECTION_TRANSITIONS.values())


@pytest.mark.parametrize(
    ("before", "said", "kind", "detail", "after"),
    [
        ("OPEN", "ready", MoltWorkerUnavailable, "the worker is gone: how", "LOST"),
        ("DEAF", "ready", MoltWorkerUnavailable, "the worker is gone: how", "LOST"),
        ("OPEN", "", MoltStartFailed, "the worker can't start: how", "LOST"),
        ("DEAF", "", MoltStartFailed, "the worker can't start: how", "LOST"),
        ("FINISHING", "", MoltWorkerUnavailable, "the worker is gone: how", "DRAINED"),
        ("OPEN", MoltStartFailed, MoltStartFailed, "the worker can't start: why", "LOST"),
        ("OPEN", MoltIncompatible, MoltIncompatible, "the worker can't start: why", "LOST"),
        ("OPEN", MoltWorkerUnavailable, MoltStartFailed, "the worker can't start: why", "LOST"),
        ("CLOSING", MoltStartFailed, MoltCancelled, "the client was closed", "CLOSED"),
    ],
)
def test_ends_have_meanings(
    before: str, said: str | type[MoltError], kind: type[MoltError], detail: str, after: str
) -> None:
    connection = at(ConnectionState[before])
    connection.was_ready = said == "ready"
    if not isinstance(said, str):
        connection._take(StartFailed(to_wire(said("why"))))
    assert connection.ended() == (kind, detail, ConnectionState[after])


@pytest.mark.parametrize(
    ("heard", "kind", "detail"),
    [
        (MoltProtocolError("what"), MoltProtocolError, "what"),
        (FrameError(Fault.EMPTY), FrameError, "zero length"),
        (
            FrameError(Fault.VERSION, "3, this side speaks 2"),
            MoltIncompatible,
            "the worker speaks another protocol: unknown version: 3, this side speaks 2; client and worker must be of "
            "one release of molt-accel: restart the older one, and see that MOLT_WORKER_CMD starts this release's "
            "molt-worker",
        ),
        (ZeroDivisionError(), MoltWorkerUnavailable, "the connection failed: ZeroDivisionError"),
    ],
)
def test_a_failure_of_listening_ends_it(heard: Exception, kind: type[MoltError], detail: str) -> None:
    connection = Scripted(1)
    connection.heard = heard
    assert connection.ended() == (kind, detail, ConnectionState.LOST)


@pytest.mark.parametrize("was_ready", [False, True])
@pytest.mark.parametrize("state", [ConnectionState.OPEN, ConnectionState.FINISHING])
def test_a_request_may_have_run_if_it_was_ready_and_no_drain(was_ready: bool, state: ConnectionState) -> None:
    connection = at(state)
    connection.was_ready = was_ready
    connection.ended()
    assert isinstance(connection.end_error, MoltWorkerUnavailable)
    assert connection.end_error.may_have_run is (was_ready and state is ConnectionState.OPEN)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (MoltWorkerUnavailable("gone", facts={"may_have_run": 1}), MoltWorkerUnavailable),
        (FrameError(Fault.EMPTY), MoltProtocolError),
    ],
)
def test_everybody_raises_an_error_object_of_his_own(error: MoltError, kind: type[MoltError]) -> None:
    copy = copy_error(error)
    assert copy is not error
    assert (type(copy), copy.detail, copy.facts) == (kind, error.detail, error.facts)
    assert copy.facts is not error.facts


def test_a_response_ends_the_call_it_is_of_and_no_other() -> None:
    connection = Scripted(1)
    calls = {number: Pending(number) for number in (1, 2)}
    connection._pending.update(calls)
    answer = Response(1, Status.OK, b"")
    connection._take(answer)
    connection._take(Response(3, Status.OK, b""))  # too late: nobody waits any more
    assert (calls[1].result, calls[2].result) == (answer, None)
    assert list(connection._pending) == [2]


def test_the_end_resolves_each_call_with_an_error_of_its_own() -> None:
    connection = Scripted(1)
    calls = [Pending(number) for number in (1, 2)]
    connection._pending.update({call.request_id: call for call in calls})
    error = MoltWorkerUnavailable("gone", facts={"may_have_run": 1})
    connection._resolve_all(error)
    assert connection._pending == {}
    for call in calls:
        assert isinstance(call.result, MoltWorkerUnavailable)
        assert call.result is not error
        assert call.result.may_have_run
    assert calls[0].result is not calls[1].result


def test_a_greeting_is_noted_and_a_message_that_no_worker_sends_is_refused() -> None:
    connection = Scripted(1)
    assert not connection.was_ready
    connection._take(Hello())
    assert connection.was_ready
    assert connection.greeted.is_set()
    with pytest.raises(MoltProtocolError, match="unexpected Cancel from the worker"):
        connection._take(Cancel(1, 1))
