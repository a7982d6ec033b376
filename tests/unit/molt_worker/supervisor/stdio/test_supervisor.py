"""The supervisor of stdio: what becomes of each request, with executors and a client that the test plays."""

import os
import signal
import socket
import time

import pytest

from molt_accel import codec
from molt_accel.errors import MoltStartFailed, MoltWorkerUnavailable, Status
from molt_accel.ipc.frame import encode
from molt_accel.ipc.messages import (
    PING,
    Codec,
    Detach,
    Hello,
    Request,
    Response,
)
from molt_worker.entrypoints.request import StopReason
from molt_worker.processes.commands import Interrupt, Kill
from molt_worker.supervisor.stdio import supervisor as stdio_supervisor
from tests.support.stdio_testbed import GENERATION, GRACE_MS, MakeScene, Scene

CRASHED = "the executor died while it ran 'echo': signal 11 (SIGSEGV)"


@pytest.fixture
def scene(make_scene: MakeScene) -> Scene:
    return make_scene()


# -- placed, handed out, answered -------------------------------------------------------------------------
def test_requests_go_to_idle_executors_then_the_queue_and_others_are_refused(scene: Scene) -> None:
    for request_id in range(1, 6):
        scene.ask(request_id)
    assert scene.outcomes() == [(5, "MoltBusy", "the queue is full")]
    assert scene.given(2) == [(1, 1, 0, 1)]
    assert scene.given(1) == [(2, 1, 0, 2)]
    scene.answer(1, 1)
    assert scene.outcomes() == [(2, "Ok", "done")]
    assert scene.given(1) == [(3, 2, 1, 2)]
    for number, serial in ((2, 1), (1, 2), (2, 2)):
        scene.answer(number, serial)
    assert [row[:2] for row in scene.outcomes()] == [(1, "Ok"), (3, "Ok"), (4, "Ok")]
    assert scene.supervisor._counters.outcomes == {"Ok": 4, "Busy": 1}
    assert scene.stage.log().count("debug request") == 5
    assert "request_id=0000000000000005 entry=echo status=Busy" in scene.stage.log()


def test_nobody_overtakes_those_that_are_queued_when_an_executor_gets_idle(make_scene: MakeScene) -> None:
    """Its answer and another request are seen in one turn, before the queue is looked at."""
    scene = make_scene(executors=1)
    scene.ask(1)
    scene.ask(2)
    scene.given(1)
    scene.child(1).send(Response(0, Status.OK, generation=1))
    scene.stage.pool.poll(scene.stage.executor(1))
    assert scene.supervisor._handout.idle == 1
    scene.supervisor._on_frame(Request(3, "echo", generation=GENERATION))
    scene.turn()
    assert [row[0] for row in scene.given(1)] == [2]


def test_one_that_may_wait_gets_the_place_that_is_free_first_or_is_refused(make_scene: MakeScene) -> None:
    scene = make_scene(executors=1, max_queue=1)
    for request_id, wait_ms in ((1, 0), (2, 0), (3, 60_000), (4, 60_000)):
        scene.ask(request_id, max_wait_ms=wait_ms)
    assert scene.outcomes() == []  # more may wait than can be queued
    scene.answer(1, 1)
    scene.pass_ms(61_000)
    assert scene.outcomes() == [(1, "Ok", "done"), (4, "MoltBusy", "the queue is full")]
    scene.ask(5, max_wait_ms=60_000)
    scene.pass_ms(61_000)
    assert scene.outcomes() == [(5, "MoltBusy", "the queue is full")]


def test_unknown_entries_are_refused_also_if_they_came_before_the_exports(make_scene: MakeScene) -> None:
    scene = make_scene(start=False)
    scene.ask(1, "nothing")
    scene.ask(2, "echo")
    assert scene.outcomes() == []
    scene.forkserver = scene.stage.start()
    assert scene.given(2) == [(2, 1, 0, 1)]
    first, greeting = scene.heard()
    assert (first.request_id, first.status, greeting) == (1, Status.INTERNAL_ERROR, Hello())
    scene.ask(3, "nothing")
    assert scene.outcomes() == [(3, "MoltEntryError", "unknown entry 'nothing'; the pool offers 'echo'")]


