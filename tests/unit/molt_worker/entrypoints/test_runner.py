"""One request in the runner: every outcome, and a soft interrupt that hits nothing but its request."""

import signal
import time
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, cast

import msgpack
import msgspec
import pytest
from django.http import Http404

from molt_accel import codec
from molt_accel.errors import MAX_TRACEBACK, MoltBusy, MoltError, MoltWorkerCrashed, Status
from molt_accel.ipc.frame import Fault, FrameError
from molt_accel.ipc.messages import FLAG_COMPILED, Codec, Request, Response
from molt_worker import InvalidInput, RequestCancelled, RequestStopped, current_request
from molt_worker.entrypoints import typed
from molt_worker.entrypoints.exports import Export, ExportTable
from molt_worker.entrypoints.request import StopReason, StopWord
from molt_worker.entrypoints.runner import Runner, error_response, too_large

SERIAL = 7
REFUSAL = {"error": "MoltInvalidInput"}
REFUSED, FAILED = Status.INVALID_INPUT, Status.INTERNAL_ERROR
Function = Callable[[Any], Any]


class Bench:
    """A runner with one entrypoint "f", its stop word, and the tracebacks it logged."""

    def __init__(
        self,
        function: Function,
        codec_out: Codec = Codec.MSGPACK,
        *,
        takes: Any = None,
        gives: Any = None,
        compiled: bool = False,
        **options: Any,
    ) -> None:
        self.word = StopWord(memoryview(bytearray(8)).cast("Q"), 0)
        self.tracebacks: list[tuple[str, str, str]] = []
        decode, encode = typed.decoder(takes, Codec.MSGPACK), typed.encoder(gives, codec_out)
        export = Export("f", "m:f", Codec.MSGPACK, codec_out, function, compiled, decode, encode)
        table = ExportTable([export])
        self.runner = Runner(table, self.word, lambda *row: self.tracebacks.append(row), number=3, **options)

    def run(self, payload: object = None, **fields: Any) -> Response:
        data = fields.pop("data", codec.encode(Codec.MSGPACK, payload))
        serial = fields.pop("serial", SERIAL)
        fields = {"entry": "f", "generation": 5, **fields}
        return self.runner.run(Request(0xABC, payload=data, **fields), serial)

    def interrupt(self) -> None:
        self.runner.interrupt(signal.SIGUSR1, None)

    def stop(self, reason: StopReason = StopReason.CANCELLED, serial: int = SERIAL) -> None:
        self.word.stop(serial, reason)


def body(response: Response) -> dict[str, Any]:
    return dict(msgpack.unpackb(response.payload))


def raising(error: BaseException) -> Function:
    def function(payload: object) -> object:
        raise error

    return function


class _Hostile(InvalidInput):
    def __str__(self) -> str:
        raise RuntimeError("can't even be printed")


class _Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("can't even be printed")


def test_a_result_comes_back_encoded_with_its_metrics() -> None:
    sent_ns = time.monotonic_ns() - 5_000_000

    def work(payload: int) -> int:
        time.sleep(0.005)
        return payload + 1

    response = Bench(work).run(41, sent_ns=sent_ns, queue_depth=4, in_flight=5)
    assert response.status is Status.OK
    assert msgpack.unpackb(response.payload) == 42
    assert (response.request_id, response.generation, response.executor) == (0xABC, 5, 3)
    assert (response.queue_depth, response.in_flight) == (4, 5)
    assert response.queue_us >= 5000
    assert response.handler_us >= 5000
    assert response.exec_us >= response.decode_us + response.handler_us + response.encode_us


def test_the_result_is_encoded_as_the_export_says() -> None:
    response = Bench(lambda payload: payload, Codec.JSON).run({"a": 1})
    assert response.codec is Codec.JSON
    assert response.payload == b'{"a":1}'


