"""Classes, and by how much each one comes later."""

from itertools import pairwise

from molt_accel.overload.priority import DELAY_NS, Priority


def test_a_class_goes_before_the_next_one_by_the_same_time() -> None:
    delays = [DELAY_NS[each] for each in (Priority.HIGH, Priority.NORMAL, Priority.LOW)]
    assert delays[0] == 0
    assert {later - earlier for earlier, later in pairwise(delays)} == {1_000_000_000}


def test_every_class_has_its_delay_and_is_called_as_users_do() -> None:
    assert set(DELAY_NS) == set(Priority)
    assert [each.value for each in Priority] == ["high", "normal", "low"]
