"""molt_accel.errors: the one table of statuses, exceptions and HTTP, and errors on the wire."""

import copy
import pickle
from typing import Any

import pytest

import molt_accel
from molt_accel import codec, errors
from molt_accel.errors import (
    ERROR_TABLE,
    MAX_DETAIL,
    AlreadyServed,
    MoltBusy,
    MoltCancelled,
    MoltClientClosed,
    MoltEntryError,
    MoltError,
    MoltIncompatible,
    MoltInternalError,
    MoltInvalidInput,
    MoltProtocolError,
    MoltStartFailed,
    MoltTimeout,
    MoltWorkerCrashed,
    MoltWorkerUnavailable,
    NoSharedMemory,
    Status,
    WorkerVanished,
    error_body,
    from_wire,
    http_status,
    row_of,
    status_label,
    to_wire,
    unavailable_class,
    wire_status,
)
from molt_accel.ipc.frame import Fault, FrameError

#: The contract: exception -> (wire status, HTTP status, name of the outcome in metrics).
CONTRACT: dict[type[MoltError], tuple[Status, int, str]] = {
    MoltInvalidInput: (Status.INVALID_INPUT, 400, "InvalidInput"),
    MoltBusy: (Status.BUSY, 429, "Busy"),
    MoltTimeout: (Status.TIMEOUT, 504, "Timeout"),
    MoltCancelled: (Status.CANCELLED, 499, "Cancelled"),
    MoltInternalError: (Status.INTERNAL_ERROR, 500, "InternalError"),
    MoltWorkerUnavailable: (Status.INTERNAL_ERROR, 503, "WorkerUnavailable"),
    MoltStartFailed: (Status.INTERNAL_ERROR, 503, "StartFailed"),
    MoltIncompatible: (Status.INTERNAL_ERROR, 503, "Incompatible"),
    MoltClientClosed: (Status.INTERNAL_ERROR, 503, "ClientClosed"),
    MoltEntryError: (Status.INTERNAL_ERROR, 500, "EntryError"),
    MoltWorkerCrashed: (Status.INTERNAL_ERROR, 500, "WorkerCrashed"),
    MoltProtocolError: (Status.INTERNAL_ERROR, 502, "ProtocolError"),
}

#: Kinds of MoltWorkerUnavailable that only the library itself tells apart.
INTERNAL = (WorkerVanished, AlreadyServed, NoSharedMemory)

each_exception = pytest.mark.parametrize("cls", CONTRACT, ids=lambda cls: cls.__name__)


def test_the_wire_values_of_statuses_are_those_of_version_1() -> None:
    assert {status.label: int(status) for status in Status} == {
        "Ok": 1, "InvalidInput": 2, "Busy": 3, "Timeout": 4, "Cancelled": 5, "InternalError": 6,
    }  # fmt: skip


@each_exception
def test_the_table_maps_each_exception_as_the_contract_says(cls: type[MoltError]) -> None:
    status, http, label = CONTRACT[cls]
    assert (wire_status(cls), http_status(cls), status_label(cls("x"))) == (status, http, label)
    assert (wire_status(cls("x")), http_status(cls("x"))) == (status, http)


def test_the_table_has_every_exception_once_and_every_failing_status() -> None:
    public = {
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, MoltError) and value is not MoltError
    }
    assert public == {*CONTRACT, *INTERNAL}
    assert sorted(row.exception.__name__ for row in ERROR_TABLE) == sorted(cls.__name__ for cls in CONTRACT)
    assert {row.status for row in ERROR_TABLE} == set(Status) - {Status.OK} | {None}


@each_exception
def test_every_exception_is_a_public_name_and_derives_from_the_base(cls: type[MoltError]) -> None:
    assert getattr(molt_accel, cls.__name__) is cls
    assert cls.__name__ in molt_accel.__all__
    assert issubclass(cls, MoltError)


def test_a_crash_is_an_internal_error_and_an_unreachable_worker_is_not() -> None:
    assert issubclass(MoltWorkerCrashed, MoltInternalError)
    assert not issubclass(MoltWorkerUnavailable, MoltInternalError)