@pytest.mark.parametrize(
    ("function", "status", "detail", "logged"),
    [
        (raising(InvalidInput("name: 'x' is not allowed")), REFUSED, "name: 'x' is not allowed", ""),
        (raising(InvalidInput("x" * 5000)), REFUSED, "x" * 1000, ""),
        (raising(InvalidInput("a\udc80b")), REFUSED, "a?b", ""),
        (raising(_Hostile()), REFUSED, "the input is not valid", ""),
        (raising(ValueError("secret")), FAILED, "'f' raised ValueError", "ValueError: secret"),
        (raising(SystemExit(3)), FAILED, "'f' raised SystemExit", "SystemExit: 3"),
        (raising(KeyboardInterrupt()), FAILED, "'f' raised KeyboardInterrupt", "KeyboardInterrupt"),
        (raising(MemoryError()), FAILED, "'f' raised MemoryError", "MemoryError"),
        (raising(_Unprintable()), FAILED, "'f' raised _Unprintable", "_Unprintable"),
        (raising(GeneratorExit()), FAILED, "'f' raised GeneratorExit", "GeneratorExit"),
        (
            lambda payload: {"rows": [1, {"at": object()}]},
            FAILED,
            'the result of \'f\' can\'t be encoded as msgpack at result["rows"][1]["at"], of type object: '
            "objects of type object are not supported",
            "EncodeError",
        ),
        (
            lambda payload: "\ud800",
            FAILED,
            "the result of 'f' can't be encoded as msgpack: 'utf-8' codec can't encode character '\\ud800' "
            "in position 0: surrogates not allowed",
            "f",
        ),
    ],
    ids=lambda value: None if callable(value) else str(value)[:30].encode("ascii", "replace").decode(),
)
def test_all_it_does_becomes_one_answer(function: Function, status: Status, detail: str, logged: str) -> None:
    bench = Bench(function)
    response = bench.run(5)
    assert response.status is status
    assert response.codec is Codec.MSGPACK
    assert body(response)["detail"] == detail
    assert bool(bench.tracebacks) is bool(logged)
    for request_id, entry, text in bench.tracebacks:
        assert (request_id, entry) == ("0000000000000abc", "f")
        assert logged in text
        assert body(response)["traceback"] == text.encode(errors="replace").decode()
    assert bench.run(5).status is status  # the runner lives on


def test_a_long_traceback_keeps_both_of_its_ends() -> None:
    bench = Bench(lambda payload: {}["x" * 20_000])
    told = body(bench.run())["traceback"]
    ((_, _, text),) = bench.tracebacks
    half = MAX_TRACEBACK // 2
    assert told == f"{text[:half]}\n[{len(text) - 2 * half} characters left out]\n{text[-half:]}"


def test_an_answer_over_the_frame_limit_is_an_error_and_an_error_loses_its_traceback() -> None:
    why = FrameError(Fault.TOO_LARGE, "9 bytes long, 8 at most")
    request = Request(0xABC, entry="f")
    answer = too_large(request, Bench(lambda payload: payload).run("long"), why)
    assert (answer.status, body(answer)["detail"]) == (FAILED, f"the result is {why.detail}")
    failed = Bench(raising(Http404("no such row"))).run()
    assert {"traceback", "raised"} < set(body(failed))
    answer = too_large(request, failed, why)
    assert answer.status is REFUSED
    assert body(answer) == {"error": "MoltInvalidInput", "detail": "'f' raised Http404"}


@pytest.mark.parametrize(
    ("fields", "status", "expected"),
    [
        (
            {"entry": "g"},
            Status.INTERNAL_ERROR,
            {"error": "MoltEntryError", "detail": "unknown entry 'g'; the pool offers 'f'"},
        ),
        (
            {"codec": Codec.JSON},
            Status.INTERNAL_ERROR,
            {"error": "MoltEntryError", "detail": "entry 'f' takes msgpack payloads, not json"},
        ),
        (
            {"data": b"\xc1"},
            REFUSED,
            REFUSAL | {"detail": "the payload is not valid msgpack: FormatError", "undecodable": 1},
        ),
        (
            {"deadline_ns": time.monotonic_ns()},
            Status.TIMEOUT,
            {"error": "MoltTimeout", "detail": "the deadline passed in the queue", "phase": "queue"},
        ),
    ],
    ids=["entry", "codec", "payload", "deadline"],
)
def test_a_request_that_can_t_be_run_never_reaches_the_entrypoint(
    fields: dict[str, Any], status: Status, expected: dict[str, object]
) -> None:
    called: list[object] = []
    response = Bench(called.append).run(1, **fields)
    assert response.status is status
    assert body(response) == expected
    assert called == []


