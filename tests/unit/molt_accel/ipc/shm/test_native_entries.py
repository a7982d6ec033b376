"""Entrypoints in the native core: their rows, whose turn it is, and how many of their requests run."""

import mmap
import struct
import threading
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from molt_accel.errors import Status
from molt_accel.overload.estimate import Estimate
from molt_accel.overload.priority import DELAY_NS, Priority
from tests.support.handover import (
    COUNTER,
    MAX_BYTES,
    arena_in,
    channel_of,
    core,
    new_arena,
    new_memory,
    reply,
    request,
    response,
    slot_of,
)

HIGH, NORMAL, LOW = (DELAY_NS[each] for each in Priority)
TARGET_NS = 100_000_000


def put_in(arena: Any, *entries: str) -> list[Any]:
    """Publish a request of each entrypoint, on a channel of its own, and return the channels."""
    channels = []
    for index, entry in enumerate(entries):
        channels.append(channel_of(arena, index))
        assert channels[-1].publish(request(index, entry=entry), 1000, 0) in (core.ADMITTED, core.UNDECIDED)
    return channels


def take(slot: Any) -> str:
    """Claim the request whose turn it is; its entrypoint."""
    assert slot.next() == core.REQUEST
    entry: str = slot.receive(MAX_BYTES).entry
    return entry


def served(slot: Any, count: int) -> list[int]:
    """Serve so many requests, one after the other; the channels that they were on."""
    order = []
    for _ in range(count):
        take(slot)
        order.append(slot.channel)
        reply(slot, response())
    return order


def usual_ns(arena: Any, entry: str) -> int:
    mean_ns: int = arena.entry(core.entry_id(entry)).mean_ns
    return mean_ns


# -- rows -------------------------------------------------------------------------------------------------
def test_an_entrypoint_without_a_row_is_not_known() -> None:
    arena = new_arena()
    assert arena.entry(core.entry_id("echo")) is None
    assert arena.entries() == []
    arena.learn(core.entry_id("echo"), 5, False)
    arena.set_standing(core.entry_id("echo"), 5, True)
    assert arena.entries() == []


@given(st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=80), unique=True, max_size=40))
def test_each_entrypoint_has_a_row_of_its_own(names: list[str]) -> None:
    arena = new_arena()
    for number, name in enumerate(names):
        arena.set_entry(name, number, number + 1)
    for number, name in enumerate(names):
        row = arena.entry(core.entry_id(name))
        assert name.encode().startswith(row.name.rstrip("\0").encode())
        assert (row.delay_ns, row.limit, row.mean_ns, row.refused) == (number, number + 1, 0, 0)
    assert len(arena.entries()) == len(names)


def test_a_row_that_is_written_again_keeps_what_was_learnt() -> None:
    arena = new_arena()
    arena.set_entry("echo", NORMAL, 0)
    before_ns = time.monotonic_ns()
    arena.learn(core.entry_id("echo"), 70, False)
    arena.set_standing(core.entry_id("echo"), 9, True)
    arena.set_entry("echo", LOW, 3)
    row = arena.entry(core.entry_id("echo"))
    assert row == (row.name, row.id, LOW, 3, 70, 35, row.learnt_ns, 9, 1)
    assert before_ns <= row.learnt_ns <= time.monotonic_ns()


def test_a_table_that_was_scribbled_full_takes_no_row_and_ends_each_search() -> None:
    arena = new_arena()
    for number in range(2000):
        arena.set_entry(f"entry {number}", 0, 0)
    assert len(arena.entries()) == core.ENTRIES * 4 // 3
    assert arena.entry(core.entry_id("entry 1999")) is None


@given(st.lists(st.tuples(st.integers(0, 10**12), st.booleans()), max_size=40))
def test_what_requests_take_is_learnt_as_estimate_py_does(samples: list[tuple[int, bool]]) -> None:
    arena, estimate = new_arena(), Estimate()
    arena.set_entry("echo", NORMAL, 0)
    for took_ns, stopped in samples:
        arena.learn(core.entry_id("echo"), took_ns, stopped)
        estimate.learn(took_ns, stopped=stopped)
    row = arena.entry(core.entry_id("echo"))
    assert (row.mean_ns, row.deviation_ns) == (estimate.mean_ns, estimate.deviation_ns)


