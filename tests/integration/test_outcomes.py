"""Every outcome of a call as the client sees it: status, exception, facts, and nothing that is not safe."""

import gc
import json
import os
import weakref
from collections.abc import Callable
from typing import Any

import psutil
import pytest

from molt_accel import (
    Client,
    MoltClientClosed,
    MoltEntryError,
    MoltError,
    MoltInternalError,
    MoltInvalidInput,
    MoltStartFailed,
    MoltWorkerCrashed,
)
from molt_accel.errors import Status
from molt_accel.ipc.messages import Codec
from molt_accel.waits import Pause
from tests.support.driver import MakeDriver, error_of, value_of
from tests.support.errors import raised
from tests.support.pools import MakeClient, with_worker
from tests.support.processes import wait_until

VALUES: list[Any] = [
    None, True, 0, -(2**63), 2**64 - 1, 1.5, "", "naïve \N{SNAKE} \0", [], {}, {"a": [1, {"b": None}]},
    [["x"] * 1000],
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=lambda value: repr(value)[:20])
@pytest.mark.parametrize("entry", ["echo", "to_json"])
def test_a_value_comes_back_as_it_was_sent(lasting_client: Client, entry: str, value: Any) -> None:
    assert lasting_client.call(entry, value) == value


def test_each_codec_has_its_types(lasting_client: Client) -> None:
    assert lasting_client.call("echo", b"\x00\xff") == b"\x00\xff"
    assert lasting_client.call("echo", {1: "integer key"}) == {1: "integer key"}
    assert lasting_client.call("echo_json", {"a": 1.0}, codec="json") == {"a": 1.0}
    assert lasting_client.call("echo_json", b'{"a": [1]}', codec="json") == {"a": [1]}
    assert lasting_client.call("echo_raw", b"\x00\xff", codec="raw") == b"\x00\xff"


def test_each_request_has_a_context_of_its_own(lasting_client: Client) -> None:
    assert [lasting_client.call("remember", number) for number in range(4)] == [None] * 4


def test_an_undecoded_reply_has_the_worker_s_bytes_and_codec(lasting_client: Client) -> None:
    reply = lasting_client.reply("to_json", {"a": 1}, decode_response=False)
    assert reply.codec is Codec.JSON
    assert json.loads(reply.value) == {"a": 1}