def test_the_entrypoint_sees_its_own_request_and_nobody_sees_it_afterwards() -> None:
    seen: list[tuple[str, float | None]] = []
    deadline_ns = time.monotonic_ns() + 10**10
    bench = Bench(lambda payload: seen.append((current_request().request_id, current_request().deadline)))
    bench.run(deadline_ns=deadline_ns)
    assert seen == [("0000000000000abc", deadline_ns / 1e9)]
    assert current_request().request_id == ""


STOPPED = [
    (StopReason.CANCELLED, Status.CANCELLED, {"detail": "the request was cancelled while it ran"}),
    (StopReason.TIMED_OUT, Status.TIMEOUT, {"phase": "running"}),
]


@pytest.mark.parametrize(("reason", "status", "facts"), STOPPED)
def test_an_interrupt_raises_as_told(reason: StopReason, status: Status, facts: dict[str, str]) -> None:
    reached: list[str] = []

    def function(payload: object) -> None:
        bench.stop(reason)
        try:
            bench.interrupt()
            reached.append("behind the interrupt")
        finally:
            reached.append("clean-up")

    bench = Bench(function)
    response = bench.run()
    assert response.status is status
    assert facts.items() <= body(response).items()
    assert reached == ["clean-up"]
    assert bench.tracebacks == []


@pytest.mark.parametrize(("reason", "status", "facts"), STOPPED)
def test_a_stop_before_the_start_is_heeded(reason: StopReason, status: Status, facts: dict[str, str]) -> None:
    called: list[object] = []
    bench = Bench(called.append)
    bench.stop(reason)
    assert bench.run().status is status
    assert called == []


@pytest.mark.parametrize("how", ["returns", "raises", "swallows"])
def test_a_stop_is_the_outcome_even_if_the_entrypoint_ends_by_itself(how: str) -> None:
    def function(payload: object) -> str:
        bench.stop()
        if how == "raises":
            raise ValueError("too late")
        if how == "swallows":
            try:
                bench.interrupt()
            except BaseException:
                return "swallowed"
        return "done"

    bench = Bench(function)
    response = bench.run()
    assert response.status is Status.CANCELLED
    assert body(response)["detail"] == "the request was cancelled while it ran"


def test_an_interrupt_for_another_request_does_nothing() -> None:
    def function(payload: object) -> str:
        bench.stop(serial=SERIAL - 1)
        bench.interrupt()
        bench.stop(serial=SERIAL + 1)
        bench.interrupt()
        return "done"

    bench = Bench(function)
    assert msgpack.unpackb(bench.run().payload) == "done"


def test_an_interrupt_before_or_after_the_request_does_nothing() -> None:
    bench = Bench(lambda payload: "done")
    bench.interrupt()
    assert bench.run().status is Status.OK
    bench.stop()
    bench.interrupt()
    assert bench.run(serial=SERIAL + 1).status is Status.OK


def test_a_second_interrupt_does_not_tear_the_clean_up() -> None:
    cleaned: list[bool] = []

    def function(payload: object) -> None:
        bench.stop()
        try:
            bench.interrupt()
        finally:
            bench.interrupt()
            cleaned.append(True)

    bench = Bench(function)
    assert bench.run().status is Status.CANCELLED
    assert cleaned == [True]


def test_except_exception_does_not_swallow_a_stop() -> None:
    def function(payload: object) -> str:
        bench.stop()
        try:
            bench.interrupt()
        except Exception:
            return "swallowed"
        return "done"

    bench = Bench(function)
    assert bench.run().status is Status.CANCELLED
    assert issubclass(RequestCancelled, RequestStopped)


