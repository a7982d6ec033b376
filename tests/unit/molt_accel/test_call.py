"""molt_accel.call: one call against a scripted transport, in both ways of waiting."""

import asyncio
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from molt_accel import call as module
from molt_accel import codec
from molt_accel.call import Call, Reply, make_call, report_refusal
from molt_accel.errors import (
    BusyReason,
    MoltBusy,
    MoltCancelled,
    MoltClientClosed,
    MoltEntryError,
    MoltError,
    MoltInternalError,
    MoltInvalidInput,
    MoltProtocolError,
    MoltTimeout,
    MoltWorkerCrashed,
    MoltWorkerUnavailable,
    Status,
)
from molt_accel.ipc import outcomes
from molt_accel.ipc.frame import Fault, FrameError
from molt_accel.ipc.messages import FLAG_COMPILED, WORKER_DEFAULT_WAIT, Codec, Request, Response
from molt_accel.ipc.outcomes import busy
from molt_accel.options import CallInfo, CallMetrics, CallOptions
from molt_accel.overload.episode import Episode
from molt_accel.transports.base import Pending
from molt_accel.waits import Pause, adrive, drive
from tests.support.errors import raised
from tests.support.processes import exit_code, fork, in_thread
from tests.support.scripted_transport import (
    Act,
    ScriptedTransport,
    answer,
    answer_error,
    answer_in,
    end,
    lose,
    lose_in,
    refuse,
    response,
    silence,
    unsent,
)

Run = Callable[[Call], Reply]


def _run_async(call: Call) -> Reply:
    return asyncio.run(adrive(call))


#: Whether calls are made to block at their first wait. Both ways have the same outcomes, so all tests run with each.
_blocks = False


@pytest.fixture(
    params=[(drive, True), (drive, False), (_run_async, False)], ids=["blocking", "in steps", "async"]
)
def run(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Run:
    driver: Run
    driver, blocks = request.param
    monkeypatch.setattr(sys.modules[__name__], "_blocks", blocks)
    return driver


def call(transport: ScriptedTransport, payload: object = None, **options: Any) -> Call:
    return make_call(transport, CallOptions(entry="echo", **options), payload, blocks=_blocks)


class Hooks:
    def __init__(self) -> None:
        self.told: list[tuple[str, Any]] = []
        self.options: dict[str, Any] = {
            name: lambda info, name=name: self.told.append((name, info))
            for name in ("before_send", "metrics_hook", "after_recv")
        }

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.told]

    @property
    def metrics(self) -> CallMetrics:
        (metrics,) = [info for name, info in self.told if name == "metrics_hook"]
        assert isinstance(metrics, CallMetrics)
        return metrics

    @property
    def received(self) -> CallInfo:
        (info,) = [info for name, info in self.told if name == "after_recv"]
        assert isinstance(info, CallInfo)
        return info


# -- what is sent ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["msgpack", "json", "raw"])
def test_the_request_says_what_the_options_say(run: Run, name: str) -> None:
    transport = ScriptedTransport(answer())
    before_ns = time.monotonic_ns()
    run(call(transport, b'"payload"', codec=name, timeout_ms=1500.5))
    (request,) = transport.submitted
    assert (request.entry, request.codec) == ("echo", codec.parse(name))
    assert codec.decode(name, request.payload) == ("payload" if name == "json" else b'"payload"')
    assert before_ns <= request.sent_ns <= time.monotonic_ns()
    assert request.deadline_ns - request.sent_ns == 1_500_500_000
    assert request.max_wait_ms == WORKER_DEFAULT_WAIT
    assert request.request_id != 0


def test_no_timeout_is_no_deadline(run: Run) -> None:
    transport = ScriptedTransport(answer())
    run(call(transport, timeout_ms=None))
    assert transport.submitted[0].deadline_ns == 0


@pytest.mark.parametrize(
    ("queue_timeout_ms", "max_wait_ms"),
    [(0, 0), (12.7, 12), (1e12, WORKER_DEFAULT_WAIT - 1), (None, 2**32 - 1)],
)
def test_waits_for_places_fit_their_field(run: Run, queue_timeout_ms: float | None, max_wait_ms: int) -> None:
    transport = ScriptedTransport(answer())
    run(call(transport, queue_timeout_ms=queue_timeout_ms))
    assert transport.submitted[0].max_wait_ms == max_wait_ms