@pytest.mark.parametrize(
    ("status", "learnt_ns"),
    [
        (Status.OK, 500_000), (Status.INVALID_INPUT, 500_000), (Status.INTERNAL_ERROR, 500_000),
        (Status.TIMEOUT, 800_000), (Status.CANCELLED, 800_000),
    ],
)  # fmt: skip
def test_an_executor_learns_from_what_it_answers(status: Status, learnt_ns: int) -> None:
    """A request that was stopped before its time says only that one may take longer."""
    arena = new_arena()
    arena.set_entry("echo", NORMAL, 0)
    arena.learn(core.entry_id("echo"), 800_000, False)
    slot = slot_of(arena)
    put_in(arena, "echo")
    take(slot)
    assert slot.usual[:2] == (800_000, 400_000)
    slot.reply(response(status=status, exec_us=500), MAX_BYTES, COUNTER)
    assert usual_ns(arena, "echo") == learnt_ns


def row_at(memory: mmap.mmap, entry: str) -> int:
    """Where a row begins, which has its name behind eight words."""
    return memory.find(entry.encode().ljust(64, b"\0")) - 64


@pytest.mark.parametrize("written", [0, 1, 2**63, 2**64 - 1])
def test_scribbled_estimates_come_back_to_what_requests_take(written: int) -> None:
    memory = new_memory()
    arena = arena_in(memory)
    arena.set_entry("echo", NORMAL, 0)
    struct.pack_into("<QQQ", memory, row_at(memory, "echo") + 24, written, written, 2**64 - 1)
    for _ in range(400):
        arena.learn(core.entry_id("echo"), 1000, False)
    assert 900 < usual_ns(arena, "echo") < 1100


def test_rows_that_nobody_has_made_are_freed_and_those_that_no_search_finds() -> None:
    memory = new_memory()
    arena = arena_in(memory)
    names = [f"entry {number}" for number in range(600)]
    for number, name in enumerate(names):
        arena.set_entry(name, number, 1)
    ids = {core.entry_id(name) for name in names}
    arena.keep_entries(ids)
    assert {row.id for row in arena.entries()} == ids
    table = row_at(memory, names[0]) // 128 * 128  # some row of it
    for at in range(table % 4096, len(memory) - 128, 128):
        if memory[at + 64 : at + 70] == b"entry " and at % 3 == 0:
            struct.pack_into("<Q", memory, at, 2**40 + at)  # another's
    arena.set_entry("foreign", 1, 1)
    arena.keep_entries(ids)
    assert {row.id for row in arena.entries()} <= ids
    for number, name in enumerate(names):
        arena.set_entry(name, number, 2)
    arena.keep_entries(ids)
    rows = {row.id: row for row in arena.entries()}
    assert len(arena.entries()) == len(rows) == len(names)
    assert {row.limit for row in rows.values()} == {2}


# -- whose turn it is -------------------------------------------------------------------------------------
def test_a_class_goes_before_the_next_and_within_it_who_came_first() -> None:
    arena = new_arena(channels=6, slots=1)
    for name, delay_ns in (("low", LOW), ("normal", NORMAL), ("high", HIGH)):
        arena.set_entry(name, delay_ns, 0)
    put_in(arena, "low", "normal", "unnamed", "high", "low", "high")
    slot = slot_of(arena)
    order = []
    for _ in range(6):
        order.append((take(slot), slot.channel))
        assert reply(slot, response()) == core.TRANSFERRED
    # One of whose class nothing is known goes as if it were of the highest.
    assert order == [("unnamed", 2), ("high", 3), ("high", 5), ("normal", 1), ("low", 0), ("low", 4)]


def test_who_has_waited_longer_than_the_delay_of_its_class_goes_first() -> None:
    arena = new_arena(channels=2, slots=1)
    arena.set_entry("low", 1, 0)  # a nanosecond
    arena.set_entry("high", HIGH, 0)
    put_in(arena, "low", "high")
    assert take(slot_of(arena)) == "low"


