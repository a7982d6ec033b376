"""molt_accel.overload.server_threads: when calls leave no thread for others."""

from hypothesis import given
from hypothesis import strategies as st

from molt_accel.durations import NS_PER_MS
from molt_accel.overload.admission import CALM, INTERVAL_NS
from molt_accel.overload.server_threads import SERVER_THREADS, judge, too_many, wait_ns

TARGET_NS = 100 * NS_PER_MS
NOW_NS = 10**18


def refused(
    calls: int, threads: int, in_pool: int, executors: int, usual_ms: int, target_ns: int, waiting: int = 0
) -> int:
    """The wait of a call in ms that is refused once things are so for an interval; 0: it is taken on."""
    found = calls, threads, waiting, in_pool, executors, usual_ms * NS_PER_MS, target_ns
    _, standing = judge(CALM, NOW_NS, *found)
    return judge(standing, NOW_NS + INTERVAL_NS, *found)[0] // NS_PER_MS


def test_calls_may_hold_three_quarters_of_the_threads() -> None:
    assert [calls for calls in range(1, 9) if too_many(calls, 8)] == [7, 8]
    assert [calls for calls in range(1, 4) if too_many(calls, 2)] == [2, 3]


def test_the_last_one_waits_for_those_before_it() -> None:
    assert wait_ns(7, 2, 100) == 250
    assert wait_ns(1, 2, 100) == 0


def test_a_call_is_refused_if_threads_run_out_and_its_own_would_not_be_back_soon() -> None:
    assert refused(7, 8, 7, 2, 100, TARGET_NS) == 250
    assert refused(6, 8, 6, 2, 100, TARGET_NS) == 0
    # Seven that take 20 ms are done after 50 ms.
    assert refused(7, 8, 7, 2, 20, TARGET_NS) == 0
    assert refused(7, 8, 7, 2, 21, TARGET_NS) == 52


def test_those_who_wait_for_a_thread_count_where_threads_run_out() -> None:
    # Eight that take 5 ms are soon back. But before the threads there may be a queue that stands.
    assert refused(8, 8, 8, 2, 5, TARGET_NS) == 0
    assert refused(8, 8, 8, 2, 5, TARGET_NS, waiting=34) == 0
    assert refused(8, 8, 8, 2, 5, TARGET_NS, waiting=35) == 102
    assert refused(6, 8, 6, 2, 5, TARGET_NS, waiting=1000) == 0
    assert refused(8, 8, 2, 2, 5, TARGET_NS, waiting=1000) == 0


def test_threads_are_kept_free_at_once_and_a_queue_before_them_is_cut_only_if_it_stands() -> None:
    few = (8, 8, 0, 8, 2, 100 * NS_PER_MS, TARGET_NS)
    assert judge(CALM, NOW_NS, *few) == (300 * NS_PER_MS, CALM)
    many = (8, 8, 35, 8, 2, 5 * NS_PER_MS, TARGET_NS)
    waits_ns, standing = judge(CALM, NOW_NS, *many)
    assert (waits_ns, standing) == (0, NOW_NS)
    assert judge(standing, NOW_NS + INTERVAL_NS - 1, *many) == (0, NOW_NS)
    assert judge(standing, NOW_NS + INTERVAL_NS, *many)[0] > TARGET_NS


def test_the_threads_may_be_taken_by_calls_to_another_pool() -> None:
    assert refused(7, 8, 3, 1, 100, TARGET_NS) == 200
    assert refused(7, 8, 1, 1, 100, TARGET_NS) == 0


def test_a_target_of_zero_switches_it_off() -> None:
    assert refused(8, 8, 8, 1, 60_000, 0) == 0


@given(*[st.integers(1, 200)] * 5, st.integers(0, 10**12), st.integers(0, 10**12))
def test_where_an_executor_may_be_idle_nothing_is_refused(
    calls: int, threads: int, waiting: int, in_pool: int, executors: int, usual_ns: int, target_ns: int
) -> None:
    found = calls, threads, waiting, in_pool, executors, usual_ns, target_ns
    _, standing = judge(CALM, NOW_NS, *found)
    waits_ns, _ = judge(standing, NOW_NS + INTERVAL_NS, *found)
    if in_pool <= executors or not usual_ns:
        assert waits_ns == 0
    if waits_ns:
        assert 4 * calls > 3 * threads


def test_nothing_is_known_of_this_process() -> None:
    assert SERVER_THREADS.count == 0
