"""The pool without requests: what it tells its owner, when, and what it does by itself."""

import errno
import os
from pathlib import Path

import psutil
import pytest

from molt_accel.errors import MoltIncompatible, MoltStartFailed, Status, to_wire
from molt_accel.ipc.frame import FrameError, Item, encode
from molt_accel.ipc.messages import Hello, Request, Response, StartFailed
from molt_accel.ipc.shm.layout import serial_of
from molt_worker.entrypoints.request import StopReason
from molt_worker.processes.commands import Interrupt, Kill, Sources, Spawn, Wake
from molt_worker.processes.handles import ExecutorState
from molt_worker.processes.sources import stamp
from tests.support.scripted_forkserver import MakeStage, Stage, record


def started(stage: Stage) -> Stage:
    stage.start()
    stage.owner.seen()
    return stage


@pytest.fixture
def fresh(make_stage: MakeStage) -> Stage:
    return make_stage(record)


@pytest.fixture
def stage(fresh: Stage) -> Stage:
    return started(fresh)


def test_a_full_pool_starts_and_the_exports_are_told_once(fresh: Stage) -> None:
    forkserver = fresh.load()
    assert forkserver.told == [Spawn(1, 0), Spawn(2, 1)]
    assert [child.slot for child in forkserver.children.values()] == [0, 1]
    assert fresh.owner.seen() == [("exports", 1, 0)]
    forkserver.children[2].greet()
    forkserver.children[1].greet()
    fresh.turn()
    assert sorted(fresh.owner.seen()) == [("ready", 1), ("ready", 2)]
    assert [fresh.executor(number).pid for number in (1, 2)] == [os.getpid()] * 2


def test_messages_come_from_ready_executors_only(fresh: Stage) -> None:
    forkserver = fresh.load()
    fresh.owner.seen()
    forkserver.children[1].send(Hello())  # this is its greeting
    forkserver.children[1].send(Wake())
    forkserver.children[2].send(Response(8, Status.OK))
    fresh.turn()
    assert fresh.owner.seen() == [
        ("ready", 1),
        ("message", 1, Wake()),
        ("closed", 2, ExecutorState.GONE, True),
    ]
    assert "executor_broke_protocol executor=2" in fresh.log()


@pytest.mark.parametrize("how", ["refused", "malformed", "end"])
def test_who_breaks_the_protocol_or_hangs_up_is_killed_and_replaced(how: str, stage: Stage) -> None:
    child = stage.forkserver.children[1]
    stage.owner.accepts = False
    if how == "refused":
        child.send(Response(5, Status.OK))
        child.send(Response(6, Status.OK))
    elif how == "malformed":
        child.sock.sendall(encode(Hello()).replace(b"\x01", b"\x09", 1))
    else:
        child.sock.close()
    stage.turn()
    closed = ("closed", 1, ExecutorState.GONE, True)
    assert stage.owner.seen() == (
        [("message", 1, Response(5, Status.OK)), closed] if how == "refused" else [closed]
    )
    assert ("executor_broke_protocol" in stage.log()) == (how != "end")
    assert stage.counters.executor_deaths == 1
    assert stage.numbers() == [2, 3]
    stage.forkserver.exited(1, -9)
    stage.turn()
    assert stage.owner.seen() == [("reaped", 1, -9)]


def test_what_it_still_said_is_heard_before_its_death(stage: Stage) -> None:
    stage.loop.watch(stage.executor(1).sock.fileno(), 0)  # the report of its exit is seen first
    said = Response(5, Status.OK, b"x" * 100_000)  # more than is read at once
    stage.forkserver.children[1].send(said)
    stage.forkserver.exited(1, 3)
    stage.turn()
    assert stage.owner.seen() == [
        ("message", 1, said),
        ("closed", 1, ExecutorState.GONE, True),
        ("reaped", 1, 3),
    ]


def test_a_killed_executor_is_replaced_and_reaped_without_being_closed(stage: Stage) -> None:
    stage.pool.kill(stage.executor(2))
    stage.turn()
    assert Kill(2) in stage.forkserver.told
    assert stage.numbers() == [1, 3]
    stage.reap(2, -9)
    assert stage.owner.seen() == [("reaped", 2, -9)]