def test_a_payload_that_cannot_be_encoded_is_invalid_input_and_is_not_sent(run: Run) -> None:
    transport = ScriptedTransport(answer())
    with pytest.raises(MoltInvalidInput, match=r"^the payload can't be encoded as msgpack: "):
        run(call(transport, object()))
    assert transport.submitted == []


@pytest.mark.parametrize(
    ("fault", "kind"), [(Fault.TOO_LARGE, MoltInvalidInput), (Fault.ENTRY, MoltEntryError)]
)
def test_a_frame_refused_for_what_the_caller_gave_says_whose_fault_it_is(
    run: Run, fault: Fault, kind: type[MoltError]
) -> None:
    error = raised(kind, run, call(ScriptedTransport(refuse(FrameError(fault, "why")))))
    assert error.detail == f"{fault.value}: why"


def test_a_frame_refused_for_another_reason_stays_a_protocol_error(run: Run) -> None:
    error = raised(FrameError, run, call(ScriptedTransport(refuse(FrameError(Fault.RANGE, "why")))))
    assert error.fault is Fault.RANGE


def test_ids_are_never_used_twice_by_threads_of_one_process() -> None:
    transport = ScriptedTransport(answer())

    def calls() -> None:
        for _ in range(200):
            drive(call(transport))

    threads = [in_thread(calls) for _ in range(4)]
    for thread in threads:
        thread.join()
    assert len({request.request_id for request in transport.submitted}) == 800


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")
def test_a_forked_child_has_ids_of_its_own() -> None:
    transport = ScriptedTransport(answer())
    read_fd, write_fd = os.pipe()

    def child() -> None:
        drive(call(transport))
        os.write(write_fd, str(transport.submitted[0].request_id).encode())

    assert exit_code(fork(child)) == 0
    drive(call(transport))
    assert abs(int(os.read(read_fd, 100)) - transport.submitted[0].request_id) > 1000
    os.close(read_fd)
    os.close(write_fd)


# -- what comes back ------------------------------------------------------------------------------------
@pytest.mark.parametrize("acts", [(answer(1),), (lose, answer(1))], ids=["at once", "sent again"])
@pytest.mark.parametrize("hooked", [False, True])
def test_a_call_for_its_value_only_ends_with_that_and_is_reported_as_others(
    run: Run, acts: tuple[Act, ...], hooked: bool
) -> None:
    hooks = Hooks()
    options = CallOptions(entry="echo", **(hooks.options if hooked else {}))
    made = make_call(ScriptedTransport(*acts), options, None, blocks=_blocks, value_only=True)
    assert run(made) == 1
    assert hooks.names == (["before_send", "metrics_hook", "after_recv"] if hooked else [])
    if hooked:
        assert (hooks.metrics.status, hooks.metrics.response_bytes) == ("Ok", 1)


def test_a_result_is_decoded_and_comes_with_its_metrics(run: Run) -> None:
    transport = ScriptedTransport(answer({"a": 1}, flags=FLAG_COMPILED, queue_us=5, executor=2))
    reply = run(call(transport, [1, 2]))
    assert (reply.value, reply.codec) == ({"a": 1}, Codec.MSGPACK)
    metrics = reply.metrics
    assert (metrics.entry, metrics.status, metrics.queue_us, metrics.executor) == ("echo", "Ok", 5, 2)
    assert (metrics.payload_bytes, metrics.response_bytes, metrics.compiled) == (3, 4, True)
    assert metrics.request_id == f"{transport.submitted[0].request_id:016x}"


def test_a_result_may_stay_undecoded(run: Run) -> None:
    reply = run(call(ScriptedTransport(answer(7)), decode_response=False))
    assert (reply.value, reply.codec) == (b"\x07", Codec.MSGPACK)


