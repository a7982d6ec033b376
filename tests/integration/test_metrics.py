"""Metrics of a call, the worker's report, and its log: one line a request."""

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

from molt_accel import CallMetrics, Client, MoltError, __version__
from molt_accel.errors import Status
from molt_accel.ipc.messages import BadFrame
from tests.support.driver import Driver, MakeDriver, deadline, error_of, value_of
from tests.support.errors import raised

FIELDS = {
    "ts": float, "level": str, "event": str, "request_id": str, "entry": str, "status": str,
    "queue_us": int, "decode_us": int, "handler_us": int, "encode_us": int, "exec_us": int,
    "queue_depth": int, "in_flight": int, "executor": int, "compiled": bool, "payload_bytes": int,
    "response_bytes": int,
}  # fmt: skip


def test_times_of_a_call_contain_each_other(client: Client) -> None:
    metrics = client.reply("sleep", 0.02).metrics
    assert metrics.handler_us >= 20_000
    assert metrics.exec_us >= metrics.decode_us + metrics.handler_us + metrics.encode_us
    assert metrics.client_us >= metrics.queue_us + metrics.exec_us
    assert metrics.queue_us > 0
    assert (metrics.entry, metrics.status, metrics.compiled) == ("sleep", "Ok", False)
    assert (metrics.queue_depth, metrics.in_flight) == (0, 1)
    assert metrics.executor in (1, 2)
    assert abs(metrics.ts_ms - time.time() * 1000) < 60_000


@pytest.mark.parametrize(
    ("entry", "payload", "codec", "sizes"),
    [
        ("echo_raw", b"12345", "raw", (5, 5)),
        ("echo_raw", b"", "raw", (0, 0)),
        ("big", 1000, "msgpack", (3, 1003)),
        ("to_json", [1, 2], "msgpack", (3, 5)),
    ],
)
def test_sizes_are_those_of_the_encoded_payload_and_result(
    client: Client, entry: str, payload: object, codec: str, sizes: tuple[int, int]
) -> None:
    metrics = client.reply(entry, payload, codec=codec).metrics
    assert (metrics.payload_bytes, metrics.response_bytes) == sizes


@pytest.mark.parametrize(
    ("entry", "payload", "status"),
    [
        ("fail", "value", "InternalError"),
        ("fail", "invalid", "InvalidInput"),
        ("nothing", None, "EntryError"),
        ("crash", {"exit": 1}, "WorkerCrashed"),
        ("sleep", 100, "Timeout"),
    ],
)
def test_each_outcome_reaches_the_hook(client: Client, entry: str, payload: object, status: str) -> None:
    seen: list[CallMetrics] = []
    error = raised(MoltError, client.call, entry, payload, timeout_ms=500, metrics_hook=seen.append)
    (metrics,) = seen
    assert (metrics.entry, metrics.status) == (entry, status)
    assert metrics.request_id == error.request_id
    if entry in ("fail", "sleep"):
        assert metrics.exec_us >= metrics.handler_us > 0
    if entry in ("fail", "sleep", "crash"):
        assert metrics.executor in (1, 2)


def test_queue_depth_and_in_flight_are_those_at_the_hand_out(make_driver: MakeDriver, tmp_path: Path) -> None:
    driver = make_driver("--executors", "2")
    gates = [tmp_path / "a", tmp_path / "b"]
    running = [driver.start("wait_for_file", str(gate)) for gate in gates]
    waiting = [driver.start("echo", number) for number in range(3)]
    report = driver.ping()
    assert (report["in_flight"], report["queue_depth"]) == (2, 3)
    assert report["executors"]["busy"] == 2
    gates[0].touch()
    seen = [driver.response(request_id) for request_id in waiting]
    assert [(frame.queue_depth, frame.in_flight) for frame in seen] == [(2, 2), (1, 2), (0, 2)]
    assert len({frame.executor for frame in seen}) == 1
    gates[1].touch()
    first, second = [driver.response(request_id) for request_id in running]
    assert (first.in_flight, second.in_flight) == (1, 2)
    assert first.executor != second.executor


def test_time_in_the_queue_is_measured_from_the_sending(make_driver: MakeDriver, tmp_path: Path) -> None:
    driver = make_driver()
    gate = tmp_path / "gate"
    driver.start("wait_for_file", str(gate))
    queued = driver.request("echo", 1)
    driver.send(queued)
    frame = driver.response(driver.start("echo", 2, deadline_ns=deadline(50)))
    assert error_of(frame)[1]["phase"] == "queue"
    assert frame.queue_us >= 40_000
    gate.touch()
    assert driver.response(queued.request_id).queue_us >= 50_000