def test_a_call_that_ran_and_whose_client_is_closed_before_the_next_try_ends_as_closed(
    make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = with_worker(make_client(executors=1))
    deaths: list[int] = []

    def close_meanwhile(self: Pause) -> None:
        deaths.append(client.ping()["executor_deaths"])
        client.close()

    monkeypatch.setattr(Pause, "block", close_meanwhile)
    with pytest.raises(MoltClientClosed, match=r"^the client is closed$"):
        client.call("crash", {"exit": 3}, idempotent=True)
    assert deaths == [1]  # the first try has run


@pytest.mark.parametrize(
    ("entry", "payload", "codec", "detail"),
    [
        ("echo_json", b"{", "json", "the payload is not valid json: Input data was truncated"),
        ("echo_json", b"", "json", "the payload is not valid json: Input data was truncated"),
        ("fail", "invalid", "msgpack", "name: 'x' is not allowed"),
        ("fail", "surrogate", "msgpack", "name: '?' is not allowed"),
        ("fail", "hostile", "msgpack", "the input is not valid"),
        (
            "echo",
            object(),
            "msgpack",
            "the payload can't be encoded as msgpack: objects of type object are not supported",
        ),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_input_that_is_not_valid_is_refused_with_the_reason(
    lasting_client: Client, entry: str, payload: object, codec: str, detail: str
) -> None:
    error = raised(MoltInvalidInput, lasting_client.call, entry, payload, codec=codec)
    assert error.detail == detail
    assert len(error.request_id) == 16
    assert lasting_client.call("echo", 1) == 1


@pytest.mark.parametrize(
    ("entry", "codec", "detail"),
    [
        ("nothing", "msgpack", "unknown entry 'nothing'; the pool offers "),
        ("ech", "msgpack", "unknown entry 'ech'; the pool offers 'echo', "),
        ("__spawn__", "msgpack", "unknown entry '__spawn__'; the pool offers "),
        ("__cancel__", "msgpack", "unknown entry '__cancel__'; the pool offers "),
        ("echo", "json", "entry 'echo' takes msgpack payloads, not json"),
        ("echo_raw", "msgpack", "entry 'echo_raw' takes raw payloads, not msgpack"),
        ("", "msgpack", "bad entry name: empty"),
        ("x" * 256, "msgpack", "bad entry name: 256 bytes, 255 at most"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_a_call_that_does_not_fit_the_pool_says_so_and_what_would(
    lasting_client: Client, entry: str, codec: str, detail: str
) -> None:
    with pytest.raises(MoltEntryError) as caught:
        lasting_client.call(entry, 1, codec=codec)
    assert caught.value.detail.startswith(detail)
    assert len(caught.value.request_id) == 16
    assert lasting_client.call("echo", 1) == 1


@pytest.mark.parametrize(
    ("kind", "name", "in_log"),
    [
        ("value", "ValueError", "ValueError: the secret is 42"),
        ("exit", "SystemExit", "SystemExit: 3"),
        ("interrupt", "KeyboardInterrupt", "KeyboardInterrupt"),
        ("memory", "MemoryError", "MemoryError"),
        ("recursion", "RecursionError", "RecursionError: too deep"),
        ("unprintable", "_Unprintable", "_Unprintable"),
    ],
)
def test_the_text_of_an_exception_stays_in_the_log_under_the_request_s_id(
    make_client: MakeClient, capfd: pytest.CaptureFixture[str], kind: str, name: str, in_log: str
) -> None:
    client = make_client(log_json=True, log="stderr")
    pids = set(_pids(client))
    error = raised(MoltInternalError, client.call, "fail", kind)
    assert type(error) is MoltInternalError
    assert (error.detail, error.facts) == (f"'fail' raised {name}", {})
    assert client.call("pid") in pids  # the executor lives on
    client.close()
    rows = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    (row,) = [row for row in rows if row["event"] == "entrypoint_raised"]
    assert (row["request_id"], row["entry"]) == (error.request_id, "fail")
    assert in_log in row["traceback"]
    assert "entrypoints.py" in row["traceback"]


def _pids(client: Client) -> list[int]:
    client.start()

    def whole() -> list[int]:
        pids = client.ping()["executors"]["pids"]
        return pids if len(pids) == client.config.pool_size else []

    return list(wait_until(whole))


def test_a_result_that_can_t_be_encoded_is_an_internal_error(client: Client) -> None:
    with pytest.raises(MoltInternalError) as caught:
        client.call("unencodable")
    where = "can't be encoded as msgpack"
    assert (
        caught.value.detail
        == f"the result of 'unencodable' {where}: objects of type object are not supported"
    )


@pytest.mark.parametrize(
    ("how", "signal", "exit_code", "words"),
    [
        ({"signal": 11}, 11, None, "signal 11 (SIGSEGV)"), ({"signal": 9}, 9, None, "signal 9 (SIGKILL)"),
        ({"signal": 6}, 6, None, "signal 6 (SIGABRT)"), ({"signal": 15}, 15, None, "signal 15 (SIGTERM)"),
        ({"exit": 3}, None, 3, "exit code 3"), ({"exit": 0}, None, 0, "exit code 0"),
    ],
    ids=str,
)  # fmt: skip
def test_a_crash_is_reported_with_its_signal_or_exit_code(
    client: Client, how: dict[str, int], signal: int | None, exit_code: int | None, words: str
) -> None:
    error = raised(MoltWorkerCrashed, client.call, "crash", how)
    assert (error.signal, error.exit_code) == (signal, exit_code)
    assert error.detail == f"the executor died while it ran 'crash': {words}"
    assert client.call("echo", 1) == 1


def test_an_executor_whose_socket_was_closed_under_it_counts_as_crashed(client: Client) -> None:
    assert raised(MoltWorkerCrashed, client.call, "close_all_fds").signal == 9
    assert client.call("echo", 1) == 1


@pytest.mark.parametrize(
    ("entry", "payload", "timeout_ms"),
    [
        ("fail", "value", 20_000), ("crash", {"exit": 1}, 20_000), ("sleep", 1e6, 100),
        ("echo", object(), 20_000), ("echo", b"x" * 200_000, 20_000),
    ],
    ids=["raised", "crashed", "late", "not encoded", "too large"],
)  # fmt: skip
def test_an_error_that_was_handled_is_gone_and_keeps_nothing_alive(
    make_client: MakeClient, entry: str, payload: object, timeout_ms: int
) -> None:
    """Without the garbage collector, for which a busy server's refused calls would be work."""
    client = with_worker(make_client(max_frame_bytes=100_000))
    gc.collect()
    gc.disable()
    try:
        try:
            client.call(entry, payload, timeout_ms=timeout_ms)
        except MoltError as exc:
            error = weakref.ref(exc)
        assert error() is None
    finally:
        gc.enable()


def test_the_entrypoint_knows_its_request(client: Client) -> None:
    reply = client.reply("request_facts", timeout_ms=5000)
    assert reply.value["request_id"] == reply.metrics.request_id
    assert 0 < reply.value["remaining_ms"] <= 5000
    assert reply.value["cancelled"] is False
    free = client.call("request_facts", timeout_ms=None)
    assert (free["deadline"], free["remaining_ms"]) == (None, None)


def test_exports_that_can_t_be_imported_make_calls_unavailable_and_say_why(make_client: MakeClient) -> None:
    client = make_client(exports="no_such_module")
    for _ in range(2):
        error = raised(MoltStartFailed, client.call, "echo", 1)
        assert "can't import no_such_module: ModuleNotFoundError: No module named" in error.detail


def test_a_reason_of_any_length_and_any_characters_reaches_the_client(
    make_client: MakeClient, make_module: Callable[[str, str], object]
) -> None:
    make_module("wordy_exports", "raise RuntimeError('\\udc80' + 'é' * 1_000_000)")
    client = make_client(exports="wordy_exports", max_frame_bytes=4176)
    error = raised(MoltStartFailed, client.call, "echo", 1)
    assert "can't import wordy_exports: RuntimeError: ?ééé" in error.detail


def test_a_small_frame_limit_does_not_limit_the_number_of_exports(
    make_driver: MakeDriver, make_module: Callable[[str, str], object]
) -> None:
    source = "from molt_worker import export\n" + "\n".join(
        f"@export\ndef an_entry_with_a_long_name_{number}(payload): return {number}" for number in range(300)
    )
    make_module("many_exports", source)
    driver = make_driver("--exports", "many_exports", "--max-frame-bytes", "4176", ready=False)
    assert value_of(driver.call("an_entry_with_a_long_name_299")) == 299
    status, body = error_of(driver.call("__ping__"))  # its report doesn't fit
    assert status is Status.INTERNAL_ERROR
    assert body["detail"].startswith("the result is over the frame limit: ")


def open_in(pid: int) -> list[str]:
    """What the descriptors of another process are of."""
    return sorted(os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd"))


def test_an_executor_has_its_own_descriptors_and_no_others_and_hands_none_on(client: Client) -> None:
    """Nothing of the supervisor's, the fork server's, or another executor's."""
    wait_until(lambda: client.ping()["executors"]["starting"] == 0)
    report = client.ping()
    stderr = os.readlink(f"/proc/{report['pid']}/fd/2")
    standard = ["/dev/null", stderr, stderr]
    found = client.call("fds")
    executors = [open_in(pid) for pid in report["executors"]["pids"]]
    assert found in executors
    own = [[target for target in each if target.startswith("socket:")] for each in executors]
    assert [len(each) for each in own] == [1, 1]
    assert own[0] != own[1]
    pipes = sorted({target for each in executors for target in each if target.startswith("pipe:")} - {stderr})
    assert executors == [sorted([*standard, *each, *pipes]) for each in own]
    (forkserver,) = {psutil.Process(pid).ppid() for pid in report["executors"]["pids"]}
    sockets = [target for target in open_in(forkserver) if target.startswith("socket:")]
    assert len(sockets) == 3  # to the supervisor, and to itself for signals
    # By one pipe, of which the fork server has both ends, executors tell it of late imports; others ring event loops.
    (late,) = [target for target in pipes if open_in(forkserver).count(target) == 2]
    assert open_in(forkserver) == sorted([*standard, *sockets, *pipes, late, "anon_inode:[eventpoll]"])
    assert (len(pipes) > 1) == (client.config.transport == "shm")
    inherited = client.call("inherited_fds")
    assert [target.partition(":")[0] for target in inherited] == ["/dev/null", "pipe", "pipe"]


def test_an_entrypoint_can_terminate_what_it_forked(client: Client) -> None:
    assert [client.call("terminate_child", 20.0) for _ in range(30)] == [-15] * 30


def test_an_entrypoint_that_forks_and_returns_in_both_processes_answers_once(client: Client) -> None:
    before = set(_pids(client))
    assert client.call("answer_twice") in before
    for number in range(200):
        assert client.call("echo", number) == number
    assert set(_pids(client)) == before
