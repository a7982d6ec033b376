"""Marks: which channels are looked at, and how the supervisor puts them right."""

from molt_accel.ipc.shm.layout import ChannelState
from tests.support.handover import (
    MAX_BYTES,
    Running,
    channel_of,
    core,
    new_arena,
    publish,
    put,
    reply,
    response,
    slot_of,
)
from tests.support.processes import wait_until

READY = 1 << 32 | ChannelState.READY


def test_a_channel_is_marked_by_its_request_until_a_review_finds_it_idle() -> None:
    arena = new_arena(channels=70)
    channel, slot = channel_of(arena, 65), slot_of(arena)
    assert not any(arena.is_marked(index) for index in range(70))
    publish(channel)
    assert slot.next() == core.REQUEST
    assert [index for index in range(70) if arena.is_marked(index)] == [65]
    assert (arena.mend_marks(), arena.is_marked(65)) == (0, True)
    slot.receive(MAX_BYTES)
    assert reply(slot, response()) == core.TRANSFERRED
    assert channel.wait(0) == core.OUTCOME
    assert channel.take() is not None
    assert arena.is_marked(65)  # the next request finds it
    assert (arena.mend_marks(), arena.is_marked(65)) == (0, False)


def test_a_request_without_a_mark_runs_after_the_next_review() -> None:
    arena = new_arena()
    executor = Running(slot_of(arena).next)
    wait_until(lambda: arena.slot_state(0) == core.SLOT_IDLE)
    put(arena, 1, READY)
    assert (arena.queued(), arena.ready()) == ([], 1)
    assert arena.mend_marks() == 1
    assert executor.result() == core.REQUEST


def test_those_with_requests_are_found_with_and_without_marks() -> None:
    arena = new_arena(channels=6)
    publish(channel_of(arena, 4))
    put(arena, 1, READY)
    put(arena, 2, 99)  # scribbled: no state at all
    put(arena, 5, READY)
    assert arena.with_requests(5) == [(1, READY), (2, 99), (4, READY)]
    assert arena.with_requests(2**64 - 1)[3:] == [(5, READY)]
    assert arena.with_requests(0) == []