FAILURES = [
    MoltInvalidInput("the payload is not valid"),
    MoltEntryError("unknown entry 'echo'"),
    MoltBusy("the queue is full", facts={"retry_after_s": 3}),
    MoltTimeout("late", facts={"phase": "queue"}),
    MoltCancelled("asked to"),
    MoltInternalError("'echo' raised KeyError"),
    MoltWorkerCrashed("died", facts={"signal": 11}),
    MoltWorkerUnavailable("the worker was told to stop"),
]
each_failure = pytest.mark.parametrize("failure", FAILURES, ids=lambda error: type(error).__name__)


@each_failure
@pytest.mark.parametrize("by", [answer_error, end, refuse], ids=["answered", "ended", "refused"])
def test_failures_carry_facts_and_ids(run: Run, failure: MoltError, by: Callable[[MoltError], Act]) -> None:
    transport = ScriptedTransport(by(type(failure)(failure.detail, facts=failure.facts)))
    error = raised(type(failure), run, call(transport))
    assert type(error) is type(failure)
    assert (error.detail, error.facts) == (failure.detail, failure.facts)
    assert error.request_id == f"{transport.submitted[0].request_id:016x}"


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"payload": b"\xc1", "status": Status.BUSY}, "a Busy error that is not valid msgpack"),
        ({"payload": b"\x07", "status": Status.BUSY}, "a malformed Busy error"),
    ],
)
def test_an_unreadable_answer_is_the_peer_s_fault(run: Run, fields: dict[str, Any], text: str) -> None:
    def act(request: Request, pending: Pending) -> None:
        pending.resolve(Response(request.request_id, **fields))

    with pytest.raises(MoltProtocolError, match=f"^the worker sent {text}") as caught:
        run(call(ScriptedTransport(act)))
    assert len(caught.value.request_id) == 16


@pytest.mark.parametrize(("data", "codec"), [(b"\xc1", Codec.MSGPACK), (b"{", Codec.JSON)])
def test_an_unreadable_result_is_the_entrypoint_s_fault(run: Run, data: bytes, codec: Codec) -> None:
    def act(request: Request, pending: Pending) -> None:
        pending.resolve(Response(request.request_id, payload=data, codec=codec))

    with pytest.raises(MoltInternalError, match=f"^the result of 'echo' is not valid {codec.label}: "):
        run(call(ScriptedTransport(act)))


def test_a_transport_that_is_not_ready_is_started_first(run: Run) -> None:
    transport = ScriptedTransport(answer(1), ready=False)
    assert run(call(transport)).value == 1
    assert run(call(transport)).value == 1
    assert transport.starts == 1