@pytest.mark.parametrize("fails", [False, True])
def test_what_comes_after_an_entrypoint_is_part_of_its_request_and_interrupted_by_nothing(
    fails: bool,
) -> None:
    def after(entry: str) -> None:
        bench.stop()
        bench.interrupt()
        time.sleep(0.005)
        done.append(entry)

    done: list[str] = []
    bench = Bench(raising(KeyError("k")) if fails else len, after=after)
    response = bench.run([1])
    assert done == ["f"]
    assert response.status is (Status.INTERNAL_ERROR if fails else Status.OK)
    assert response.exec_us >= 5000


def test_what_comes_before_an_entrypoint_is_interrupted_by_nothing_and_the_entrypoint_does_not_run() -> None:
    def before(metadata: bytes) -> None:
        bench.stop()
        bench.interrupt()
        done.append("before")

    done: list[object] = []
    bench = Bench(done.append, before=before, after=done.append)
    assert bench.run([1]).status is Status.CANCELLED
    assert done == ["before", "f"]


@pytest.fixture
def real_signal() -> Iterator[Callable[[Runner], None]]:
    before = signal.getsignal(signal.SIGUSR1)

    def install(runner: Runner) -> None:
        signal.signal(signal.SIGUSR1, runner.interrupt)

    yield install
    signal.signal(signal.SIGUSR1, before)


def test_a_real_signal_ends_a_real_sleep(real_signal: Callable[[Runner], None]) -> None:
    def function(payload: object) -> None:
        bench.stop(StopReason.TIMED_OUT)
        signal.raise_signal(signal.SIGUSR1)
        time.sleep(1e6)

    bench = Bench(function)
    real_signal(bench.runner)
    assert bench.run().status is Status.TIMEOUT


def test_with_a_clock_of_its_own_a_late_result_is_a_timeout() -> None:
    deadline_ns = time.monotonic_ns() + 500_000_000

    def outlast(payload: object) -> None:
        while time.monotonic_ns() <= deadline_ns:
            pass

    response = Bench(outlast, own_clock=True).run(deadline_ns=deadline_ns)
    assert response.status is Status.TIMEOUT
    assert body(response)["phase"] == "running"


@pytest.mark.parametrize(
    ("error", "status", "expected"),
    [
        (
            MoltBusy("full", facts={"retry_after_s": 1}),
            Status.BUSY,
            {"error": "MoltBusy", "detail": "full", "retry_after_s": 1},
        ),
        (
            MoltWorkerCrashed("died", facts={"signal": 9}),
            FAILED,
            {"error": "MoltWorkerCrashed", "detail": "died", "signal": 9},
        ),
    ],
)
def test_an_error_response_names_the_request_and_carries_the_facts(
    error: MoltError, status: Status, expected: dict[str, object]
) -> None:
    response = error_response(Request(9, "f", generation=4), error)
    assert (response.request_id, response.generation) == (9, 4)
    assert response.status is status
    assert body(response) == expected


@pytest.mark.parametrize("error", [codec.DecodeError("not valid json"), codec.EncodeError("no form")])
def test_an_entrypoint_s_own_codec_error_is_its_failure_and_not_the_caller_s(error: ValueError) -> None:
    bench = Bench(raising(error))
    response = bench.run()
    assert response.status is FAILED
    assert body(response)["detail"] == f"'f' raised {type(error).__name__}"
    assert len(bench.tracebacks) == 1


class Order(msgspec.Struct):
    """What a typed entrypoint takes; `on_made` runs when there is one."""

    count: int
    on_made: ClassVar[Callable[[], object]] = lambda: None

    def __post_init__(self) -> None:
        type(self).on_made()


def while_decoding(monkeypatch: pytest.MonkeyPatch, function: Callable[[], object]) -> None:
    """Have `function` called while an order is being decoded."""
    monkeypatch.setattr(Order, "on_made", staticmethod(function))


def test_a_typed_parameter_is_an_object_and_a_typed_result_is_its_fields() -> None:
    response = Bench(lambda order: Order(order.count + 1), takes=Order, gives=Order).run({"count": 1})
    assert (response.status, response.codec, body(response)) == (Status.OK, Codec.MSGPACK, {"count": 2})