def test_a_ping_says_what_the_worker_does(make_scene: MakeScene) -> None:
    scene = make_scene(executors=3)
    scene.ask(1)
    scene.child(2).sock.close()
    scene.turn()
    scene.ask(9, PING)
    ((_, _, report),) = scene.outcomes()
    assert report["executors"] == {"size": 3, "idle": 1, "busy": 1, "starting": 1, "pids": [os.getpid()] * 3}
    names = ("transport", "pid", "ready", "exports", "compiled", "queue_depth", "max_queue", "in_flight")
    assert [report[name] for name in names] == ["stdio", os.getpid(), True, ["echo"], [], 0, 2, 1]
    assert (report["executor_starts"], report["executor_deaths"], report["outcomes"]) == (4, 1, {})
    assert set(report["shed"].values()) == {0}
    assert report["entries"] == {
        "echo": {
            "usual_ms": 0.0,
            "running": 1,
            "queued": 0,
            "limit": None,
            "priority": "normal",
            "refused": 0,
        }
    }


# -- stopped ----------------------------------------------------------------------------------------------
def test_a_deadline_that_passes_ends_a_queued_request_and_stops_a_running_one(make_scene: MakeScene) -> None:
    scene = make_scene(executors=1)
    now_ns = time.monotonic_ns()
    scene.ask(1, deadline_ns=now_ns + 20_000_000_000)
    scene.ask(2, deadline_ns=now_ns + 20_000_000_000)
    scene.ask(3, deadline_ns=now_ns - 1)
    late = "the deadline passed in the queue"
    assert scene.outcomes() == [(3, "MoltTimeout", late)]
    scene.pass_ms(21_000)
    assert scene.outcomes() == [(2, "MoltTimeout", late)]
    assert scene.stage.executor(1).word.reason(1) == StopReason.TIMED_OUT
    assert Interrupt(1) in scene.forkserver.told
    scene.answer(1, 1, Status.TIMEOUT, "it gave in")
    assert scene.outcomes() == [(1, "MoltTimeout", "the deadline passed while the request ran")]


def test_an_answer_that_is_ready_before_the_stop_is_the_outcome(make_scene: MakeScene) -> None:
    scene = make_scene(executors=1)
    scene.ask(1)
    scene.cancel(1)
    scene.answer(1, 1)
    assert scene.outcomes() == [(1, "Ok", "done")]


def test_what_does_not_stop_in_the_grace_time_is_killed(make_scene: MakeScene) -> None:
    scene = make_scene(executors=1)
    scene.ask(1)
    scene.ask(2)
    scene.cancel(1, generation=GENERATION + 1)  # of an earlier request with this id
    scene.cancel(7)
    assert scene.stage.executor(1).word.reason(1) == 0
    scene.cancel(2)
    cancelled = "the client asked to stop"
    assert scene.outcomes() == [(2, "MoltCancelled", cancelled)]
    scene.cancel(1)
    scene.cancel(1)
    assert scene.stage.executor(1).word.reason(1) == StopReason.CANCELLED
    assert scene.forkserver.told.count(Interrupt(1)) == 1
    scene.pass_ms(GRACE_MS / 2)
    assert scene.outcomes() == []
    scene.pass_ms(GRACE_MS + 1000)
    assert scene.outcomes() == [(1, "MoltCancelled", cancelled)]
    assert Kill(1) in scene.forkserver.told
    assert "executor_killed executor=1 entry=echo" in scene.stage.log()
    assert scene.stage.numbers() == [2]


