"""molt_accel.bulkheads: which calls a process refuses itself, and that their places come back."""

import asyncio
import gc
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from molt_accel import bulkheads as module
from molt_accel.bulkheads import Bulkheads, Passage
from molt_accel.call import Reply, make_call
from molt_accel.config import Config
from molt_accel.errors import MoltBusy, MoltInternalError
from molt_accel.ipc.messages import Response
from molt_accel.options import CallMetrics, CallOptions
from molt_accel.overload.admission import CALM_NS, INTERVAL_NS
from molt_accel.overload.places import Places
from molt_accel.overload.server_threads import SERVER_THREADS
from molt_accel.waits import adrive, drive
from tests.support.errors import raised
from tests.support.processes import exit_code, fork, in_thread
from tests.support.scripted_transport import ScriptedTransport, answer, answer_error, silence

OPTIONS = CallOptions(entry="echo")


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No client but the test's own, in a process that serves nobody."""
    monkeypatch.setattr(module, "_all", ())
    yield
    SERVER_THREADS.count = 0


def bulkheads_of(transport: ScriptedTransport, **fields: Any) -> Bulkheads:
    return Bulkheads(Config(**fields), transport)


def call(transport: ScriptedTransport, passage: Passage, **options: Any) -> Reply:
    return drive(make_call(transport, CallOptions(entry="echo", **options), None, None, None, passage))


def under_way(bulkheads: Bulkheads, count: int) -> list[Passage]:
    """Have so many more calls under way."""
    passages = [Passage(bulkheads) for _ in range(count)]
    for each in passages:
        each.enter()
    return passages


def end_all(passages: list[Passage]) -> None:
    for each in passages:
        each.leave(None)


def usually(bulkheads: Bulkheads, seconds: float) -> None:
    """Have the client know what its calls take."""
    while not bulkheads._usual.is_warm:
        Passage(bulkheads).leave(Response(1, exec_us=int(seconds * 1_000_000)))


def busy_reason(work: Callable[..., object], *args: object, **kwargs: object) -> str:
    return raised(MoltBusy, work, *args, **kwargs).reason


def test_one_call_more_than_max_in_flight_is_refused_before_anything_is_encoded() -> None:
    transport = ScriptedTransport(answer())
    bulkheads = bulkheads_of(transport, max_in_flight=2)
    holding = [Passage(bulkheads), Passage(bulkheads)]
    for each in holding:
        each.enter()
    seen: list[CallMetrics] = []
    options = CallOptions(entry="echo", metrics_hook=seen.append)
    refused = make_call(transport, options, object(), None, None, Passage(bulkheads))  # which has no form
    assert busy_reason(drive, refused) == "in_flight"
    assert [(each.status, each.reason) for each in seen] == [("Busy", "in_flight")]
    assert transport.submitted == []
    holding[0].leave(None)
    assert call(transport, Passage(bulkheads)).value is None


def test_a_view_has_places_of_its_own_and_gives_them_back_if_the_process_has_none() -> None:
    transport = ScriptedTransport(answer())
    bulkheads = bulkheads_of(transport, max_in_flight=1)
    view = Places(1)
    process = Passage(bulkheads)
    process.enter()
    assert busy_reason(call, transport, Passage(bulkheads, view)) == "in_flight"
    assert view.taken == 0
    process.leave(None)
    call(transport, Passage(bulkheads, view))
    assert view.taken == 0


