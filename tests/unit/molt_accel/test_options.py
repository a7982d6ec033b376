"""molt_accel.options: how a call is made, and its metrics."""

import dataclasses
import pickle
import time
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from molt_accel import Client, molt_offload
from molt_accel.codec import ENCODERS
from molt_accel.errors import Status
from molt_accel.ipc.messages import FLAG_COMPILED, WORKER_DEFAULT_WAIT, Codec, Request, Response
from molt_accel.options import HOOKS, CallInfo, CallMetrics, CallOptions, CallPlan
from tests.support import EXPORTS
from tests.support.errors import raised


def test_the_options_of_the_contract_and_their_defaults() -> None:
    assert dataclasses.asdict(CallOptions()) == {
        "entry": "", "codec": "msgpack", "timeout_ms": 30_000, "queue_timeout_ms": None,
        "idempotent": False, "retries": 1, "retry_backoff_ms": 20, "decode_response": True,
        "before_send": None, "after_recv": None, "metrics_hook": None, "cancel_check": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {},
            CallPlan(
                Codec.MSGPACK,
                ENCODERS[Codec.MSGPACK],
                30 * 10**9,
                WORKER_DEFAULT_WAIT,
                0,
                0.02,
                reports=False,
            ),
        ),
        ({"codec": "json", "timeout_ms": None}, {"codec": Codec.JSON, "timeout_ns": 0}),
        ({"timeout_ms": 1e-9}, {"timeout_ns": 1}),  # the shortest, and not none
        ({"queue_timeout_ms": 12.7}, {"max_wait_ms": 12}),
        ({"queue_timeout_ms": 1e12}, {"max_wait_ms": WORKER_DEFAULT_WAIT - 1}),
        ({"retries": 3}, {"retries": 0}),
        ({"retries": 3, "idempotent": True, "retry_backoff_ms": 5}, {"retries": 3, "pause_s": 0.005}),
        ({"metrics_hook": print}, {"reports": True}),
        ({"after_recv": print}, {"reports": True}),
        ({"before_send": print, "cancel_check": bool}, {"reports": False}),
    ],
)
def test_the_plan_is_what_the_options_come_to(changes: dict[str, Any], expected: Any) -> None:
    options = CallOptions(**changes)
    plan = options.plan
    if isinstance(expected, CallPlan):
        assert plan == expected
    else:
        assert {name: getattr(plan, name) for name in expected} == expected
    assert options.plan is plan
    assert options == CallOptions(**changes)
    assert options.replace({"timeout_ms": 7}).plan.timeout_ns == 7_000_000


def test_the_hooks_are_the_options_that_are_functions() -> None:
    given = {field.name for field in dataclasses.fields(CallOptions) if "Callable" in str(field.type)}
    assert {name for name in HOOKS if name in given} | {"before_send", "after_recv"} == HOOKS
    assert all(getattr(CallOptions(), name) is None for name in HOOKS)


_RANGE = " is not allowed; it must be 0 or more milliseconds, 10^12 at most"
_KINDS = " is not allowed; it must be milliseconds (an int or a float) or a datetime.timedelta"


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"codec": "yaml"}, "unknown codec 'yaml'; allowed: msgpack, json, raw"),
        ({"timeout_ms": -1}, f"timeout_ms: -1{_RANGE}"),
        ({"timeout_ms": 0}, "timeout_ms: 0 is not allowed; None means no deadline"),
        ({"timeout_ms": float("inf")}, f"timeout_ms: inf{_RANGE}"),
        ({"timeout_ms": float("nan")}, f"timeout_ms: nan{_RANGE}"),
        (
            {"queue_timeout_ms": -0.5},
            f"queue_timeout_ms: -0.5{_RANGE}",
        ),
        ({"retry_backoff_ms": -2}, f"retry_backoff_ms: -2{_RANGE}"),
        ({"retries": -1}, "retries: -1 is not allowed; it must be a whole number, 0 or more"),
    ],
)
def test_a_bad_option_is_refused_by_name_whether_given_or_changed(changes: dict[str, Any], text: str) -> None:
    for make in (lambda: CallOptions(**changes), lambda: CallOptions().replace(changes)):
        assert str(raised(ValueError, make)) == text


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"timeout_ms": "5"}, f"timeout_ms: '5'{_KINDS}"),
        ({"timeout_ms": True}, f"timeout_ms: True{_KINDS}"),
        ({"timeout_ms": [5]}, f"timeout_ms: [5]{_KINDS}"),
        ({"queue_timeout_ms": b"5"}, f"queue_timeout_ms: b'5'{_KINDS}"),
        ({"retry_backoff_ms": None}, f"retry_backoff_ms: None{_KINDS}"),
        ({"retries": "2"}, "retries: '2' is not allowed; it must be a whole number, 0 or more"),
    ],
)
def test_an_option_of_the_wrong_type_is_refused_by_name_whoever_is_given_it(
    changes: dict[str, Any], text: str
) -> None:
    with Client(transport="inline") as client:
        for give in (
            lambda: CallOptions(**changes),
            lambda: CallOptions().replace(changes),
            lambda: molt_offload(entry="e", **changes),
            lambda: client.call("echo", 1, **changes),
        ):
            assert str(raised(TypeError, give)) == text


