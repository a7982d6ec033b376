"""A transport that keeps a connection: when it makes one, which end means what, and what it says meanwhile."""

import time
from collections.abc import Callable, Sequence

import pytest

from molt_accel.config import Config
from molt_accel.errors import MoltClientClosed, MoltError, MoltStartFailed, MoltWorkerUnavailable
from molt_accel.transports.connected import ConnectedTransport
from molt_accel.transports.connection import BaseConnection, ConnectionState
from molt_accel.transports.launcher import FIRST_BACKOFF_S, STABLE_S

GONE = MoltWorkerUnavailable("gone")


class Scripted(BaseConnection):
    forgotten = False

    def end(self, error: MoltError = GONE, *, drained: bool = False, lived_s: float = 0.0) -> None:
        with self.lock:
            self._note_end(error, drained=drained)
        self.worker_started_s = self.ended_s - lived_s
        self.greeted.set()

    def greet(self) -> None:
        self.was_ready = True
        self.greeted.set()

    def close(self) -> None:
        self.move_to(ConnectionState.CLOSING)
        self.greeted.set()

    def forget(self) -> None:
        self.forgotten = True

    def _listen(self) -> MoltError:
        raise NotImplementedError

    def _end(self, error: MoltError) -> None:
        raise NotImplementedError


Play = Callable[[Scripted], object]


class Transport(ConnectedTransport[Scripted]):
    """Connects to nobody, or fails as it is told."""

    shares_worker = False
    failure: MoltWorkerUnavailable | None = None
    plays: Sequence[Play] = ()  #: what the first connections do at once

    def _connect(self, number: int) -> Scripted:
        if self.failure is not None:
            raise self.failure
        connection = Scripted(number)
        for play in self.plays[number - 1 : number]:
            play(connection)
        return connection


class Sharing(Transport):
    shares_worker = True


@pytest.fixture(params=[Transport, Sharing])
def transport(request: pytest.FixtureRequest) -> Transport:
    made: Transport = request.param(Config())
    return made


def test_the_first_call_connects_and_the_next_ones_use_that(transport: Transport) -> None:
    assert not transport.ready
    connection = transport._ready_connection()
    assert connection.number == 1
    assert transport.ready
    assert transport._ready_connection() is connection


@pytest.mark.parametrize(
    ("lived_s", "drained", "waits"),
    [(0.0, False, True), (STABLE_S, False, False), (0.0, True, False)],
    ids=["died young", "worked", "drained"],
)
def test_after_a_worker_that_died_young_only_a_shared_one_is_looked_for_at_once(
    transport: Transport, lived_s: float, drained: bool, waits: bool
) -> None:
    first = transport._ready_connection()
    first.greet()
    first.end(drained=drained, lived_s=lived_s)
    assert not transport.ready
    if waits and not transport.shares_worker:
        with pytest.raises(MoltWorkerUnavailable, match=r"^gone \(the next start is tried in 0\.\d s\)$"):
            transport._ready_connection()
        assert transport._policy.not_before_s == first.ended_s + FIRST_BACKOFF_S
    else:
        assert transport._ready_connection().number == 2


@pytest.mark.parametrize("at", ["connecting", "its start"])
def test_a_start_that_failed_is_waited_for_with_the_same_error(transport: Transport, at: str) -> None:
    failure = MoltStartFailed("no module")
    if at == "connecting":
        transport.failure = failure
        with pytest.raises(MoltStartFailed, match=r"^no module$"):
            transport._ready_connection()
        transport.failure = None
    else:
        transport._ready_connection().end(failure)
    with pytest.raises(MoltStartFailed, match=r"^no module \(the next start is tried in 0\.\d s\)$"):
        transport._ready_connection()
    transport._policy.not_before_s = time.monotonic()
    assert transport._ready_connection().number == 2


def test_closing_closes_those_that_were_retired_too_and_nothing_is_made_then(transport: Transport) -> None:
    retired = transport._ready_connection()
    retired.move_to(ConnectionState.FINISHING)
    current = transport._ready_connection()
    assert current is not retired
    transport.close()
    assert retired.closing
    assert current.closing
    for ask in (transport._ready_connection, lambda: transport.wait_ready(20)):
        with pytest.raises(MoltClientClosed):
            ask()
    assert transport._made == 2


def test_ended_connections_are_not_kept(transport: Transport) -> None:
    for _ in range(3):
        ended = transport._ready_connection()
        ended.greet()
        ended.end(lived_s=STABLE_S)
    last = transport._ready_connection()
    assert transport._connections == [last]


def test_a_connection_that_this_process_let_go_of_is_no_death(transport: Transport) -> None:
    first = transport._ready_connection()
    first.close()
    first.end()
    assert transport._ready_connection().number == 2
    assert transport._policy.failed_starts == 0


def test_closed_while_connecting_it_lets_go(transport: Transport) -> None:
    made: list[Scripted] = []
    transport.plays = [lambda connection: (made.append(connection), transport.close())]
    with pytest.raises(MoltClientClosed):
        transport._ready_connection()
    assert made[0].closing


def test_a_child_forgets_every_connection_and_makes_its_own(transport: Transport) -> None:
    transport.failure = MoltWorkerUnavailable("no")
    with pytest.raises(MoltWorkerUnavailable):
        transport._ready_connection()
    transport.failure = None
    transport._policy.not_before_s = 0.0
    connections = [transport._ready_connection()]
    connections[0].move_to(ConnectionState.FINISHING)
    connections.append(transport._ready_connection())
    transport.after_fork_in_child()
    assert all(each.forgotten for each in connections)
    assert not transport.ready
    assert transport._policy.failed_starts == 0
    assert transport._ready_connection() not in connections


@pytest.mark.parametrize(
    ("plays", "kind", "text"),
    [
        ([Scripted.greet], None, ""),
        ([lambda first: first.end(MoltStartFailed("no module"))], MoltStartFailed, "^no module$"),
        ([], MoltWorkerUnavailable, "the worker was not ready within 0.01 s"),
        ([lambda first: first.end(drained=True), Scripted.greet], None, ""),
        ([lambda first: first.end(drained=True)], MoltWorkerUnavailable, "not ready within 0.01 s"),
    ],
    ids=["greets", "can't start", "is slow", "drains, its successor greets", "drains, its successor is slow"],
)
def test_waiting_until_a_worker_is_ready(
    transport: Transport, plays: list[Play], kind: type[MoltError] | None, text: str
) -> None:
    transport.plays = plays
    if kind is None:
        transport.wait_ready(20)
        return
    with pytest.raises(kind, match=text):
        transport.wait_ready(0.01)