def test_a_message_to_one_that_has_just_died_closes_it(stage: Stage) -> None:
    stage.forkserver.children[1].sock.close()
    stage.pool.send(stage.executor(1), Request(1, "echo"))
    assert stage.owner.seen() == [("closed", 1, ExecutorState.GONE, True)]


def test_a_large_message_goes_out_as_the_executor_takes_it(stage: Stage) -> None:
    payload = b"x" * 3_000_000
    stage.pool.send(stage.executor(1), Request(1, "echo", payload))
    frames: list[Item | FrameError] = []
    while not frames:
        stage.turn()
        frames = stage.forkserver.children[1].received()
    assert frames == [Request(1, "echo", payload)]


def test_an_interrupt_names_the_request_and_tells_the_forkserver(stage: Stage) -> None:
    executor = stage.executor(2)
    stage.pool.interrupt(executor, 41, StopReason.TIMED_OUT)
    stage.turn()
    assert stage.forkserver.told[-1] == Interrupt(2)
    assert (executor.word.reason(41), executor.word.reason(42)) == (StopReason.TIMED_OUT, 0)


def test_a_recycled_executor_is_replaced_when_its_successor_is_ready(stage: Stage) -> None:
    old = stage.executor(1)
    stage.owner.counts = {1: 12}
    stage.pool.recycle(old, "max_requests")
    stage.pool.recycle(old, "max_requests")
    stage.turn()
    stage.pass_time(0)  # it has one successor, however often the pool looks
    assert stage.owner.seen() == []
    assert stage.numbers() == [1, 2, 3]
    stage.greet(3)
    assert stage.owner.seen() == [("ready", 3), ("withdrawn", 1)]
    assert stage.numbers() == [1, 2, 3]  # when it leaves is for the delivery to say
    stage.pool.retire(old)
    stage.turn()
    assert stage.forkserver.children[1].retired()
    stage.reap(1, 0)
    assert stage.owner.seen() == [("reaped", 1, 0)]
    assert (stage.counters.recycled, stage.counters.executor_deaths) == (1, 0)
    assert "executor_recycled executor=1 why=max_requests served=12" in stage.log()
    assert stage.numbers() == [2, 3]
    assert [each for each in vars(stage.pool._replacements).values() if each] == []
    stage.pool.kill(stage.executor(2))
    stage.pool.recycle(stage.executor(2), "max_requests")
    assert stage.counters.recycled == 1


def test_one_that_is_replaced_may_go_as_it_likes(stage: Stage) -> None:
    """Its place is taken, so that its death costs the pool nothing."""
    stage.pool.recycle(stage.executor(1), "max_requests")
    stage.turn()
    stage.greet(3)
    stage.forkserver.children[1].sock.close()
    stage.turn()
    assert stage.owner.seen()[-1] == ("closed", 1, ExecutorState.GONE, True)
    assert stage.numbers() == [2, 3]
    assert (stage.counters.executor_deaths, stage.counters.executor_starts) == (0, 3)


def test_one_that_was_retired_and_stays_is_killed(stage: Stage) -> None:
    stage.pool.retire(stage.executor(1))
    stage.pass_time(1.0)
    assert Kill(1) not in stage.forkserver.told
    stage.pass_time(2.5)
    assert Kill(1) in stage.forkserver.told


def test_when_the_successor_dies_the_recycled_one_stays_until_another_is_ready(stage: Stage) -> None:
    stage.pool.recycle(stage.executor(1), "max_requests")
    stage.turn()
    stage.reap(3, 1)
    assert ("withdrawn", 1) not in stage.owner.seen()
    assert stage.numbers() == [1, 2]
    stage.pool._start_not_before_ns = 0  # the time after a start that failed is over
    stage.pass_time(0)
    stage.greet(4)
    assert stage.owner.seen() == [("ready", 4), ("withdrawn", 1)]