def test_a_start_that_fails_is_the_call_s_failure(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    transport = ScriptedTransport(answer(1), ready=False)

    def start() -> None:
        raise MoltWorkerUnavailable("can't start")

    monkeypatch.setattr(transport, "start", start)
    with pytest.raises(MoltWorkerUnavailable, match=r"^can't start$"):
        run(call(transport))
    assert transport.submitted == []


# -- getting it to a worker -----------------------------------------------------------------------------
@pytest.mark.parametrize("fate", [unsent, lose, lose_in(0.03)], ids=["unsent", "lost", "lost later"])
@pytest.mark.parametrize("times", [1, 3, 6])
def test_what_no_worker_has_got_is_sent_again_after_a_start(run: Run, fate: Act, times: int) -> None:
    transport = ScriptedTransport(*[fate] * times, answer("at last"))
    reply = run(call(transport))  # not idempotent: nobody ran it
    assert (reply.value, reply.metrics.status) == ("at last", "Ok")
    assert (len(transport.submitted), transport.starts) == (times + 1, times)
    assert len({request.request_id for request in transport.submitted}) == 1
    assert transport.abandoned == []


@pytest.mark.parametrize("fate", [unsent, lose])
def test_a_transport_that_starts_and_starts_but_never_sends_is_given_up(run: Run, fate: Act) -> None:
    transport = ScriptedTransport(fate)
    with pytest.raises(MoltWorkerUnavailable, match=r"^the worker is gone$") as caught:
        run(call(transport))
    assert not caught.value.may_have_run
    assert (len(transport.submitted), transport.starts) == (module._ROUNDS + 1, module._ROUNDS)


def test_callers_that_race_for_what_a_start_has_brought_all_get_their_turn(run: Run) -> None:
    """A transport with room for one call more at each start, and many callers."""
    room = threading.Semaphore(0)
    transport = ScriptedTransport(
        lambda request, pending: (
            answer()(request, pending) if room.acquire(blocking=False) else unsent(request, pending)
        )
    )
    transport.start = room.release  # type: ignore[method-assign]
    with ThreadPoolExecutor(20) as callers:
        replies = list(callers.map(lambda _: run(call(transport)), range(20)))
    assert [reply.metrics.status for reply in replies] == ["Ok"] * 20


def test_the_deadline_ends_the_attempts_to_send(run: Run) -> None:
    transport = ScriptedTransport(lambda request, pending: time.sleep(0.03) or unsent(request, pending))
    assert raised(MoltTimeout, run, call(transport, timeout_ms=20)).phase == "transport"
    assert (len(transport.submitted), transport.starts) == (1, 0)


def test_a_call_that_is_lost_while_it_is_given_up_is_the_timeout_that_it_was(run: Run) -> None:
    class Losing(ScriptedTransport):
        def abandon(self, pending: Any, error: MoltError) -> bool:
            pending.lose()
            return False

    transport = Losing(silence, patience_s=0.01)
    assert raised(MoltTimeout, run, call(transport, timeout_ms=20)).phase == "transport"
    assert len(transport.submitted) == 1


def test_a_start_between_two_attempts_that_fails_is_the_call_s_failure(run: Run) -> None:
    transport = ScriptedTransport(unsent)

    def start() -> None:
        raise MoltWorkerUnavailable("can't start")

    transport.start = start  # type: ignore[method-assign]
    with pytest.raises(MoltWorkerUnavailable, match=r"^can't start$"):
        run(call(transport))
    assert len(transport.submitted) == 1


# -- trying again ---------------------------------------------------------------------------------------
PASSING = (MoltBusy, MoltWorkerCrashed, MoltWorkerUnavailable)


@each_failure
@pytest.mark.parametrize("by", [answer_error, end, refuse], ids=["answered", "ended", "refused"])
def test_an_idempotent_call_is_sent_again_after_failures_that_may_pass_and_no_other(
    run: Run, failure: MoltError, by: Callable[[MoltError], Act]
) -> None:
    transport = ScriptedTransport(by(failure), answer("at last"))
    attempt = call(transport, idempotent=True, retries=1, retry_backoff_ms=0)
    if isinstance(failure, PASSING):
        assert run(attempt).value == "at last"
        first, second = transport.submitted
        assert (first.request_id, first.deadline_ns) == (second.request_id, second.deadline_ns)
    else:
        with pytest.raises(type(failure)):
            run(attempt)
        assert len(transport.submitted) == 1


def test_a_call_of_a_closed_client_is_never_sent_again(run: Run) -> None:
    transport = ScriptedTransport(refuse(MoltClientClosed()), answer("too much"))
    with pytest.raises(MoltClientClosed, match=r"^the client is closed$"):
        run(call(transport, idempotent=True, retries=5, retry_backoff_ms=0))
    assert len(transport.submitted) == 1


@each_failure
def test_a_call_that_is_not_idempotent_is_never_sent_again(run: Run, failure: MoltError) -> None:
    transport = ScriptedTransport(answer_error(failure), answer("too much"))
    with pytest.raises(type(failure)):
        run(call(transport, retries=5, retry_backoff_ms=0))
    assert len(transport.submitted) == 1


@pytest.mark.parametrize("retries", [0, 1, 3])
def test_the_last_failure_is_raised_when_the_retries_are_used_up(run: Run, retries: int) -> None:
    failures = [MoltBusy(str(number)) for number in range(retries + 1)]
    transport = ScriptedTransport(*map(answer_error, failures))
    with pytest.raises(MoltBusy, match=f"^{retries}$"):
        run(call(transport, idempotent=True, retries=retries, retry_backoff_ms=0))
    assert len(transport.submitted) == retries + 1


def pauses_of(attempt: Call) -> list[float]:
    """The pauses that a failing call asks for, without making them."""
    pauses = []
    try:
        step = next(attempt)
        while True:
            if isinstance(step, Pause):
                pauses.append(step.seconds)
                step = attempt.send(None)
            else:
                step = attempt.send(step.block())
    except MoltBusy:
        return pauses


@pytest.mark.parametrize(
    ("timeout_ms", "pauses"), [(None, [20.0, 40.0, 80.0, 160.0]), (60_000, [20.0, 40.0]), (19_000, [])]
)
def test_pauses_double_and_never_pass_the_deadline(timeout_ms: float | None, pauses: list[float]) -> None:
    transport = ScriptedTransport(answer_error(MoltBusy("full")))
    attempt = call(transport, idempotent=True, retries=4, retry_backoff_ms=20_000, timeout_ms=timeout_ms)
    assert pauses_of(attempt) == pauses
    assert len(transport.submitted) == len(pauses) + 1


def test_a_pause_is_made(run: Run) -> None:
    transport = ScriptedTransport(answer_error(MoltBusy("full")), answer(1))
    before_s = time.monotonic()
    reply = run(call(transport, idempotent=True, retry_backoff_ms=50))
    assert time.monotonic() - before_s >= 0.05
    assert reply.metrics.client_us >= 50_000


# -- in the line ----------------------------------------------------------------------------------------
def test_who_waits_for_a_place_tries_again_with_the_time_that_is_left(run: Run) -> None:
    transport = ScriptedTransport(refuse(busy(BusyReason.QUEUE_FULL)), answer("in the end"))
    assert run(call(transport, queue_timeout_ms=60_000)).value == "in the end"
    assert transport.submitted[-1].max_wait_ms < 60_000
    assert not transport.line.holds_back(0)


def test_who_is_cancelled_in_the_line_is_not_sent_and_holds_nobody_back(run: Run) -> None:
    transport = ScriptedTransport(refuse(busy(BusyReason.QUEUE_FULL)), answer("unwanted"))
    with pytest.raises(MoltCancelled, match="the client went away"):
        run(call(transport, queue_timeout_ms=60_000, cancel_check=lambda: True))
    assert len(transport.submitted) == 1
    assert not transport.line.holds_back(0)


def test_a_deadline_that_passes_in_the_line_is_one_of_the_queue(run: Run) -> None:
    transport = ScriptedTransport(refuse(busy(BusyReason.QUEUE_FULL)), answer("too late"))
    transport.line.join(1)  # somebody who is before it
    with pytest.raises(MoltTimeout, match="the deadline passed in the queue"):
        run(call(transport, queue_timeout_ms=100, timeout_ms=5))
    assert len(transport.submitted) == 1
    transport.line.leave(1)
    assert not transport.line.holds_back(0)


# -- deadlines and races --------------------------------------------------------------------------------
def test_a_worker_that_never_answers_is_given_up_after_deadline_and_patience(run: Run) -> None:
    transport = ScriptedTransport(silence, patience_s=0.03)
    before_s = time.monotonic()
    with pytest.raises(MoltTimeout, match=r"^no answer within deadline and grace time$") as caught:
        run(call(transport, timeout_ms=20))
    assert time.monotonic() - before_s >= 0.05
    assert caught.value.phase == "transport"
    assert transport.abandoned == [caught.value]


class _Contested(ScriptedTransport):
    """Its calls are answered in the very moment in which they are abandoned, or a little later."""

    def __init__(self, delay_s: float) -> None:
        super().__init__(silence, patience_s=0)
        self._delay_s = delay_s

    def abandon(self, pending: Pending, error: MoltError) -> bool:
        self.abandoned.append(error)
        answer_in(self._delay_s, "won")(self.submitted[0], pending)
        return False


@pytest.mark.parametrize("delay_s", [0, 0.1])
def test_an_answer_that_wins_against_giving_up_is_the_outcome(run: Run, delay_s: float) -> None:
    transport = _Contested(delay_s)
    assert run(call(transport, timeout_ms=5)).value == "won"
    assert len(transport.abandoned) == 1


def test_an_answer_that_wins_against_a_cancel_is_the_outcome(run: Run) -> None:
    transport = _Contested(0.05)
    assert run(call(transport, timeout_ms=None, cancel_check=lambda: True)).value == "won"
    assert [type(error) for error in transport.abandoned] == [MoltCancelled]


def test_an_answer_from_another_thread_wakes_the_caller(run: Run) -> None:
    assert run(call(ScriptedTransport(answer_in(0.03, "late")), timeout_ms=None)).value == "late"


class _Interrupt(BaseException):
    pass


@pytest.fixture
def interrupt_soon() -> Iterator[Callable[[], None]]:
    """Arms a signal whose handler raises in the main thread, as Ctrl-C does."""

    def handler(signum: int, stack: object) -> None:
        raise _Interrupt

    previous = signal.signal(signal.SIGALRM, handler)
    yield lambda: signal.setitimer(signal.ITIMER_REAL, 0.2) and None
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, previous)