@pytest.mark.parametrize("script", [answer(), answer_error(MoltInternalError("no"))])
def test_places_come_back_however_the_call_ends(script: Any) -> None:
    view = Places(1)
    bulkheads = bulkheads_of(ScriptedTransport(), max_in_flight=1)
    for _ in range(3):
        try:
            call(ScriptedTransport(script), Passage(bulkheads, view))
        except MoltInternalError:
            assert view.taken == 0
    with pytest.raises(ZeroDivisionError):
        call(ScriptedTransport(answer()), Passage(bulkheads, view), before_send=lambda _: 1 // 0)
    assert (view.taken, bulkheads.refusal(view)) == (0, None)


def test_places_come_back_when_the_task_is_cancelled_or_never_run() -> None:
    view = Places(1)
    transport = ScriptedTransport(silence)
    bulkheads = bulkheads_of(transport)

    async def main() -> None:
        steps = make_call(transport, OPTIONS, None, None, None, Passage(bulkheads, view))
        task = asyncio.ensure_future(adrive(steps))
        while not transport.calls:
            await asyncio.sleep(0)
        assert view.taken == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert view.taken == 0
    steps = make_call(transport, OPTIONS, None, None, None, Passage(bulkheads, view))
    next(steps)
    assert view.taken == 1
    del steps
    gc.collect()
    assert view.taken == 0


def test_an_interrupt_in_the_middle_of_asking_leaves_no_place_taken() -> None:
    class Interrupted(Places):
        def take(self, holder: object) -> bool:
            super().take(holder)
            raise KeyboardInterrupt

    view = Interrupted(1)
    with pytest.raises(KeyboardInterrupt):
        call(ScriptedTransport(answer()), Passage(bulkheads_of(ScriptedTransport()), view))
    assert view.taken == 0


def test_calls_that_would_take_the_last_threads_for_long_are_refused() -> None:
    SERVER_THREADS.count = 8
    transport = ScriptedTransport(answer())
    bulkheads = bulkheads_of(transport, executors=2)
    usually(bulkheads, 0.1)
    passages = under_way(bulkheads, 5)
    assert bulkheads.refusal() is None
    passages += under_way(bulkheads, 1)
    refusal = bulkheads.refusal()
    assert refusal is not None
    assert refusal.reason == "in_flight"
    assert busy_reason(call, transport, Passage(bulkheads)) == "in_flight"
    assert transport.submitted == []
    end_all(passages)
    assert call(transport, Passage(bulkheads)).value is None


def test_of_threads_that_call_at_once_exactly_three_quarters_do() -> None:
    SERVER_THREADS.count = 8
    bulkheads = bulkheads_of(ScriptedTransport(), executors=1)
    usually(bulkheads, 60)
    barrier = threading.Barrier(8)
    entered: list[bool] = []

    def enter() -> None:
        barrier.wait()
        try:
            Passage(bulkheads).enter()
        except MoltBusy:
            entered.append(False)
        else:
            entered.append(True)

    for thread in [in_thread(enter) for _ in range(8)]:
        thread.join()
    assert sorted(entered) == [False] * 2 + [True] * 6


def test_without_an_estimate_or_threads_or_a_target_none_is_refused() -> None:
    known, off, unknown = (
        bulkheads_of(ScriptedTransport(), executors=1, queue_target_ms=ms) for ms in (100, 0, 100)
    )
    for each in (known, off, unknown):
        under_way(each, 8)
    for each in (known, off):
        usually(each, 1)
    assert known.refusal() is None
    SERVER_THREADS.count = 8
    assert [each.refusal() is None for each in (known, off, unknown)] == [False, True, True]


def test_the_first_calls_of_the_executors_teach_nothing_yet() -> None:
    SERVER_THREADS.count = 8
    bulkheads = bulkheads_of(ScriptedTransport(), executors=2)
    under_way(bulkheads, 8)
    for seconds in (5.0, 5.0):  # each executor imports something
        Passage(bulkheads).leave(Response(1, exec_us=int(seconds * 1_000_000)))
        assert bulkheads.refusal() is None
    usually(bulkheads, 0.001)
    assert bulkheads.refusal() is None


def test_a_burst_before_the_threads_passes_and_a_queue_that_stands_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now_ns = 10**18
    monkeypatch.setattr(module.time, "monotonic_ns", lambda: now_ns)
    SERVER_THREADS.count, SERVER_THREADS.waiting = 8, lambda: 60
    bulkheads = bulkheads_of(ScriptedTransport(), executors=2)
    usually(bulkheads, 0.005)
    passages = under_way(bulkheads, 7)
    assert bulkheads.refusal() is None
    now_ns += INTERVAL_NS // 2
    end_all(passages)
    assert bulkheads.refusal() is None  # an executor may be idle: the queue was gone
    passages = under_way(bulkheads, 7)
    assert bulkheads.refusal() is None
    now_ns += INTERVAL_NS
    assert bulkheads.refusal() is not None
    now_ns += CALM_NS
    assert bulkheads.refusal() is None
    end_all(passages)


def test_max_in_flight_takes_the_place_of_the_threads_rule() -> None:
    SERVER_THREADS.count = 8
    bulkheads = bulkheads_of(ScriptedTransport(), executors=1, max_in_flight=100)
    usually(bulkheads, 1)
    under_way(bulkheads, 8)
    assert bulkheads.refusal() is None


def test_calls_to_all_pools_hold_threads() -> None:
    SERVER_THREADS.count = 8
    others = bulkheads_of(ScriptedTransport(), executors=1)
    bulkheads = bulkheads_of(ScriptedTransport(), executors=1)
    usually(bulkheads, 1)
    passages = under_way(others, 5)
    under_way(bulkheads, 1)
    assert bulkheads.refusal() is not None
    end_all(passages)
    assert bulkheads.refusal() is None


def test_a_client_that_is_gone_holds_none() -> None:
    SERVER_THREADS.count = 8
    others = bulkheads_of(ScriptedTransport(), executors=1)
    bulkheads = bulkheads_of(ScriptedTransport(), executors=1)
    usually(bulkheads, 1)
    passages = under_way(others, 5)
    under_way(bulkheads, 1)
    del others, passages
    gc.collect()
    assert bulkheads.refusal() is None


def test_retry_after_is_from_what_is_under_way() -> None:
    bulkheads = bulkheads_of(ScriptedTransport(), executors=1, max_in_flight=5)
    usually(bulkheads, 4)
    under_way(bulkheads, 5)
    refusal = bulkheads.refusal()
    assert refusal is not None
    assert 20 <= refusal.retry_after_s <= 40


def test_a_forked_child_has_no_calls_under_way() -> None:
    bulkheads = bulkheads_of(ScriptedTransport(), max_in_flight=2)
    under_way(bulkheads, 2)

    def child() -> None:
        assert bulkheads.refusal() is None
        under_way(bulkheads, 2)
        assert bulkheads.refusal() is not None

    assert exit_code(fork(child)) == 0


def test_clients_that_are_made_on_threads_are_all_known() -> None:
    made: list[Bulkheads] = []
    barrier = threading.Barrier(8)

    def make() -> None:
        barrier.wait()
        made.append(bulkheads_of(ScriptedTransport()))

    for thread in [in_thread(make) for _ in range(8)]:
        thread.join()
    assert {ref() for ref in module._all} == set(made)


def test_a_full_view_says_when_its_own_calls_end_however_quick_the_others_are() -> None:
    bulkheads = bulkheads_of(ScriptedTransport(), executors=2)
    view = Places(1)
    for _ in range(3):
        Passage(bulkheads, view).leave(Response(1, exec_us=8_000_000))
    for _ in range(100):
        Passage(bulkheads).leave(Response(1, exec_us=1000))
    Passage(bulkheads, view).enter()
    refusal = bulkheads.refusal(view)
    assert refusal is not None
    assert refusal.retry_after_s >= 8