def test_the_report_says_what_runs_and_what_was_counted(make_driver: MakeDriver) -> None:
    driver = make_driver("--executors", "2", "--max-queue", "9")
    driver.call("echo", 1)
    driver.call("fail", "value")
    driver.call("crash", {"exit": 1})
    driver.send_bytes(b"\x00\x00\x00\x00")
    driver.take(BadFrame)
    report = driver.wait_idle()
    assert (report["version"], report["pid"]) == (__version__, driver.pid)
    assert report["ready"] is True
    assert {"echo", "echo_json", "crash"} <= set(report["exports"])
    assert (report["queue_depth"], report["max_queue"], report["in_flight"]) == (0, 9, 0)
    assert {name: n for name, n in report["outcomes"].items() if name != "Ok"} == {
        "InternalError": 1,
        "WorkerCrashed": 1,
    }
    assert (report["executor_starts"], report["executor_deaths"]) == (3, 1)
    assert (report["recycled"], report["reloads"], report["bad_frames"]) == (0, 0, 1)
    assert report["uptime_s"] > 0
    pool = report["executors"]
    assert (pool["size"], pool["idle"], pool["busy"], pool["starting"]) == (2, 2, 0, 0)
    assert len(set(pool["pids"])) == 2


def _mixed_requests(driver: Driver) -> dict[str, str]:
    """Sends requests with different outcomes; request id -> status."""
    calls: list[tuple[str, Any, str]] = [
        ("echo", 1, "Ok"), ("fail", "value", "InternalError"), ("fail", "invalid", "InvalidInput"),
        ("nothing", 1, "EntryError"), ("crash", {"exit": 1}, "WorkerCrashed"), ("echo", "a\nb", "Ok"),
    ]  # fmt: skip
    sent = {}
    for entry, payload, status in calls:
        request = driver.request(entry, payload)
        driver.send(request)
        driver.response(request.request_id)
        sent[f"{request.request_id:016x}"] = status
    return sent


def test_a_json_log_has_one_line_a_request_with_the_documented_fields(make_driver: MakeDriver) -> None:
    driver = make_driver("--log-json", "--log-level", "debug")
    sent = _mixed_requests(driver)
    driver.end_input()
    assert driver.wait() == 0
    rows = [json.loads(line) for line in driver.log().splitlines()]
    requests = [row for row in rows if row["event"] == "request" and row["entry"] != "__ping__"]
    assert {row["request_id"]: row["status"] for row in requests} == sent
    assert len(requests) == len(sent)
    for row in requests:
        assert {name: type(value) for name, value in row.items()} == FIELDS
        assert row["level"] == ("debug" if row["status"] == "Ok" else "warning")


def test_a_text_log_has_one_line_a_request_too(make_driver: MakeDriver) -> None:
    driver = make_driver("--log-level", "debug")
    sent = _mixed_requests(driver)
    driver.end_input()
    driver.wait()
    lines = re.findall(
        r"^\S+ molt-worker \w+ request request_id=(\w+) entry=(\S+) status=(\w+) ", driver.log(), re.M
    )
    assert {request_id: status for request_id, entry, status in lines if entry != "__ping__"} == sent
    with pytest.raises(json.JSONDecodeError):
        json.loads(driver.log().splitlines()[0])


def test_at_level_error_good_and_refused_requests_leave_no_line(make_driver: MakeDriver) -> None:
    driver = make_driver("--log-level", "error")
    assert value_of(driver.call("echo", 1)) == 1
    assert error_of(driver.call("fail", "invalid"))[0] is Status.INVALID_INPUT
    status, error = error_of(driver.call("nothing"))
    assert (status, error["error"]) == (Status.INTERNAL_ERROR, "MoltEntryError")
    driver.end_input()
    assert driver.wait() == 0
    assert driver.log() == ""


def test_what_entrypoints_print_goes_to_the_log_and_never_between_frames(
    client: Client, capfd: pytest.CaptureFixture[str]
) -> None:
    noise = "\x01\x00\x00\x00noise" * 1000
    for number in range(20):
        assert client.call("print_noise", noise) == "printed"
        assert client.call("echo", number) == number


def test_a_failing_entrypoint_s_traceback_is_one_line_of_text_log(make_driver: MakeDriver) -> None:
    driver = make_driver()
    request = driver.request("fail", "value")
    driver.send(request)
    driver.response(request.request_id)
    log = driver.wait_log("entrypoint_raised")
    (line,) = [line for line in log.splitlines() if "entrypoint_raised" in line]
    assert f"request_id={request.request_id:016x} entry=fail traceback=" in line
    assert "ValueError: the secret is 42" in line
