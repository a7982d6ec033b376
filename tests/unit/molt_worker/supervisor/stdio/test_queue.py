"""The bounded queue against a plain model of two lists."""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from molt_worker.supervisor.stdio.queue import BoundedQueue, Verdict

Row = tuple[int, int]


class QueueMachine(RuleBasedStateMachine):
    """Every operation on queue and model, in any order; they must agree after each."""

    @initialize(capacity=st.integers(0, 4), max_bytes=st.integers(0, 40))
    def start(self, capacity: int, max_bytes: int) -> None:
        self.capacity = capacity
        self.max_bytes = max_bytes
        self.queue: BoundedQueue[str] = BoundedQueue(capacity, max_bytes)
        self.queued: list[Row] = []
        self.waiting: list[Row] = []
        self.taken: list[Row] = []
        self.next_key = 1

    @property
    def bytes(self) -> int:
        return sum(size for _, size in self.queued + self.waiting)

    @rule(size=st.integers(0, 25), may_wait=st.booleans())
    def offer(self, size: int, may_wait: bool) -> None:
        row = (self.next_key, size)
        self.next_key += 1
        if self.bytes and self.bytes + size > self.max_bytes:
            expected = Verdict.BUSY
        elif len(self.queued) < self.capacity:
            expected = Verdict.QUEUED
            self.queued.append(row)
        elif may_wait:
            expected = Verdict.WAITING
            self.waiting.append(row)
        else:
            expected = Verdict.BUSY
        assert self.queue.offer(row[0], f"item {row[0]}", size, may_wait=may_wait) is expected

    @rule()
    def take(self) -> None:
        rows = self.queued or self.waiting
        if rows:
            self.taken.append(rows.pop(0))
            assert self.queue.take() == f"item {self.taken[-1][0]}"
        else:
            assert self.queue.take() is None

    @precondition(lambda self: self.taken)
    @rule()
    def put_back(self) -> None:
        key, size = row = self.taken.pop()
        self.queue.put_back(key, f"item {key}", size)
        self.queued.insert(0, row)

    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from([0, *(key for key, _ in self.queued + self.waiting)]))
        self.queue.remove(key)
        self.queued = [row for row in self.queued if row[0] != key]
        self.waiting = [row for row in self.waiting if row[0] != key]

    @rule()
    def promote(self) -> None:
        if len(self.queued) < self.capacity and self.waiting:
            self.queued.append(self.waiting.pop(0))
            assert self.queue.promote() == f"item {self.queued[-1][0]}"
        else:
            assert self.queue.promote() is None

    @invariant()
    def same_items_in_the_same_order(self) -> None:
        assert list(self.queue) == [f"item {key}" for key, _ in self.queued + self.waiting]
        assert len(self.queue) == len(self.queued)


TestQueueMachine = QueueMachine.TestCase


def test_one_item_over_the_bound_of_bytes_is_taken_when_it_is_alone() -> None:
    queue: BoundedQueue[str] = BoundedQueue(4, 100)
    assert queue.offer(1, "large", 1000, may_wait=False) is Verdict.QUEUED
    assert queue.offer(2, "small", 1, may_wait=True) is Verdict.BUSY
    assert queue.take() == "large"
    assert queue.offer(2, "small", 1, may_wait=False) is Verdict.QUEUED