def test_ctrl_c_while_a_call_waits_stops_the_work_and_is_reported(interrupt_soon: Callable[[], None]) -> None:
    hooks = Hooks()
    transport = ScriptedTransport(silence)
    attempt = call(transport, timeout_ms=None, **hooks.options)
    interrupt_soon()
    with pytest.raises(_Interrupt):
        drive(attempt)
    assert [str(error) for error in transport.abandoned] == ["the caller stopped waiting"]
    assert hooks.names == ["before_send", "metrics_hook", "after_recv"]
    assert hooks.metrics.status == "Cancelled"
    assert type(hooks.received.error) is _Interrupt


@pytest.mark.parametrize("options", [{}, {"cancel_check": lambda: False}], ids=["plain", "with cancel check"])
def test_cancelling_the_task_cancels_the_call(options: dict[str, Any]) -> None:
    hooks = Hooks()
    transport = ScriptedTransport(silence)

    async def main() -> None:
        task = asyncio.create_task(adrive(call(transport, timeout_ms=None, **hooks.options, **options)))
        while not transport.submitted:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert [str(error) for error in transport.abandoned] == ["the caller stopped waiting"]
    assert hooks.metrics.status == "Cancelled"


# -- cancel checks --------------------------------------------------------------------------------------
def test_a_check_that_says_so_cancels_the_call(run: Run) -> None:
    transport = ScriptedTransport(silence)
    with pytest.raises(MoltCancelled, match=r"^the client went away$") as caught:
        run(call(transport, timeout_ms=None, cancel_check=lambda: True))
    assert transport.abandoned == [caught.value]


