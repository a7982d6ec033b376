"""molt_accel.django.front.gate: who is let in, when, and that no place is lost."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from molt_accel.django.front import gate as module
from molt_accel.django.front.gate import ROOM, Gate
from molt_accel.errors import BusyReason, MoltBusy
from molt_accel.ipc import outcomes

BUSY = outcomes.busy(BusyReason.QUEUE_DELAY, 0)


def on_loop(test: Callable[[Gate], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        await test(Gate(asyncio.get_running_loop()))

    asyncio.run(main())


def passes() -> MoltBusy | None:
    return None


@pytest.fixture
def never_on_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop counts as behind, however late it is."""
    monkeypatch.setattr(module, "LATE_S", -1.0)
    monkeypatch.setattr(module, "FORGOTTEN_S", 3600.0)


async def fill(gate: Gate) -> list[object]:
    holders = [object() for _ in range(ROOM)]
    for each in holders:
        assert await gate.enter(each, passes) is None
    return holders


def test_who_is_refused_takes_no_room() -> None:
    async def test(gate: Gate) -> None:
        for _ in range(2 * ROOM):
            assert await gate.enter(object(), lambda: BUSY) is BUSY
        await fill(gate)

    on_loop(test)


@pytest.mark.usefixtures("never_on_time")
def test_the_next_is_asked_again_when_its_turn_comes_and_those_behind_it_at_once() -> None:
    async def test(gate: Gate) -> None:
        holders = await fill(gate)
        answers = iter([None, None, None, BUSY, BUSY, None])

        def ask() -> MoltBusy | None:
            return next(answers)

        waiting = [asyncio.create_task(gate.enter(number, ask)) for number in range(3)]
        await asyncio.sleep(3 * module.TICK_S)
        assert not any(task.done() for task in waiting)
        gate.leave(holders[0])
        gate.leave(holders[0])  # a second time does no harm
        assert await asyncio.gather(*waiting) == [BUSY, BUSY, None]
        late = asyncio.create_task(gate.enter("late", passes))
        await asyncio.sleep(0)
        assert not late.done()
        gate.leave(2)
        assert await late is None

    on_loop(test)


@pytest.mark.usefixtures("never_on_time")
def test_who_is_cancelled_leaves_no_place_taken() -> None:
    async def test(gate: Gate) -> None:
        holders = await fill(gate)
        in_time, late = (asyncio.create_task(gate.enter(name, passes)) for name in ("in time", "late"))
        await asyncio.sleep(0)
        in_time.cancel()  # before its turn
        await asyncio.sleep(0)
        gate.leave(holders[0])
        late.cancel()  # after its turn, before it has resumed
        await asyncio.wait([in_time, late])
        assert in_time.cancelled()
        assert late.cancelled()
        assert await gate.enter(object(), passes) is None

    on_loop(test)


def test_on_a_loop_that_is_not_behind_who_waits_for_something_else_takes_no_room() -> None:
    async def test(gate: Gate) -> None:
        await fill(gate)
        await asyncio.wait_for(gate.enter(object(), passes), 60)

    on_loop(test)


def test_on_a_loop_that_is_behind_nobody_takes_room_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LATE_S", -1.0)

    async def test(gate: Gate) -> None:
        await fill(gate)
        await asyncio.wait_for(gate.enter(object(), passes), 60)

    on_loop(test)


@pytest.mark.usefixtures("never_on_time")
def test_a_thread_may_take_note_of_a_call() -> None:
    async def test(gate: Gate) -> None:
        holders = await fill(gate)
        waiting = asyncio.create_task(gate.enter(object(), passes))
        await asyncio.sleep(0)
        thread = threading.Thread(target=gate.leave, args=(holders[3],))
        thread.start()
        assert await asyncio.wait_for(waiting, 60) is None
        thread.join()

    on_loop(test)


def test_a_thread_may_outlive_the_loop() -> None:
    kept: list[Gate] = []

    async def test(gate: Gate) -> None:
        assert await gate.enter("holder", passes) is None
        kept.append(gate)

    on_loop(test)
    thread = threading.Thread(target=kept[0].leave, args=("holder",))
    thread.start()
    thread.join()


@given(st.lists(st.sampled_from(["enter", "busy", "leave", "cancel", "turn"]), max_size=80))
def test_whatever_happens_room_is_never_exceeded_and_all_get_their_turn(steps: list[str]) -> None:
    """Its ticks do nothing here: each entrance is the work of a place that came free."""

    async def test(gate: Gate) -> None:
        gate._is_ticking = True
        tasks: dict[int, asyncio.Task[MoltBusy | None]] = {}
        asked: dict[int, int] = {}
        for number, step in enumerate(steps):
            if step in ("enter", "busy"):

                def ask(number: int = number, refused_later: bool = step == "busy") -> MoltBusy | None:
                    asked[number] = asked.get(number, 0) + 1
                    return BUSY if refused_later and asked[number] > 1 else None

                tasks[number] = asyncio.create_task(gate.enter(number, ask))
            elif step == "leave" and gate._inside:
                gate.leave(next(iter(gate._inside)))
            elif step == "cancel" and tasks:
                list(tasks.values())[-1].cancel()
            else:
                await asyncio.sleep(0)
            assert len(gate._inside) <= ROOM
        for _ in range(len(steps) + 1):
            await asyncio.sleep(0)
            for holder in list(gate._inside):
                gate.leave(holder)
        ended = await asyncio.wait_for(asyncio.gather(*tasks.values(), return_exceptions=True), 60)
        assert all(each is None or each is BUSY or isinstance(each, asyncio.CancelledError) for each in ended)
        for holder in tasks:
            gate.leave(holder)
        assert not gate._inside
        assert not gate._waiting

    on_loop(test)


def test_who_fails_when_its_turn_comes_hears_of_it_and_those_behind_it_are_let_in() -> None:
    async def test(gate: Gate) -> None:
        answers = iter([None])

        def asked_once() -> MoltBusy | None:
            for answer in answers:
                return answer
            raise ValueError("asked again")

        await fill(gate)
        failing, behind = (asyncio.ensure_future(gate.enter(object(), ask)) for ask in (asked_once, passes))
        assert await asyncio.wait_for(behind, 60) is None
        with pytest.raises(ValueError, match="asked again"):
            await asyncio.wait_for(failing, 60)

    on_loop(test)
