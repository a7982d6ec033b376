"""Who takes whose place: the pool never counts a pair twice, and nobody is replaced by a corpse."""

from hypothesis import given
from hypothesis import strategies as st

from molt_worker.processes.replacement import Replacements


def test_a_successor_counts_once_it_has_taken_over() -> None:
    table: Replacements[str] = Replacements()
    table.prepare("old", "new")
    assert (table.counts("old"), table.counts("new"), table.has_successor("old")) == (True, False, True)
    assert table.take_over("new") == "old"
    assert (table.counts("old"), table.counts("new"), table.has_successor("old")) == (False, True, False)


def test_who_replaces_nobody_takes_a_free_place() -> None:
    table: Replacements[str] = Replacements()
    assert table.counts("new")
    assert table.take_over("new") is None
    assert table.counts("new")


def test_a_successor_of_one_that_died_counts_for_itself() -> None:
    table: Replacements[str] = Replacements()
    table.prepare("old", "new")
    table.forget("old")
    assert table.counts("new")
    assert table.take_over("new") is None


def test_when_its_successor_died_it_needs_another() -> None:
    table: Replacements[str] = Replacements()
    assert table.recycle("old")
    table.prepare("old", "new")
    table.forget("new")
    assert (table.counts("old"), table.is_recycled("old"), table.has_successor("old")) == (True, True, False)


def test_one_is_recycled_once_and_only_in_a_place_of_its_own() -> None:
    table: Replacements[str] = Replacements()
    assert table.recycle("old")
    assert not table.recycle("old")
    table.prepare("old", "new")
    assert not table.recycle("new")  # not in its place yet
    table.take_over("new")
    assert not table.recycle("old")  # on its way out
    assert table.recycle("new")


_MEMBERS = st.integers(0, 4)
_STEPS = st.lists(st.tuples(st.sampled_from(["recycle", "prepare", "take_over", "forget"]), _MEMBERS))


@given(_STEPS)
def test_however_executors_come_and_go_as_many_count_as_there_should_be(steps: list[tuple[str, int]]) -> None:
    table: Replacements[int] = Replacements()
    numbers = iter(range(10_000))
    ready = [next(numbers) for _ in range(5)]
    starting: list[int] = []
    for step, index in steps:
        member = ready[index % len(ready)] if ready else None
        if step == "recycle" and member is not None:
            table.recycle(member)
        elif step == "prepare" and member is not None:
            if table.counts(member) and not table.has_successor(member):
                starting.append(next(numbers))
                table.prepare(member, starting[-1])
        elif step == "take_over" and starting:
            new = starting.pop(index % len(starting))
            ready.append(new)
            old = table.take_over(new)
            assert old is None or (old in ready and not table.counts(old))
        elif step == "forget":
            living = starting + ready
            dead = living[index % len(living)]
            table.forget(dead)
            (starting if dead in starting else ready).remove(dead)
            missing = 5 - sum(map(table.counts, starting + ready))
            assert missing in (0, 1)
            starting.extend(next(numbers) for _ in range(missing))
        assert sum(map(table.counts, starting + ready)) == 5