def test_a_check_is_asked_again_and_again_until_the_answer_comes(run: Run) -> None:
    transport = ScriptedTransport(silence)
    asked: list[int] = []

    def check() -> bool:
        asked.append(1)
        if len(asked) == 3:
            transport.calls[0].resolve(response(transport.submitted[0], "patience"))
        return False

    assert run(call(transport, timeout_ms=None, cancel_check=check)).value == "patience"
    assert len(asked) == 3


def test_a_call_that_is_answered_at_once_never_asks(run: Run) -> None:
    def check() -> bool:
        raise AssertionError("asked")

    assert run(call(ScriptedTransport(answer(1)), cancel_check=check)).value == 1


def test_the_deadline_holds_while_a_check_is_asked(run: Run) -> None:
    transport = ScriptedTransport(silence, patience_s=0.01)
    with pytest.raises(MoltTimeout):
        run(call(transport, timeout_ms=60, cancel_check=lambda: False))
    assert [type(error) for error in transport.abandoned] == [MoltTimeout]


def test_a_check_that_fails_ends_the_call_with_its_error_and_stops_the_work(run: Run) -> None:
    hooks = Hooks()
    transport = ScriptedTransport(silence)

    def check() -> bool:
        raise LookupError("from the check")

    with pytest.raises(LookupError, match="from the check"):
        run(call(transport, timeout_ms=None, cancel_check=check, **hooks.options))
    assert [str(error) for error in transport.abandoned] == ["the caller stopped waiting"]
    assert hooks.metrics.status == "LookupError"


