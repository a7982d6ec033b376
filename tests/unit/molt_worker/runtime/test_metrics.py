"""What the supervisor counts, and the fields of a request's log line."""

from molt_accel.errors import Status
from molt_accel.ipc.messages import FLAG_COMPILED, Request, Response
from molt_worker.runtime.metrics import Counters, request_fields


def test_a_request_s_fields_come_from_request_and_response() -> None:
    request = Request(0xAB, "list_items", b"12345")
    response = Response(
        0xAB, Status.OK, b"123", flags=FLAG_COMPILED, queue_depth=1, in_flight=2, queue_us=3, decode_us=4,
        handler_us=5, encode_us=6, exec_us=7, executor=8,
    )  # fmt: skip
    assert request_fields(request, response, "Ok") == {
        "request_id": "00000000000000ab", "entry": "list_items", "status": "Ok", "queue_us": 3,
        "decode_us": 4, "handler_us": 5, "encode_us": 6, "exec_us": 7, "queue_depth": 1, "in_flight": 2,
        "executor": 8, "compiled": True, "payload_bytes": 5, "response_bytes": 3,
    }  # fmt: skip


def test_counters_start_at_zero_and_report_plain_values() -> None:
    counters = Counters()
    counters.outcomes["Ok"] += 2
    report = counters.as_dict()
    uptime = report.pop("uptime_s")
    assert isinstance(uptime, float)
    assert uptime >= 0
    assert report == {
        "outcomes": {"Ok": 2}, "executor_starts": 0, "executor_deaths": 0, "recycled": 0, "reloads": 0,
        "bad_frames": 0,
    }  # fmt: skip
    assert type(report["outcomes"]) is dict