def test_a_client_that_asks_for_little_goes_before_one_that_has_filled_the_queue() -> None:
    """Each client is an arena of its own on the same memory; its requests are put off by its own."""
    memory = new_memory(channels=4, slots=1)
    greedy = arena_in(memory, channels=4, slots=1)
    other = core.Arena(memory)
    greedy.set_entry("work", NORMAL, 0)
    greedy.learn(core.entry_id("work"), 10**8, False)
    for arena in (greedy, other):
        arena.executors, arena.target_ns = 1, 10**12
    for index in range(3):
        channel_of(greedy, index).publish(request(index, entry="work"), 1000, 0)
    last = channel_of(other, 3)
    last.publish(request(9, entry="work"), 1000, 0)
    assert served(slot_of(greedy), 4) == [0, 3, 1, 2]


def test_a_queue_that_was_filled_before_anything_was_known_puts_its_client_off_too() -> None:
    memory = new_memory(channels=6, slots=1)
    greedy = arena_in(memory, channels=6, slots=1)
    other = core.Arena(memory)
    greedy.set_entry("work", NORMAL, 0)
    for arena in (greedy, other):
        arena.executors, arena.target_ns = 1, 10**12
    for index in range(3):
        channel_of(greedy, index).publish(request(index, entry="work"), 1000, 0)
    greedy.learn(core.entry_id("work"), 10**8, False)
    for client, index in ((greedy, 3), (greedy, 4), (other, 5)):
        channel_of(client, index).publish(request(index, entry="work"), 1000, 0)
    assert served(slot_of(greedy), 6) == [0, 1, 2, 5, 3, 4]


def clients_of_work(channels: int = 2) -> tuple[Any, Any]:
    """Two clients of one pool with an executor, whose requests usually take a tenth of a second."""
    memory = new_memory(channels, slots=1)
    one = arena_in(memory, channels, slots=1)
    one.set_entry("work", NORMAL, 0)
    one.learn(core.entry_id("work"), 10**8, False)
    other = core.Arena(memory)
    for arena in (one, other):
        arena.executors, arena.target_ns = 1, 10**12
    return one, other


def test_a_client_is_put_off_by_what_it_has_in_the_queue_and_not_by_what_runs() -> None:
    arena, _ = clients_of_work()
    put_in(arena, "work")
    now_ns = time.monotonic_ns()
    assert arena.next_turn(now_ns) == now_ns + 10**8
    take(slot_of(arena))
    assert arena.next_turn(now_ns) == now_ns


def test_a_client_is_not_put_off_by_another_s_request_on_a_channel_that_was_its_own() -> None:
    arena, other = clients_of_work()
    (channel,) = put_in(arena, "work")
    assert channel.give_up(True) == 1  # READY
    put_in(other, "work")
    now_ns = time.monotonic_ns()
    assert arena.next_turn(now_ns) == now_ns
    assert other.next_turn(now_ns) == now_ns + 10**8


def test_a_client_s_next_request_goes_behind_its_last_one_though_less_is_queued_by_now() -> None:
    arena, _ = clients_of_work(channels=3)
    began_ns = time.monotonic_ns()
    *_, last = put_in(arena, "work", "work", "work")
    assert served(slot_of(arena), 2) == [0, 1]
    assert arena.next_turn(began_ns) == min(last.turn, began_ns + 500_000_000) > began_ns + 10**8


def turns_of(*, usual_ns: int, executors: int) -> tuple[int, int]:
    """The turns of two requests that one client publishes one after the other."""
    arena = new_arena()
    arena.set_entry("work", NORMAL, 0)
    arena.learn(core.entry_id("work"), usual_ns, False)
    arena.executors, arena.target_ns = executors, 0
    first, second = channel_of(arena, 0), channel_of(arena, 1)
    for channel in (first, second):
        channel.publish(request(entry="work"), 1000, 0)
    return first.turn, second.turn