def test_a_call_s_own_check_takes_the_place_of_the_options(run: Run) -> None:
    def never() -> bool:
        raise AssertionError("asked")

    options = CallOptions(entry="echo", timeout_ms=None, cancel_check=never)
    with pytest.raises(MoltCancelled):
        run(make_call(ScriptedTransport(silence), options, None, lambda: True))


class _Connection:
    """A cancel check with a descriptor. `alive` is what it says."""

    def __init__(self, connection: socket.socket, alive: bool) -> None:
        self._connection = connection
        self._alive = alive
        self.asked = threading.Event()

    def fileno(self) -> int:
        return self._connection.fileno()

    def __call__(self) -> bool:
        self.asked.set()
        return not self._alive


@pytest.fixture
def connection() -> Iterator[tuple[socket.socket, socket.socket]]:
    server, client = socket.socketpair()
    with server, client:
        yield server, client


def test_a_hang_up_cancels_the_call(run: Run, connection: tuple[socket.socket, socket.socket]) -> None:
    server, client = connection
    transport = ScriptedTransport(lambda request, pending: threading.Timer(0.05, client.close).start())
    with pytest.raises(MoltCancelled, match=r"^the client went away$"):
        run(call(transport, timeout_ms=None, cancel_check=_Connection(server, alive=False)))


def test_a_hang_up_that_is_denied_does_not(run: Run, connection: tuple[socket.socket, socket.socket]) -> None:
    server, client = connection
    check = _Connection(server, alive=True)

    def act(request: Request, pending: Pending) -> None:
        def answer_once_asked() -> None:
            client.close()
            assert check.asked.wait(60)
            pending.resolve(response(request, "still here"))

        threading.Timer(0.03, answer_once_asked).start()

    assert run(call(ScriptedTransport(act), timeout_ms=None, cancel_check=check)).value == "still here"


def test_the_deadline_holds_while_watching(run: Run, connection: tuple[socket.socket, socket.socket]) -> None:
    check = _Connection(connection[0], alive=True)
    with pytest.raises(MoltTimeout):
        run(call(ScriptedTransport(silence, patience_s=0), timeout_ms=40, cancel_check=check))
    assert not check.asked.is_set()