def test_each_reason_has_one_class_and_each_class_with_a_code_comes_back_from_the_wire() -> None:
    classes = {MoltStartFailed, MoltIncompatible, *INTERNAL}
    assert {unavailable_class(cls.code) for cls in classes} == classes
    assert {cls.code for cls in classes} == {
        *("start_failed", "incompatible", "stopping", "already_served", "no_shared_memory")
    }
    for cls in classes:
        body = to_wire(cls("why", facts={"count": 3}))
        assert body == {
            "error": row_of(cls).exception.__name__, "detail": "why", "count": 3, "code": cls.code,
        }  # fmt: skip
        back = from_wire(Status.INTERNAL_ERROR, body)
        assert (type(back), back.detail, back.facts) == (cls, "why", {"count": 3})


@pytest.mark.parametrize("code", ["no such reason", 7, None, [1]])
def test_an_unknown_code_is_no_particular_reason(code: object) -> None:
    body = {"error": "MoltWorkerUnavailable", "detail": "d", "code": code}
    assert type(from_wire(Status.INTERNAL_ERROR, body)) is MoltWorkerUnavailable
    assert type(from_wire(Status.BUSY, {"detail": "d", "code": "stopping"})) is MoltBusy


def test_a_closed_client_is_never_retried_and_never_falls_back() -> None:
    assert not issubclass(MoltClientClosed, MoltWorkerUnavailable)
    assert {row.exception for row in ERROR_TABLE if row.passing} == {
        MoltBusy, MoltWorkerCrashed, MoltWorkerUnavailable, MoltStartFailed, MoltIncompatible,
    }  # fmt: skip
    assert {row.exception for row in ERROR_TABLE if row.falls_back} == {
        MoltWorkerUnavailable,
        MoltStartFailed,
        MoltIncompatible,
    }
    assert row_of(NoSharedMemory).exception is MoltStartFailed


def test_a_subclass_has_the_row_of_its_nearest_listed_parent() -> None:
    class Refused(MoltWorkerCrashed):
        pass

    assert row_of(Refused).exception is MoltWorkerCrashed
    assert row_of(FrameError(Fault.EMPTY)).exception is MoltProtocolError


def test_the_bare_base_class_counts_as_an_internal_error() -> None:
    assert row_of(MoltError("x")).exception is MoltInternalError


@each_exception
def test_an_error_survives_the_wire_with_its_class_detail_and_facts(cls: type[MoltError]) -> None:
    error = cls("what happened", facts={"count": 3, "text": "x"})
    back = from_wire(wire_status(error), to_wire(error), "00000000000000ff")
    # A protocol error is found by whoever receives, and a closed client by itself: no worker sends them, and from one
    # they would mean that it failed.
    assert type(back) is (cls if row_of(cls).status is not None else MoltInternalError)
    assert (back.detail, back.request_id, back.facts) == (
        "what happened",
        "00000000000000ff",
        {"count": 3, "text": "x"},
    )


@pytest.mark.parametrize("status", [status for status in Status if status is not Status.OK])
@pytest.mark.parametrize("name", ["NoSuchError", "MoltProtocolError", 7, None])
def test_an_unknown_error_name_means_the_status_s_first_row(status: Status, name: object) -> None:
    first = next(row.exception for row in ERROR_TABLE if row.status is status)
    assert type(from_wire(status, {"error": name, "detail": "d"})) is first


def test_the_traceback_of_an_executor_is_the_cause_and_never_in_a_body() -> None:
    failed = MoltInternalError("'f' raised KeyError")
    failed.remote_traceback = "in f\nKeyError: \ud800"
    error = errors.from_wire(Status.INTERNAL_ERROR, errors.to_wire(failed))
    assert error.remote_traceback == str(error.__cause__).strip() == "in f\nKeyError: ?"
    assert type(error.__cause__) is errors.RemoteError
    assert set(errors.error_body(error)) == {"error", "detail", "request_id"}
    assert "KeyError" not in str(errors.error_body(error))
    plain = errors.from_wire(Status.INTERNAL_ERROR, errors.to_wire(MoltInternalError("no")))
    assert (plain.__cause__, MoltInternalError("no").remote_traceback) == (None, "")


def test_an_error_name_under_another_s_status_is_not_believed() -> None:
    assert type(from_wire(Status.BUSY, {"error": "MoltWorkerCrashed", "detail": "d"})) is MoltBusy


@pytest.mark.parametrize("body", [None, 3, "text", [], {}, {"detail": 3}, {"error": "MoltBusy"}, {1: 2}])
def test_a_malformed_error_body_is_the_peer_s_fault(body: object) -> None:
    error = from_wire(Status.BUSY, body, "00000000000000ff")
    assert type(error) is MoltProtocolError
    assert (error.detail, error.request_id) == ("the worker sent a malformed Busy error", "00000000000000ff")