def test_an_answer_that_comes_as_it_is_to_be_killed_spares_the_executor(make_scene: MakeScene) -> None:
    scene = make_scene(executors=1)
    scene.ask(1)
    scene.cancel(1)
    scene.stage.loop.watch(scene.stage.executor(1).sock.fileno(), 0)  # so that only the last look sees it
    scene.answer(1, 1, Status.CANCELLED, "it gave in")
    scene.pass_ms(GRACE_MS + 1000)
    assert scene.outcomes() == [(1, "MoltCancelled", "the client asked to stop")]
    assert Kill(1) not in scene.forkserver.told


# -- executors that die or lie ----------------------------------------------------------------------------
@pytest.mark.parametrize("what", ["another serial", "twice", "unasked"])
def test_an_answer_to_nothing_it_was_given_ends_the_executor(what: str, scene: Scene) -> None:
    if what != "unasked":
        scene.ask(1)
        scene.given(2)
        scene.answer(2, 1 if what == "twice" else 2)
    assert scene.outcomes() == ([(1, "Ok", "done")] if what == "twice" else [])
    if what != "another serial":
        scene.answer(2, 1)
    assert Kill(2) in scene.forkserver.told
    assert "executor_broke_protocol executor=2" in scene.stage.log()
    assert scene.stage.numbers() == [1, 3]


def test_a_second_greeting_changes_nothing(scene: Scene) -> None:
    scene.stage.greet(1)
    assert (scene.heard(), scene.supervisor._handout.idle) == ([], 2)


@pytest.mark.parametrize("reaped", [True, False])
def test_a_silent_executor_has_the_request_until_it_is_given_up(reaped: bool, scene: Scene) -> None:
    scene.ask(1)
    scene.given(2)
    scene.child(2).sock.close()
    scene.turn()
    assert (scene.outcomes(), scene.supervisor._handout.busy) == ([], 1)
    if not reaped:
        scene.pass_ms(2100)
        assert scene.outcomes() == [(1, "MoltWorkerCrashed", "the executor died")]
    scene.forkserver.exited(2, -signal.SIGSEGV)
    scene.turn()
    assert scene.outcomes() == ([(1, "MoltWorkerCrashed", CRASHED)] if reaped else [])
    assert scene.supervisor._handout.busy == 0
    assert ("executor_crashed executor=2" in scene.stage.log()) == reaped


def test_one_that_was_to_be_stopped_and_dies_was_stopped(scene: Scene) -> None:
    for request_id in (1, 2):
        scene.ask(request_id)
        scene.cancel(request_id)
    scene.given(2)  # it has read its request; the other one has not
    for number in (1, 2):
        scene.stage.reap(number, -signal.SIGSEGV)
    assert sorted(scene.outcomes()) == [(n, "MoltCancelled", "the client asked to stop") for n in (1, 2)]


def test_an_idle_executor_s_death_is_nobody_s_request(scene: Scene) -> None:
    scene.stage.reap(2, -9)
    assert "executor_crashed" not in scene.stage.log()
    scene.ask(1)
    assert scene.given(1) == [(1, 1, 0, 1)]


def test_a_request_that_its_executor_left_unread_goes_to_another(make_scene: MakeScene) -> None:
    scene = make_scene(executors=1)
    scene.ask(1)
    scene.child(1).sock.close()  # so the supervisor's end is reset
    scene.turn()
    scene.stage.greet(2)
    assert scene.given(2) == [(1, 1, 0, 1)]
    assert scene.outcomes() == []


def test_a_request_that_was_not_read_goes_to_another_but_not_for_ever(make_scene: MakeScene) -> None:
    scene = make_scene(executors=1)
    scene.child(1).sock.close()
    scene.stage.loop.watch(scene.stage.executor(1).sock.fileno(), 0)  # seen as the request is sent
    scene.ask(1)
    scene.stage.greet(2)
    scene.child(2).sock.close()  # with the request unread, so the supervisor's end is reset
    scene.turn()
    assert scene.outcomes() == []
    scene.forkserver.exited(2, -signal.SIGSEGV)
    scene.turn()
    assert scene.outcomes() == [(1, "MoltWorkerCrashed", CRASHED)]


