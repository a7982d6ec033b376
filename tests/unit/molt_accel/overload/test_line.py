"""How long a request will wait: cases worked out by hand, and against a pool that is played through step by step."""

from hypothesis import given
from hypothesis import strategies as st

from molt_accel.overload.line import EntryLoad, Wait, expected_wait

PLAIN = EntryLoad(10, 0)


def test_nobody_waits_for_an_executor_that_is_idle() -> None:
    assert expected_wait([0, 7], [], PLAIN) == Wait(0)


def test_one_waits_for_the_first_that_ends() -> None:
    wait = expected_wait([9, 7], [], PLAIN)
    assert (wait, wait.ns) == (Wait(7, free_ns=7), 7)


def test_those_before_it_take_the_executors_in_their_order() -> None:
    other = EntryLoad(100, 0)
    assert expected_wait([5, 0], [PLAIN, other], PLAIN) == Wait(10, longest_ns=100, kin=1)
    assert expected_wait([5, 0], [other, PLAIN], PLAIN) == Wait(15, longest_ns=100, kin=1)


def test_those_over_their_limit_are_passed() -> None:
    limited = EntryLoad(100, 2, [50])
    assert expected_wait([50, 0], [limited], PLAIN) == Wait(50, longest_ns=100)
    assert expected_wait([50, 0], [limited, limited, limited], PLAIN) == Wait(50, longest_ns=100)
    full = EntryLoad(100, 1, [50])
    assert expected_wait([50, 0], [full, full], PLAIN) == Wait(0)


def test_one_of_a_limited_entrypoint_waits_for_its_turn_too() -> None:
    limited = EntryLoad(100, 1, [30])
    assert expected_wait([30, 0], [limited], limited) == Wait(0, 130, kin=2)
    assert expected_wait([30, 0], [limited], limited).ns == 130
    assert expected_wait([0, 0], [], EntryLoad(100, 2, [30])) == Wait(0, kin=1)


def test_a_limit_of_any_number_is_reckoned_with() -> None:
    scribbled = EntryLoad(10, 2**63, [4])
    assert expected_wait([4, 0], [scribbled], scribbled) == Wait(4, 0, longest_ns=10, kin=2)


def test_more_may_run_than_a_limit_that_was_lowered_allows() -> None:
    assert expected_wait([10, 20, 30], [], EntryLoad(5, 2, [10, 20, 30])) == Wait(10, 20, free_ns=10, kin=3)


@given(
    st.lists(st.integers(0, 50), min_size=1, max_size=5),
    st.lists(st.integers(1, 50), max_size=12),
)
def test_it_is_what_a_pool_that_is_played_through_has(free_in: list[int], ahead: list[int]) -> None:
    executors, queue, now = sorted(free_in), list(ahead), 0
    while True:
        if executors[0] <= now:
            if not queue:
                break
            executors[0] = now + queue.pop(0)
            executors.sort()
        else:
            now += 1
    assert expected_wait(free_in, [EntryLoad(each, 0) for each in ahead], PLAIN).ns == now


@given(
    st.lists(st.integers(0, 50), min_size=1, max_size=5),
    st.lists(st.tuples(st.integers(1, 50), st.integers(0, 3)), min_size=1, max_size=6),
    st.lists(st.integers(0, 5), max_size=12),
)
def test_nobody_waits_while_an_executor_is_idle_and_all_before_it_are_over_their_limit(
    free_in: list[int], kinds: list[tuple[int, int]], ahead: list[int]
) -> None:
    loads = [EntryLoad(usual, limit or 1, [20] * (limit or 1)) for usual, limit in kinds]
    wait = expected_wait([0, *free_in], [loads[each % len(loads)] for each in ahead], PLAIN)
    assert wait == Wait(0)