def test_without_a_descriptor_an_executor_comes_later(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:

    def none_left() -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    for times in (1, 2):  # each time it is logged once
        with monkeypatch.context() as patch:
            patch.setattr("molt_worker.processes.handles.socket.socketpair", none_left)
            stage.reap(times, 1)
            for _ in range(3):
                stage.pass_time(0.2)
            assert len(stage.numbers()) == 1
        assert stage.pool.words.left == 15
        assert stage.log().count("executor_not_started") == times
        assert "Too many open files" in stage.log()
        stage.pass_time(0.2)
        assert len(stage.numbers()) == 2


def test_when_the_recycled_one_dies_its_successor_takes_the_place(stage: Stage) -> None:
    stage.pool.recycle(stage.executor(1), "max_requests")
    stage.turn()
    stage.reap(1, -11)
    assert stage.numbers() == [2, 3]
    stage.greet(3)
    assert ("ready", 3) in stage.owner.seen()
    assert stage.numbers() == [2, 3]


def test_a_reload_replaces_everyone_and_tells_the_exports_at_the_last(stage: Stage) -> None:
    newer = stage.load()
    assert stage.owner.seen() == []
    assert list(newer.children) == [3, 4]
    newer.children[3].greet()
    stage.turn()
    first = stage.owner.seen()
    newer.children[4].greet()
    stage.turn()
    last = stage.owner.seen()
    assert [row[0] for row in first] == ["ready", "withdrawn"]
    assert [row[0] for row in last] == ["ready", "withdrawn", "exports"]
    assert {first[1][1], last[1][1]} == {1, 2}
    assert last[2] == ("exports", 1, 1)


def test_a_fork_server_ends_when_its_last_executor_has_and_its_death_before_restarts_nothing(
    make_stage: MakeStage,
) -> None:
    for dies in (False, True):
        stage = started(make_stage(record))
        older, newer = stage.forkserver, stage.load()
        for child in newer.children.values():
            child.greet()
        stage.turn()
        for number in (1, 2):
            assert not older.killed
            stage.pool.retire(stage.executor(number))
            if number == 1 or not dies:
                older.exited(number, 0)
            else:
                older.kill()
            stage.turn()
        assert older.killed
        assert older not in stage.pool._forkservers
        assert ("forkserver_died" in stage.log()) == dies
        stage.pass_time(0)
        assert stage.forkservers == [older, newer]
        assert stage.numbers() == [3, 4]
        newer.exited(99, 0)  # nobody that is known
        stage.turn()


def test_a_reload_that_is_overtaken_changes_nothing(stage: Stage) -> None:
    stage.pool.start_forkserver()
    overtaken, newest = stage.forkserver, stage.load()
    assert stage.numbers() == [1, 2, 3, 4]
    overtaken.loaded()
    stage.turn()
    assert stage.numbers() == [1, 2, 3, 4]
    assert (overtaken.killed, newest.killed) == (True, False)
    assert stage.owner.seen() == []


def test_code_is_outdated_when_a_file_of_the_newest_import_was_changed_or_is_gone(
    stage: Stage, tmp_path: Path
) -> None:
    assert not stage.pool.is_outdated()
    source = tmp_path / "app.py"
    source.touch()
    stage.forkserver.report(Sources([(str(source), 1)]))
    stage.turn()
    assert stage.pool.is_outdated()
    newer = stage.load()
    newer.report(Sources([(str(source), stamp(str(source)))]))
    stage.turn()
    assert not stage.pool.is_outdated()
    source.unlink()
    assert stage.pool.is_outdated()


def test_one_that_is_idle_when_its_successor_is_ready_is_retired_at_once(stage: Stage) -> None:
    stage.owner.is_idle = True
    stage.pool.recycle(stage.executor(1), "max_requests")
    stage.turn()
    stage.greet(3)
    assert stage.forkserver.children[1].retired()
    assert stage.numbers() == [2, 3]


def test_a_request_s_holder_is_the_living_executor_that_says_so(stage: Stage) -> None:
    claim = serial_of(5, 7)
    stage.pool.words.claim_of(1)[0] = claim
    assert stage.pool.holder(1, claim) is stage.executor(2)
    nobody = [(1, claim + 1), (0, claim), (0, 0), (7, claim), (0xFFFF, claim)]
    assert [stage.pool.holder(slot, serial) for slot, serial in nobody] == [None] * 5
    assert [stage.pool.words.is_claimed(channel) for channel in (5, 7)] == [True, False]
    stage.pool.kill(stage.executor(2))
    assert stage.pool.holder(1, claim) is None
    assert stage.pool.words.claims() == {1: claim}  # it may still write
    stage.reap(2, -9)
    assert stage.pool.words.claims() == {}


def test_executors_that_still_start_with_the_old_exports_are_not_waited_for(fresh: Stage) -> None:
    older = fresh.load()
    fresh.owner.seen()
    fresh.load()
    assert all(Kill(number) in older.told for number in (1, 2))
    assert fresh.numbers() == [3, 4]
    assert fresh.owner.seen() == [("exports", 1, 1)]


def test_memory_is_only_of_who_has_served(make_stage: MakeStage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = started(make_stage(record, max_rss_mb=1))
    stage.owner.counts = {2: 1}
    assert psutil.Process().memory_info().rss > 1024 * 1024  # the fake executors have this process's pid
    stage.pass_time(2)
    assert stage.counters.recycled == 1
    assert "executor_recycled executor=2 why=max_rss_mb served=1" in stage.log()


def test_one_that_dies_while_it_starts_makes_the_next_wait(fresh: Stage) -> None:
    forkserver = fresh.load()
    fresh.owner.seen()
    fresh.reap(1, 1)
    assert fresh.owner.seen() == [("closed", 1, ExecutorState.GONE, True), ("reaped", 1, 1)]
    assert fresh.numbers() == [2]
    fresh.pool._start_not_before_ns = 0
    fresh.pass_time(0)
    assert fresh.numbers() == [2, 3]
    assert forkserver.children[3].slot == 0  # the lowest that is free


def test_no_more_are_started_than_there_are_slots(make_stage: MakeStage) -> None:
    stage = started(make_stage(lambda stage: record(stage, slots=3)))
    for number in (1, 2):
        stage.pool.kill(stage.executor(number))
    stage.turn()
    assert stage.numbers() == [3]
    stage.reap(2, -9)
    stage.pass_time(0.2)
    assert stage.numbers() == [3, 4]
    assert stage.forkserver.children[4].slot == 1


def test_when_the_forkserver_dies_its_executors_do_and_another_is_started(stage: Stage) -> None:
    stage.forkserver.kill()
    stage.turn()
    assert [row for row in stage.owner.seen() if row[0] == "reaped"] == [
        ("reaped", 1, None),
        ("reaped", 2, None),
    ]
    stage.pass_time(0)
    assert len(stage.forkservers) == 2
    stage.forkservers[-1].loaded()
    stage.turn()
    assert stage.numbers() == [3, 4]


def test_a_forkserver_that_breaks_the_protocol_is_killed_and_replaced(stage: Stage) -> None:
    stage.forkserver.other_end.sendall(encode(Hello()).replace(b"\x01", b"\x09", 1))
    stage.turn()
    assert stage.forkserver.killed
    assert 'forkserver_died error="the fork server broke the protocol: ' in stage.log()
    stage.pass_time(0)
    assert len(stage.forkservers) == 2


def test_exports_that_cant_be_imported_are_told_when_there_are_no_others(make_stage: MakeStage) -> None:
    stage = make_stage(record)
    for _ in range(2):
        stage.pool.start_forkserver()
    stage.forkservers[0].kill()
    stage.turn()
    assert stage.owner.seen() == []  # the other one may do better
    stage.forkservers[1].kill()
    stage.turn()
    assert stage.owner.seen() == [
        ("start failed", MoltStartFailed, "the fork server died: signal 9 (SIGKILL)")
    ]
    stage = started(make_stage(record))
    stage.pool.start_forkserver()
    stage.forkservers[-1].kill()
    stage.turn()
    assert stage.owner.seen() == [
        ("reload failed", MoltStartFailed, "the fork server died: signal 9 (SIGKILL)")
    ]
    assert "reload_failed" in stage.log()


def test_what_kind_of_failure_a_start_was_is_told(make_stage: MakeStage) -> None:
    stage = make_stage(record)
    stage.pool.start_forkserver()
    stage.forkservers[0].report(StartFailed(to_wire(MoltIncompatible("of another release"))))
    stage.forkservers[0].kill()
    stage.turn()
    assert stage.owner.seen() == [("start failed", MoltIncompatible, "of another release")]


def test_a_stopped_pool_starts_nothing(stage: Stage) -> None:
    stage.pool.stop()
    stage.reap(1, -9)
    stage.pass_time(10)
    assert stage.numbers() == [2]