def test_a_client_s_next_request_is_due_when_all_executors_would_have_done_the_one_before() -> None:
    first, second = turns_of(usual_ns=400 * 10**9, executors=1000)
    assert first + 400_000_000 <= second <= time.monotonic_ns() + 400_000_000


def test_a_client_s_requests_are_not_put_off_for_longer_than_a_class() -> None:
    first, second = turns_of(usual_ns=10**15, executors=1)
    assert first < second <= time.monotonic_ns() + 500_000_000


# -- how many run -----------------------------------------------------------------------------------------
@pytest.fixture
def limited() -> Any:
    arena = new_arena(channels=6, slots=3)
    arena.set_entry("slow", NORMAL, 1)
    arena.set_entry("quick", NORMAL, 0)
    return arena


def test_requests_beyond_the_limit_are_passed_by_others(limited: Any) -> None:
    put_in(limited, "slow", "slow", "quick", "slow", "quick")
    first, second = slot_of(limited, 0), slot_of(limited, 1)
    assert (take(first), take(second)) == ("slow", "quick")
    assert (first.channel, second.channel) == (0, 2)
    reply(second, response())
    assert (take(second), second.channel) == ("quick", 4)
    reply(first, response())
    assert (take(first), first.channel) == ("slow", 1)


def test_more_full_entrypoints_than_can_be_noted_hide_no_other(limited: Any) -> None:
    arena = new_arena(channels=48, slots=24)
    names = [f"slow {number}" for number in range(20)]
    for name in names:
        arena.set_entry(name, NORMAL, 1)
    arena.set_entry("quick", NORMAL, 0)
    put_in(arena, *names, *names, "quick")
    slots = [slot_of(arena, index) for index in range(21)]
    assert sorted(take(slot) for slot in slots[:20]) == sorted(names)
    assert take(slots[20]) == "quick"


def test_one_that_may_run_is_found_behind_many_that_may_not() -> None:
    arena = new_arena(channels=48, slots=24)
    names = [f"slow {number}" for number in range(21)]
    for name in names:
        arena.set_entry(name, NORMAL, 1)
    put_in(arena, *names[:20], *names)
    slots = [slot_of(arena, index) for index in range(21)]
    assert sorted(take(slot) for slot in slots[:20]) == sorted(names[:20])
    assert take(slots[20]) == names[20]


def looks(memory: mmap.mmap) -> int:
    """How often executors were told to look: the header's `published`."""
    count: int = struct.unpack_from("<Q", memory, 128)[0]
    return count


@pytest.fixture
def shared() -> tuple[mmap.mmap, Any]:
    memory = new_memory(channels=6, slots=3)
    arena = arena_in(memory, channels=6, slots=3)
    arena.set_entry("slow", NORMAL, 1)
    arena.set_entry("quick", NORMAL, 0)
    return memory, arena


def test_who_makes_room_and_takes_up_something_else_has_another_look(shared: tuple[mmap.mmap, Any]) -> None:
    memory, arena = shared
    put_in(arena, "slow", "quick", "slow", "quick")
    slot = slot_of(arena, 0)
    assert take(slot) == "slow"
    before = looks(memory)
    reply(slot, response())
    assert (take(slot), looks(memory)) == ("quick", before + 1)
    reply(slot, response())
    assert (take(slot), looks(memory)) == ("slow", before + 1)  # it has made no room


def test_nobody_is_told_of_room_if_nothing_else_is_queued(shared: tuple[mmap.mmap, Any]) -> None:
    memory, arena = shared
    put_in(arena, "slow")
    slot = slot_of(arena, 0)
    take(slot)
    reply(slot, response())
    channel_of(arena, 1).publish(request(1, entry="quick"), 1000, 0)
    before = looks(memory)
    assert (take(slot), looks(memory)) == ("quick", before)


def test_who_makes_room_and_retires_has_another_look(shared: tuple[mmap.mmap, Any]) -> None:
    memory, arena = shared
    put_in(arena, "slow", "slow")
    slot = slot_of(arena, 0)
    take(slot)
    reply(slot, response())
    arena.retire(0)
    before = looks(memory)
    assert (slot.next(), looks(memory)) == (core.RETIRE, before + 1)


