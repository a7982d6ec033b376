"""The bounded queue against a plain model of two lists."""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from molt_worker.supervisor.stdio.queue import BoundedQueue, Verdict

Row = tuple[int, int, int, int]  # number, arrival, key, size


class QueueMachine(RuleBasedStateMachine):
    """Every operation on queue and model, in any order; they must agree after each."""

    @initialize(capacity=st.integers(0, 4), max_bytes=st.integers(0, 40))
    def start(self, capacity: int, max_bytes: int) -> None:
        self.capacity = capacity
        self.max_bytes = max_bytes
        self.orders: dict[str, int] = {}
        self.queue: BoundedQueue[str] = BoundedQueue(capacity, max_bytes, lambda item: self.orders[item])
        self.queued: list[Row] = []
        self.waiting: list[Row] = []
        self.taken: list[Row] = []
        self.next_key = 1
        self.sequence = 0

    @property
    def bytes(self) -> int:
        return sum(row[3] for row in self.queued + self.waiting)

    def insert(self, rows: list[Row], order: int, key: int, size: int) -> None:
        rows.append((order, self.sequence, key, size))
        rows.sort()
        self.sequence += 1

    @rule(order=st.integers(0, 3), size=st.integers(0, 25), may_wait=st.booleans())
    def offer(self, order: int, size: int, may_wait: bool) -> None:
        key = self.next_key
        self.next_key += 1
        self.orders[f"item {key}"] = order
        if self.bytes and self.bytes + size > self.max_bytes:
            expected = Verdict.BUSY
        elif len(self.queued) < self.capacity:
            expected = Verdict.QUEUED
            self.insert(self.queued, order, key, size)
        elif may_wait:
            expected = Verdict.WAITING
            self.insert(self.waiting, order, key, size)
        else:
            expected = Verdict.BUSY
        assert self.queue.offer(key, f"item {key}", size, may_wait=may_wait) is expected

    @rule(passed=st.sets(st.integers(0, 3)))
    def take(self, passed: set[int]) -> None:
        for rows in (self.queued, self.waiting):
            for row in rows:
                if row[0] not in passed:
                    rows.remove(row)
                    self.taken.append(row)
                    assert self.queue.take(lambda item: self.orders[item] not in passed) == f"item {row[2]}"
                    return
        assert self.queue.take(lambda item: self.orders[item] not in passed) is None

    @precondition(lambda self: self.taken)
    @rule()
    def put_back(self) -> None:
        order, _, key, size = self.taken.pop()
        self.queue.put_back(key, f"item {key}", size)
        self.insert(self.queued, order, key, size)

    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from([0, *(row[2] for row in self.queued + self.waiting)]))
        self.queue.remove(key)
        self.queued = [row for row in self.queued if row[2] != key]
        self.waiting = [row for row in self.waiting if row[2] != key]

    @rule()
    def promote(self) -> None:
        if len(self.queued) < self.capacity and self.waiting:
            row = self.waiting.pop(0)
            self.queued = sorted([*self.queued, row])
            assert self.queue.promote() == f"item {row[2]}"
        else:
            assert self.queue.promote() is None

    @rule(turned=st.integers(0, 3))
    def sort(self, turned: int) -> None:
        """All numbers change, and are looked at again."""
        self.orders = {item: order ^ turned for item, order in self.orders.items()}
        self.queue.sort()
        self.taken = [(row[0] ^ turned, *row[1:]) for row in self.taken]
        for rows in (self.queued, self.waiting):
            rows[:] = sorted((row[0] ^ turned, *row[1:]) for row in rows)

    @invariant()
    def same_items_in_the_same_order(self) -> None:
        assert list(self.queue) == [f"item {row[2]}" for row in self.queued + self.waiting]
        assert len(self.queue) == len(self.queued)
        assert self.queue.empty == (not self.queued and not self.waiting)
        for order in range(4):
            before = [row for row in self.queued + self.waiting if row[0] <= order]
            assert list(self.queue.before(order)) == [f"item {row[2]}" for row in before]


TestQueueMachine = QueueMachine.TestCase


def test_one_item_over_the_bound_of_bytes_is_taken_when_it_is_alone() -> None:
    queue: BoundedQueue[str] = BoundedQueue(4, 100, len)
    assert queue.offer(1, "large", 1000, may_wait=False) is Verdict.QUEUED
    assert queue.offer(2, "small", 1, may_wait=True) is Verdict.BUSY
    assert queue.take() == "large"
    assert queue.offer(2, "small", 1, may_wait=False) is Verdict.QUEUED