def test_a_time_may_be_a_timedelta_in_every_option() -> None:
    wait = timedelta(milliseconds=2.5)
    plan = CallOptions(timeout_ms=wait, queue_timeout_ms=timedelta(seconds=2), retry_backoff_ms=wait).plan
    assert (plan.timeout_ns, plan.max_wait_ms, plan.pause_s) == (2_500_000, 2000, 0.0025)
    assert str(raised(ValueError, lambda: CallOptions(timeout_ms=-wait))).endswith(_RANGE)
    with Client(transport="inline", exports=EXPORTS) as client:
        client.start(timedelta(minutes=1))
        assert client.ping(timedelta(seconds=60))["ready"] is True
        assert client.call("echo", 1, timeout_ms=timedelta(minutes=1)) == 1


@pytest.mark.parametrize(
    "changes", [{"timeout_ms": None}, {"timeout_ms": 0.001}, {"queue_timeout_ms": 0}, {"retries": 0}]
)
def test_the_ends_of_the_ranges_are_allowed(changes: dict[str, Any]) -> None:
    ((name, value),) = changes.items()
    assert getattr(CallOptions(**changes), name) == value


def test_replace_changes_some_and_keeps_the_rest() -> None:
    options = CallOptions(entry="a", timeout_ms=5)
    changed = options.replace({"entry": "b", "retries": 3})
    assert (changed.entry, changed.timeout_ms, changed.retries) == ("b", 5, 3)
    assert options.replace({}) is options
    assert options.entry == "a"


def test_an_unknown_option_is_a_type_error_that_names_it() -> None:
    with pytest.raises(TypeError, match="timeout_s"):
        CallOptions().replace({"timeout_s": 1})


@pytest.mark.parametrize("thing", [CallOptions(), CallInfo("e", "id", 0), CallMetrics("e", "Ok", "id", 0)])
def test_options_infos_and_metrics_are_frozen(thing: Any) -> None:
    with pytest.raises(AttributeError):
        thing.entry = "other"


def test_metrics_of_an_answered_call_are_those_of_its_response() -> None:
    response = Response(
        255, Status.OK, b"12345", flags=FLAG_COMPILED, queue_depth=1, in_flight=2, queue_us=1500,
        decode_us=4, handler_us=5, encode_us=6, exec_us=2500, executor=8,
    )  # fmt: skip
    ended_ms = time.time_ns() / 1_000_000 - 60_000
    ended_ns = time.monotonic_ns() - 60 * 10**9
    request = Request(255, "entry", b"1234567890", sent_ns=ended_ns - 5_000_000)
    metrics = CallMetrics.of("Ok", request, response, ended_ns)
    assert msgspec.structs.replace(metrics) == metrics
    assert hash(msgspec.structs.replace(metrics)) == hash(metrics)
    assert pickle.loads(pickle.dumps(metrics)) == metrics
    assert msgspec.structs.replace(metrics, executor=9) != metrics
    assert abs(metrics.ts_ms - ended_ms) < 30_000  # when it ended, and not when it was asked
    assert metrics.as_dict() == {
        "entry": "entry", "status": "Ok", "request_id": "00000000000000ff", "ts_ms": metrics.ts_ms,
        "queue_us": 1500, "decode_us": 4, "handler_us": 5, "encode_us": 6, "exec_us": 2500,
        "queue_depth": 1, "in_flight": 2, "executor": 8, "compiled": True, "payload_bytes": 10,
        "response_bytes": 5, "client_us": 5000, "reason": "", "queue_ms": 1.5, "exec_ms": 2.5,
    }  # fmt: skip


def test_metrics_without_a_response_have_zeros_for_what_never_happened() -> None:
    request = Request(1, "entry", b"1234567890", sent_ns=10_000_000)
    metrics = CallMetrics.of("Timeout", request, None, 15_000_000)
    row = metrics.as_dict()
    known = {"entry": "entry", "status": "Timeout", "request_id": "0000000000000001", "ts_ms": metrics.ts_ms}
    assert {name: value for name, value in row.items() if value} == {
        **known,
        "payload_bytes": 10,
        "client_us": 5000,
    }