def seem_to_run(arena: Any, index: int) -> None:
    """Have a slot say that it runs an entrypoint with a limit, whose request nobody runs."""
    put_in(arena, "slow")
    forged = slot_of(arena, index)
    assert take(forged) == "slow"
    assert arena.step(0, forged.word, forged.word >> 32 << 32)
    assert arena.holds(index) == core.entry_id("slow")


def test_who_steps_back_from_one_that_does_not_run_it_has_another_look(
    shared: tuple[mmap.mmap, Any],
) -> None:
    """The other has stepped back as well, and may take up something else as well."""
    memory, arena = shared
    seem_to_run(arena, 1)
    put_in(arena, "slow", "quick")
    before = looks(memory)
    assert (take(slot_of(arena, 0)), looks(memory)) == ("quick", before + 1)


def test_an_executor_without_a_request_holds_no_place_whatever_its_slot_says(
    shared: tuple[mmap.mmap, Any],
) -> None:
    _, arena = shared
    seem_to_run(arena, 0)
    put_in(arena, "quick")
    assert take(slot_of(arena, 0)) == "quick"
    assert arena.holds(0) == 0


def test_a_place_is_let_go_of_only_if_it_is_that_one_s(shared: tuple[mmap.mmap, Any]) -> None:
    _, arena = shared
    seem_to_run(arena, 0)
    arena.let_go_of(0, 7)
    assert arena.holds(0) == core.entry_id("slow") == arena.entry_of(0)
    arena.let_go_of(0, core.entry_id("slow"))
    assert arena.holds(0) == 0


def test_who_is_woken_by_the_supervisor_looks_though_it_is_not_asleep_yet(
    shared: tuple[mmap.mmap, Any],
) -> None:
    memory, arena = shared
    before = looks(memory)
    arena.wake_executor()
    assert looks(memory) == before + 1


@pytest.mark.parametrize("how", ["failed", "given up"])
def test_a_place_is_free_however_its_request_ends(limited: Any, how: str) -> None:
    channels = put_in(limited, "slow", "slow")
    slot, other = slot_of(limited, 0), slot_of(limited, 1)
    take(slot)
    if how == "failed":
        slot.fail(1)
    else:
        channels[0].give_up()
        reply(slot, response())
    assert (take(other), other.channel) == ("slow", 1)


def test_a_slot_that_is_made_anew_holds_no_place(limited: Any) -> None:
    """Its executor was killed, whatever it was doing."""
    put_in(limited, "slow", "slow")
    take(slot_of(limited, 0))
    limited.reset_slot(0, 0)
    other = slot_of(limited, 1)
    assert (take(other), other.channel) == ("slow", 1)


def test_never_more_run_than_may_however_many_executors_look_at_once() -> None:
    arena = new_arena(channels=24, slots=6)
    arena.set_entry("slow", NORMAL, 2)
    arena.set_entry("quick", NORMAL, 0)
    entries = ["slow", "quick", "slow"] * 8
    running, most, served, lock = 0, 0, [], threading.Lock()

    def serve(slot: Any) -> None:
        nonlocal running, most
        while slot.next() == core.REQUEST:
            entry = slot.receive(MAX_BYTES).entry
            with lock:
                running += entry == "slow"
                most = max(most, running)
            with lock:
                running -= entry == "slow"
                served.append(entry)
                done = len(served) == len(entries)
            reply(slot, response())
            if done:
                for index in range(6):
                    arena.retire(index)

    threads = [threading.Thread(target=serve, args=(slot_of(arena, index),)) for index in range(6)]
    put_in(arena, *entries)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(served) == sorted(entries)
    assert most <= 2


# -- what is light ----------------------------------------------------------------------------------------
def verdict(arena: Any, entry: str = "work", deadline_ns: int = 0) -> int:
    code: int = channel_of(arena, 3).publish(request(3, entry=entry, deadline_ns=deadline_ns), 1000, 0)
    return code


@pytest.fixture
def pool() -> Any:
    arena = new_arena()
    arena.set_entry("work", NORMAL, 0)
    arena.target_ns, arena.executors = TARGET_NS, 1
    return arena