@pytest.mark.parametrize(
    ("data", "detail"),
    [
        (b"\x81\xa5count\xa11", "the payload: Expected `int`, got `str` - at `$.count`"),
        (b"\x80", "the payload: Object missing required field `count`"),
        (b"\xc1", "the payload is not valid msgpack: MessagePack data is malformed: invalid opcode"),
        (b"\x81\xa1\xff\x01", "the payload"),
        (b"", "the payload is not valid msgpack: Input data was truncated"),
    ],
)
def test_what_a_typed_parameter_can_t_be_never_reaches_the_entrypoint(data: bytes, detail: str) -> None:
    called: list[object] = []
    bench = Bench(called.append, takes=Order)
    response = bench.run(data=data)
    assert response.status is REFUSED
    assert body(response)["detail"].startswith(detail)
    assert (called, bench.tracebacks) == ([], [])


@pytest.mark.parametrize(
    ("error", "status", "detail"),
    [
        (ValueError("too many"), REFUSED, "the payload: too many"),
        (InvalidInput("too many"), REFUSED, "the payload: too many"),
        (TypeError("secret"), FAILED, "'f' raised TypeError"),
        (KeyError("secret"), FAILED, "'f' raised KeyError"),
        (SystemExit(3), FAILED, "'f' raised SystemExit"),
        (_Hostile(), FAILED, "'f' raised RuntimeError"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_what_an_object_raises_when_it_is_made_refuses_the_input_or_is_logged(
    monkeypatch: pytest.MonkeyPatch, error: BaseException, status: Status, detail: str
) -> None:
    called: list[object] = []
    while_decoding(monkeypatch, lambda: raising(error)(None))
    bench = Bench(called.append, takes=Order)
    response = bench.run({"count": 1})
    assert (response.status, body(response)["detail"], called) == (status, detail, [])
    assert len(bench.tracebacks) == (status is FAILED)
    assert all("on_made" in text for _, _, text in bench.tracebacks)  # the line that did it


@pytest.mark.parametrize(("reason", "status", "facts"), STOPPED)
def test_a_stop_while_an_object_is_made_ends_the_request(
    monkeypatch: pytest.MonkeyPatch, reason: StopReason, status: Status, facts: dict[str, str]
) -> None:
    called: list[object] = []
    bench = Bench(called.append, takes=Order)

    def stopped() -> None:
        bench.stop(reason)
        bench.interrupt()
        called.append("behind the interrupt")

    while_decoding(monkeypatch, stopped)
    response = bench.run({"count": 1})
    assert response.status is status
    assert facts.items() <= body(response).items()
    assert (called, bench.tracebacks) == ([], [])


@pytest.mark.parametrize(
    ("result", "where"),
    [
        (object(), ": "),
        ({"a": object()}, ' at result["a"], of type object: '),
        ([Order(cast("int", object()))], " at result[0].count, of type object: "),
        (2**64, ": "),
        ("\ud800", ": "),
        (Order, ": "),
    ],
)
def test_a_typed_result_that_has_no_form_is_the_entrypoint_s_failure(result: object, where: str) -> None:
    bench = Bench(lambda payload: result, gives=Order)
    response = bench.run()
    assert response.status is FAILED
    assert body(response)["detail"].startswith(f"the result of 'f' can't be encoded as msgpack{where}")
    assert len(bench.tracebacks) == 1


def test_without_types_a_struct_has_a_form_too() -> None:
    assert body(Bench(lambda payload: Order(1)).run()) == {"count": 1}
    assert Bench(lambda payload: Order(1), Codec.JSON).run().payload == b'{"count":1}'


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize(
    "function",
    [lambda payload: payload, raising(ValueError()), raising(InvalidInput())],
    ids=["ok", "bug", "no"],
)
def test_each_response_says_whether_the_entrypoint_is_compiled(function: Function, compiled: bool) -> None:
    bench = Bench(function, compiled=compiled)
    assert bool(bench.run().flags & FLAG_COMPILED) is compiled
    assert bool(bench.run(deadline_ns=1).flags & FLAG_COMPILED) is compiled
