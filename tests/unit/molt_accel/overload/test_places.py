"""molt_accel.overload.places: exactly so many places, whoever asks for them and however a holder ends."""

import threading

from hypothesis import given
from hypothesis import strategies as st

from molt_accel.overload.places import Places, one_at_a_time
from tests.support.processes import exit_code, fork, in_thread


def test_there_are_exactly_so_many() -> None:
    places = Places(2)
    holders = [object() for _ in range(3)]
    assert [places.take(holder) for holder in holders] == [True, True, False]
    assert (places.taken, places.full) == (2, True)
    places.give_up(holders[0])
    assert not places.full
    assert places.take(holders[2])


def test_who_has_none_may_give_it_up_and_who_has_one_may_do_so_twice() -> None:
    places = Places(2)
    first, second = object(), object()
    places.take(first)
    places.give_up(second)
    places.give_up(first)
    places.give_up(first)
    assert places.taken == 0


@given(st.integers(1, 4), st.lists(st.tuples(st.booleans(), st.integers(0, 6))))
def test_any_order_of_steps_keeps_the_limit(limit: int, steps: list[tuple[bool, int]]) -> None:
    places = Places(limit)
    holding: set[int] = set()
    for takes, holder in steps:
        if not takes:
            places.give_up(holder)
            holding.discard(holder)
        elif holder not in holding:
            assert places.take(holder) == (len(holding) < limit)
            holding |= {holder} if len(holding) < limit else set()
        assert places.taken == len(holding) <= limit


def test_threads_that_ask_at_once_get_exactly_so_many() -> None:
    places = Places(5)
    barrier = threading.Barrier(12)
    got: list[bool] = []

    def ask() -> None:
        barrier.wait()
        got.append(places.take(object()))

    for thread in [in_thread(ask) for _ in range(12)]:
        thread.join()
    assert sorted(got) == [False] * 7 + [True] * 5


def test_a_forked_child_begins_with_all_of_them_whoever_held_the_lock() -> None:
    places = Places(2)
    holders = [object(), object()]
    for holder in holders:
        places.take(holder)
    locked, go = threading.Event(), threading.Event()

    def hold() -> None:
        with one_at_a_time():
            locked.set()
            go.wait()

    thread = in_thread(hold)
    locked.wait()

    def child() -> None:
        assert places.taken == 0
        places.give_up(holders[0])  # the parent's: the thread that forked was in a call
        assert [places.take(object()) for _ in range(3)] == [True, True, False]

    try:
        assert exit_code(fork(child)) == 0
    finally:
        go.set()
        thread.join()
    assert places.taken == 2