def test_with_nobody_before_it_a_request_is_taken_on_without_a_question(pool: Any) -> None:
    pool.learn(core.entry_id("work"), 10**12, False)
    assert verdict(pool, deadline_ns=1) == core.ADMITTED


@pytest.mark.parametrize(
    ("takes_ns", "code"), [(TARGET_NS // 4, core.ADMITTED), (TARGET_NS // 4 + 1, core.UNDECIDED)]
)
@pytest.mark.parametrize("runs", [False, True])
def test_what_all_others_take_decides_whether_it_is_asked(
    pool: Any, takes_ns: int, code: int, runs: bool
) -> None:
    put_in(pool, "work", "work")
    if runs:
        take(slot_of(pool))
    pool.learn(core.entry_id("work"), takes_ns, False)
    assert verdict(pool) == code


def test_with_an_idle_executor_for_each_a_request_is_taken_on_without_a_question(pool: Any) -> None:
    pool.set_entry("long", NORMAL, 0)
    put_in(pool, "long")
    assert take(slot_of(pool)) == "long"
    pool.learn(core.entry_id("long"), 10**12, False)
    slot_of(pool, 1)  # which is idle
    assert verdict(pool) == core.ADMITTED
    assert channel_of(pool, 1).publish(request(1, entry="work"), 1000, 0) == core.UNDECIDED


def test_one_that_takes_longer_than_it_may_is_asked_about_beside_idle_executors(pool: Any) -> None:
    put_in(pool, "work")
    take(slot_of(pool))
    slot_of(pool, 1)
    pool.learn(core.entry_id("work"), 10**12, False)
    channel, now_ns = channel_of(pool, 3), time.monotonic_ns()
    for left_ns, code in [(10**11, core.UNDECIDED), (10**13, core.ADMITTED)]:
        late = request(3, entry="work", deadline_ns=now_ns + left_ns)
        assert channel.publish(late, 1000, 0) == code
        assert channel.give_up(True) == 1  # READY


def test_a_near_deadline_is_asked_about(pool: Any) -> None:
    put_in(pool, "work")
    pool.learn(core.entry_id("work"), 1_000_000, False)
    assert verdict(pool, deadline_ns=time.monotonic_ns() + 10**11) == core.ADMITTED
    channel_of(pool, 2).publish(request(2, entry="other"), 1000, 0)
    assert channel_of(pool, 1).publish(request(1, entry="work", deadline_ns=1), 1000, 0) == core.UNDECIDED


def test_without_a_target_only_the_deadline_is_asked_about(pool: Any) -> None:
    pool.target_ns = 0
    put_in(pool, "work")
    pool.learn(core.entry_id("work"), 10**12, False)
    assert verdict(pool) == core.ADMITTED
    late = request(1, entry="work", deadline_ns=time.monotonic_ns() + 10**11)
    assert channel_of(pool, 1).publish(late, 1000, 0) == core.UNDECIDED


def test_one_that_is_not_calm_or_at_its_limit_is_asked_about(pool: Any) -> None:
    pool.set_standing(core.entry_id("work"), 5, False)
    assert verdict(pool) == core.UNDECIDED
    pool.set_entry("slow", NORMAL, 1)
    pool.learn(core.entry_id("slow"), 1000, False)
    assert channel_of(pool, 0).publish(request(0, entry="slow"), 1000, 0) == core.ADMITTED
    assert channel_of(pool, 1).publish(request(1, entry="slow"), 1000, 0) == core.UNDECIDED


def test_a_request_about_which_nobody_has_decided_waits_and_can_be_withdrawn(pool: Any) -> None:
    put_in(pool, "work")
    pool.learn(core.entry_id("work"), 10**9, False)
    channel = channel_of(pool, 1)
    assert channel.publish(request(1, entry="work"), 1000, 0) == core.UNDECIDED
    assert pool.queued(channel.turn + NORMAL, 1) == [core.entry_id("work")]
    assert channel.give_up(True) == 1  # READY
    assert pool.ready() == 1