# -- hooks ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("act", "status"),
    [
        (answer(1), "Ok"),
        *((answer_error(failure), type(failure).__name__.removeprefix("Molt")) for failure in FAILURES),
        (end(MoltProtocolError("bad frame")), "ProtocolError"),
        (refuse(FrameError(Fault.TOO_LARGE)), "InvalidInput"),
        (silence, "Timeout"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_outcome_is_told_to_every_hook_once_and_in_order(run: Run, act: Act, status: str) -> None:
    hooks = Hooks()
    transport = ScriptedTransport(act, patience_s=0)
    error: BaseException | None = None
    try:
        run(call(transport, "abc", timeout_ms=50 if act is silence else None, **hooks.options))
    except MoltError as exc:
        error = exc
    assert hooks.names == ["before_send", "metrics_hook", "after_recv"]
    request_id = f"{transport.submitted[0].request_id:016x}"
    assert hooks.told[0][1] == CallInfo("echo", request_id, 4)
    assert hooks.received == CallInfo("echo", request_id, 4, error, hooks.metrics)
    assert (hooks.metrics.status, hooks.metrics.request_id) == (status, request_id)
    assert (error is None) == (status == "Ok")


def test_an_unencodable_payload_is_reported_too(run: Run) -> None:
    hooks = Hooks()
    with pytest.raises(MoltInvalidInput):
        run(call(ScriptedTransport(answer()), object(), **hooks.options))
    assert hooks.names == ["metrics_hook", "after_recv"]
    assert (hooks.metrics.status, hooks.metrics.payload_bytes) == ("InvalidInput", 0)


def test_retries_are_one_call_to_the_hooks(run: Run) -> None:
    hooks = Hooks()
    transport = ScriptedTransport(answer_error(MoltBusy("full")), answer(1))
    run(call(transport, idempotent=True, retry_backoff_ms=0, **hooks.options))
    assert (hooks.names, hooks.metrics.status) == (["before_send", "metrics_hook", "after_recv"], "Ok")


@pytest.mark.parametrize("error", [LookupError("from the hook"), MoltBusy("from the hook")])
def test_what_before_send_raises_ends_the_call_before_it_is_sent(run: Run, error: Exception) -> None:
    hooks = Hooks()

    def before_send(info: CallInfo) -> None:
        raise error

    transport = ScriptedTransport(answer())
    with pytest.raises(type(error), match="from the hook"):
        run(call(transport, **{**hooks.options, "before_send": before_send}))
    assert transport.submitted == []
    assert hooks.names == ["metrics_hook", "after_recv"]
    assert hooks.received.error is error


@pytest.mark.parametrize("act", [answer(1), answer_error(MoltBusy("full"))], ids=["Ok", "Busy"])
@pytest.mark.parametrize("name", ["metrics_hook", "after_recv"])
def test_a_reporting_hook_that_fails_is_logged_and_changes_nothing(
    run: Run, name: str, act: Act, caplog: pytest.LogCaptureFixture
) -> None:
    hooks = Hooks()

    def failing(info: object) -> None:
        raise LookupError("from the hook")

    transport = ScriptedTransport(act)
    with caplog.at_level(logging.ERROR, "molt_accel"):
        try:
            assert run(call(transport, **{**hooks.options, name: failing})).value == 1
        except MoltBusy as exc:
            assert exc.detail == "full"  # noqa: PT017 - the outcome is the act's, whichever it is
    (record,) = caplog.records
    assert record.getMessage() == f"{name} failed for call {transport.submitted[0].request_id:016x}"
    assert hooks.names == [each for each in ("before_send", "metrics_hook", "after_recv") if each != name]


def test_hooks_may_call_again(run: Run) -> None:
    seen: list[object] = []

    def after_recv(info: CallInfo) -> None:
        seen.append(drive(call(ScriptedTransport(answer("inner")))).value)

    assert run(call(ScriptedTransport(answer("outer")), after_recv=after_recv)).value == "outer"
    assert seen == ["inner"]


def test_nothing_is_sent_again_for_a_client_that_went_away(run: Run) -> None:
    transport = ScriptedTransport(answer_error(MoltBusy("full")), answer("too much"))
    attempt = call(transport, idempotent=True, retries=3, retry_backoff_ms=0, cancel_check=lambda: True)
    with pytest.raises(MoltCancelled, match=r"^the client went away$"):
        run(attempt)
    assert len(transport.submitted) == 1


# -- what is refused ------------------------------------------------------------------------------------
def test_hooks_are_told_why_a_call_was_refused_and_the_log_once(
    run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "shedding", Episode())
    for _ in range(3):
        hooks = Hooks()
        refused = call(ScriptedTransport(refuse(outcomes.busy(BusyReason.QUEUE_DELAY))), **hooks.options)
        error = raised(MoltBusy, run, refused)
        assert (hooks.metrics.status, hooks.metrics.reason) == ("Busy", "queue_delay")
        assert hooks.metrics.request_id == error.request_id
    assert [record.message for record in caplog.records] == ["requests are refused: reason=queue_delay"]


def test_a_call_that_is_refused_before_it_is_made_is_reported_as_others_are(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "shedding", Episode())
    hooks = Hooks()
    error = outcomes.busy(BusyReason.IN_FLIGHT)
    report_refusal(CallOptions(entry="echo", **hooks.options), error)
    assert (hooks.metrics.entry, hooks.metrics.reason, hooks.metrics.request_id) == (
        *("echo", "in_flight", error.request_id),
    )
    assert hooks.received.error is error
    assert hooks.names == ["metrics_hook", "after_recv"]
    assert len(caplog.records) == 1


def test_metrics_of_other_outcomes_have_no_reason(run: Run) -> None:
    hooks = Hooks()
    run(call(ScriptedTransport(answer()), **hooks.options))
    assert hooks.metrics.reason == ""