def test_after_so_many_requests_an_executor_is_recycled(make_scene: MakeScene) -> None:
    scene = make_scene(executors=1, max_requests=2)
    for serial in (1, 2, 3):
        scene.ask(serial)
        scene.answer(1, serial)
    assert scene.stage.counters.recycled == 1
    assert "executor_recycled executor=1 why=max_requests served=2" in scene.stage.log()
    scene.ask(4)
    scene.given(1)
    scene.stage.greet(2)
    assert not scene.child(1).retired()
    scene.answer(1, 4)  # a replaced executor leaves after its answer
    assert [row[:2] for row in scene.outcomes()] == [(each, "Ok") for each in (1, 2, 3, 4)]
    assert scene.child(1).retired()
    scene.ask(5)
    assert scene.given(2) == [(5, 1, 0, 1)]


# -- the client -------------------------------------------------------------------------------------------
def test_frames_that_are_no_requests_are_refused_unless_their_id_is_in_flight(scene: Scene) -> None:
    scene.ask(1)
    scene.ask(1)
    taken = "request id 0000000000000001 is in flight already"
    assert scene.outcomes() == [(0, "BadFrame", taken)]
    bad = bytearray(encode(Request(1, "echo", generation=GENERATION)))
    bad[bad.index(b"echo")] = 0xFF  # malformed under the id that is in flight
    scene.client.sendall(bad)
    scene.say(Response(1, generation=GENERATION))
    ((_, _, malformed), (_, _, response)) = scene.outcomes()
    assert ("entry" in malformed, response) == (True, "a response is not for a worker")
    scene.say(Response(8, generation=GENERATION))
    assert scene.outcomes() == [(8, "MoltInvalidInput", "a response is not for a worker")]
    scene.say(Detach())
    ((_, what, text),) = scene.outcomes()
    assert (what, "Detach" in text) == ("BadFrame", True)
    raw = bytearray(encode(Request(7, "echo", generation=GENERATION)))
    raw[raw.index(b"echo")] = 0xFF
    scene.client.sendall(raw)
    scene.turn()
    ((request_id, error, _),) = scene.outcomes()
    assert (request_id, error) == (7, "MoltInvalidInput")
    assert scene.supervisor._counters.bad_frames == 6
    assert scene.given(2) == [(1, 1, 0, 1)]


def test_who_does_not_read_is_not_read_from(make_scene: MakeScene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stdio_supervisor, "_HIGH_WATER_BYTES", 1)
    scene = make_scene(executors=1, max_frame_bytes=1 << 20)
    scene.ask(1)
    scene.ask(2)
    scene.given(1)
    scene.answer(1, 1, text="x" * 100_000)
    assert scene.supervisor._client.pending_bytes > 1
    assert scene.given(1) == []  # an executor is idle, and would only make more of it
    scene.client.sendall(encode(Request(3, "echo", generation=GENERATION)))
    scene.turn()
    assert len(scene.supervisor._requests) == 1
    assert [row[:2] for row in scene.outcomes()] == [(1, "Ok")]
    scene.turn()
    assert scene.given(1) == [(2, 2, 0, 1)]
    assert len(scene.supervisor._requests) == 2


def test_a_client_that_goes_has_everything_stopped(make_scene: MakeScene) -> None:
    scene = make_scene(executors=1)
    scene.ask(1)
    scene.ask(2)
    scene.client.close()
    scene.turn()
    assert scene.stage.executor(1).word.reason(1) == StopReason.CANCELLED
    assert list(scene.supervisor._requests) == [1]
    assert not scene.supervisor.finished()
    scene.answer(1, 1, Status.CANCELLED, "it gave in")
    assert scene.supervisor.finished()
    assert "client_gone requests=2" in scene.stage.log()
    assert scene.stage.counters.outcomes == {"Cancelled": 2}