def test_facts_that_are_neither_number_nor_text_are_dropped() -> None:
    body = {"error": "MoltBusy", "detail": "d", "retry_after_s": 3, "list": [1], "map": {}, "nil": None, 5: 6}
    assert from_wire(Status.BUSY, body).facts == {"retry_after_s": 3, "5": 6}


@pytest.mark.parametrize(
    ("error", "name", "value"),
    [
        (MoltBusy("d", facts={"retry_after_s": 7}), "retry_after_s", 7),
        (MoltBusy("d"), "retry_after_s", 1),
        (MoltBusy("d", facts={"retry_after_s": "soon"}), "retry_after_s", 1),
        (MoltTimeout("d", facts={"phase": "queue"}), "phase", "queue"),
        (MoltTimeout("d"), "phase", "transport"),
        (MoltWorkerCrashed("d", facts={"signal": 9}), "signal", 9),
        (MoltWorkerCrashed("d", facts={"signal": 9}), "exit_code", None),
        (MoltWorkerCrashed("d", facts={"exit_code": 0}), "exit_code", 0),
        (MoltWorkerCrashed("d", facts={"signal": "9"}), "signal", None),
    ],
)
def test_facts_are_properties_of_their_errors(error: MoltError, name: str, value: object) -> None:
    assert getattr(error, name) == value


@pytest.mark.parametrize(
    ("detail", "sent"),
    [("x" * 1001, "x" * MAX_DETAIL), ("name \udcff.json", "name ?.json"), ("größe", "größe")],
)
def test_a_detail_that_does_not_travel_is_made_to(detail: str, sent: str) -> None:
    error = MoltWorkerUnavailable(detail)
    payload = codec.encode("msgpack", to_wire(error))
    assert from_wire(wire_status(error), codec.decode("msgpack", payload)).detail == sent


#: What an HTTP client is told instead of texts that are for operators.
HIDDEN = {
    MoltInternalError: "the request failed",
    MoltEntryError: "the request failed",
    MoltWorkerCrashed: "the request failed",
    MoltWorkerUnavailable: "the service is not available",
    MoltStartFailed: "the service is not available",
    MoltIncompatible: "the service is not available",
    MoltClientClosed: "the service is not available",
    MoltProtocolError: "the service gave no valid answer",
}


@each_exception
def test_the_http_body_shows_the_text_only_where_it_is_for_the_sender(cls: type[MoltError]) -> None:
    error = cls("the text", request_id="00000000000000ff")
    expected: dict[str, str | int] = {"error": cls.__name__, "detail": HIDDEN.get(cls, "the text")}
    if cls is MoltBusy:
        error.facts |= {"reason": "queue_delay", "retry_after_s": 3}
        expected |= {"reason": "queue_delay", "retry_after_s": 3}
    assert error_body(error) == {**expected, "request_id": "00000000000000ff"}
    assert error_body(error, "from-header") == {**expected, "request_id": "from-header"}


def _pickled(error: MoltError) -> Any:
    return pickle.loads(pickle.dumps(error))


@pytest.mark.parametrize("copied", [_pickled, copy.copy, copy.deepcopy], ids=["pickle", "copy", "deepcopy"])
@pytest.mark.parametrize(
    "error",
    [
        *(cls("text", request_id="00000000000000ff", facts={"signal": 9}) for cls in CONTRACT),
        FrameError(Fault.TOO_LARGE, "12 bytes, 10 at most", 255, 3),
        FrameError(Fault.EMPTY),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_survives_copying_whole(error: MoltError, copied: Any) -> None:
    back = copied(error)
    assert type(back) is type(error)
    assert (str(back), back.args, vars(back)) == (str(error), error.args, vars(error))
    assert back.facts is not error.facts or copied is copy.copy


@pytest.mark.parametrize(
    ("why", "kind"),
    [
        (MoltIncompatible("why", facts={"may_have_run": 1}), MoltIncompatible),
        (NoSharedMemory("why"), NoSharedMemory),
        (MoltWorkerUnavailable("why"), MoltStartFailed),
        (MoltProtocolError("why"), MoltStartFailed),
    ],
)
def test_a_failed_start_is_of_its_reason_s_kind_if_that_has_a_code(
    why: MoltError, kind: type[MoltError]
) -> None:
    error = errors.start_failure(why)
    assert (type(error), error.detail) == (kind, "the worker can't start: why")
    assert not error.may_have_run