@pytest.mark.parametrize("large", [True, False], ids=["what waits", "a response"])
def test_a_client_that_can_not_be_written_to_is_gone(large: bool, make_scene: MakeScene) -> None:
    """Though it has not closed the end that it writes to."""
    scene = make_scene(executors=1, max_frame_bytes=1 << 20)
    for request_id in (1, 2, 3):
        scene.ask(request_id)
    if large:
        scene.answer(1, 1, text="x" * 100_000)
        assert scene.supervisor._client.pending_bytes
        scene.client.recv(1 << 20)  # there is room for more
    scene.client.shutdown(socket.SHUT_RD)
    if not large:
        scene.answer(1, 1)
    scene.turn()
    assert scene.supervisor._client.pending_bytes == 0
    assert scene.stage.log().count("client_gone") == 1


def test_a_report_over_the_frame_limit_is_an_error_and_no_bug(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scene.supervisor._client, "_max", 300)
    scene.ask(9, PING)
    ((request_id, error, text),) = scene.outcomes()
    assert (request_id, error) == (9, "MoltInternalError")
    assert text.startswith("the result is over the frame limit")


# -- start and stop ---------------------------------------------------------------------------------------
def test_a_start_that_fails_ends_what_has_come(make_scene: MakeScene) -> None:
    scene = make_scene(start=False)
    scene.ask(1)
    scene.supervisor.on_start_failed(MoltStartFailed("no module"))
    scene.turn()
    assert scene.outcomes() == [
        (0, "StartFailed", "no module"),
        (1, "MoltStartFailed", "the worker can't start: no module"),
    ]
    assert scene.supervisor.finished()


def test_a_worker_that_drains_finishes_what_it_has_and_takes_nothing_new(make_scene: MakeScene) -> None:
    scene = make_scene(executors=1)
    scene.ask(1)
    scene.ask(2)
    scene.supervisor._worker.draining = True
    scene.supervisor.drain()
    scene.ask(3)
    assert scene.outcomes() == [(3, "MoltBusy", "the worker is stopping")]
    for serial in (1, 2):
        assert not scene.supervisor.finished()
        scene.answer(1, serial)
    assert scene.supervisor.finished()
    assert [row[:2] for row in scene.outcomes()] == [(1, "Ok"), (2, "Ok")]
    assert "worker_draining requests=2" in scene.stage.log()


def test_a_worker_that_stops_tells_which_requests_may_have_run(make_scene: MakeScene) -> None:
    scene = make_scene(executors=1)
    scene.ask(1)
    scene.ask(2)
    scene.supervisor.stop(MoltWorkerUnavailable("enough"))
    scene.pass_ms(GRACE_MS + 1000)
    bodies = {f.request_id: codec.decode(Codec.MSGPACK, f.payload) for f in scene.heard()}
    assert [bodies[each].get("may_have_run") for each in (1, 2)] == [1, None]
    assert {body["detail"] for body in bodies.values()} == {"enough"}
    scene.ask(3)
    assert scene.outcomes() == [(3, "MoltBusy", "the worker is stopping")]
    assert scene.supervisor.finished()
    assert scene.stage.numbers() == []  # nobody is started any more


def test_a_failed_handing_out_costs_one_turn(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(scene.supervisor, "_dispatch", lambda: [][0])
        scene.supervisor.settle()
    assert "supervisor_bug" in scene.stage.log()
    scene.stage.forget_log()
    scene.ask(1)
    assert scene.given(2) == [(1, 1, 0, 1)]


def test_its_descriptors_block_again_when_it_ends(make_scene: MakeScene) -> None:
    scene = make_scene(start=False)
    scene.near.setblocking(True)
    seen: list[bool] = []
    scene.supervisor._worker.run = lambda _: seen.append(os.get_blocking(scene.near.fileno())) or 0  # type: ignore[method-assign,func-returns-value]
    scene.supervisor.run()
    scene.supervisor.close()
    assert [*seen, os.get_blocking(scene.near.fileno())] == [False, True]
