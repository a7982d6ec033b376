"""molt_accel.client: calls, their options, and the life of a client."""

import asyncio
import gc
import os
import re
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from molt_accel import CallInfo, CallMetrics, CallOptions, Client, Config, ConfigError
from molt_accel import client as module
from molt_accel.call import Reply
from molt_accel.client import default_client
from molt_accel.errors import (
    MoltCancelled,
    MoltClientClosed,
    MoltEntryError,
    MoltError,
    MoltWorkerUnavailable,
)
from molt_accel.ipc.messages import Codec
from molt_accel.transports import forks
from molt_accel.transports import opening as transports
from molt_accel.transports.base import Transport
from molt_accel.waits import adrive, drive
from tests.support import EXPORTS, ROOT
from tests.support.errors import raised
from tests.support.pools import MakeClient
from tests.support.processes import exit_code, fork, in_thread, wait_for_file


# -- making one -----------------------------------------------------------------------------------------
@pytest.fixture
def inline() -> Iterator[Client]:
    with Client(transport="inline", exports=EXPORTS) as client:
        yield client


def test_overrides_are_fields_of_the_configuration() -> None:
    client = Client(transport="inline", executors=3, exports=EXPORTS)
    assert (client.config.transport, client.config.executors, client.config.exports) == ("inline", 3, EXPORTS)
    assert client.options == CallOptions()


def test_a_configuration_can_be_given_whole() -> None:
    config = Config(transport="inline")
    assert Client(config).config is config


def test_a_configuration_and_overrides_together_are_refused() -> None:
    with pytest.raises(TypeError, match=r"^give either a Config or its fields, not both$"):
        Client(Config(transport="inline"), executors=2)


@pytest.mark.parametrize(
    ("overrides", "text"),
    [({"executors": -1}, "executors: -1 is not allowed"), ({"nope": 1}, "unknown option 'nope'")],
)
def test_wrong_overrides_fail_at_once(overrides: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=f"^{text}"):
        Client(**overrides)


def test_a_transport_that_cannot_run_fails_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(config: Config) -> Transport:
        raise MoltWorkerUnavailable("not on this machine")

    monkeypatch.setitem(transports._OPENERS, "shm", refuse)
    with pytest.raises(MoltWorkerUnavailable, match=r"^not on this machine$"):
        Client(transport="shm")


# -- calling --------------------------------------------------------------------------------------------
def test_call_returns_the_result_and_reply_all_of_it(inline: Client) -> None:
    assert inline.call("echo", [1, "a"]) == [1, "a"]
    reply = inline.reply("to_json", {"a": 1})
    assert (reply.value, reply.codec, reply.metrics.entry) == ({"a": 1}, Codec.JSON, "to_json")
    assert inline.call("echo") is None


def test_acall_and_areply_are_their_async_twins(inline: Client) -> None:
    async def main() -> tuple[object, Reply]:
        return await inline.acall("echo", 1), await inline.areply("to_json", 2, decode_response=False)

    value, reply = asyncio.run(main())
    assert (value, reply.value) == (1, b"2")


@pytest.mark.parametrize("name", ["json", "raw"])
def test_the_codec_is_an_option(inline: Client, name: str) -> None:
    assert inline.call(f"echo_{name}", b'"x"', codec=name) == ("x" if name == "json" else b'"x"')


def test_a_call_can_be_driven_by_hand(inline: Client) -> None:
    options = CallOptions(entry="echo")
    assert drive(inline.make_call(options, 1)).value == 1
    assert asyncio.run(adrive(inline.make_call(options, 2))).value == 2


def test_a_client_s_options_are_the_defaults_of_its_calls() -> None:
    seen: list[str] = []
    options = CallOptions(entry="ignored", decode_response=False, metrics_hook=lambda m: seen.append(m.entry))
    with Client(transport="inline", exports=EXPORTS, options=options) as client:
        assert client.call("echo", 1) == b"\x01"
        assert client.call("echo", 1, decode_response=True) == 1
        assert client.call("echo", 1) == b"\x01"
    assert seen == ["echo"] * 3


@pytest.mark.parametrize("value", [1, [1], len], ids=["plain", "unhashable", "callable"])
def test_an_unknown_option_is_a_type_error_each_time(inline: Client, value: object) -> None:
    for _ in range(2):
        with pytest.raises(TypeError):
            inline.call("echo", 1, timeout_s=value)


def test_a_bad_option_is_a_value_error_each_time(inline: Client) -> None:
    for _ in range(2):
        with pytest.raises(
            ValueError, match=r"^retries: -1 is not allowed; it must be a whole number, 0 or more$"
        ):
            inline.call("echo", 1, retries=-1)


class _UnhashableHook:
    __hash__ = None  # type: ignore[assignment]

    def __init__(self) -> None:
        self.told: list[CallMetrics | CallInfo] = []

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _UnhashableHook)

    def __call__(self, info: CallMetrics | CallInfo) -> None:
        self.told.append(info)


def test_equal_and_unhashable_hooks_are_told_of_their_own_calls(inline: Client) -> None:
    hooks = [_UnhashableHook() for _ in range(3)]
    for hook in hooks:
        inline.call("echo", 1, metrics_hook=hook)
    assert [len(hook.told) for hook in hooks] == [1, 1, 1]


def test_a_call_s_own_hook_is_not_kept(inline: Client) -> None:
    class Large:
        def __call__(self, metrics: CallMetrics) -> None:
            pass

    hook = Large()
    gone = weakref.ref(hook)
    inline.call("echo", 1, metrics_hook=hook)
    del hook
    gc.collect()
    assert gone() is None


def test_errors_are_raised(inline: Client) -> None:
    with pytest.raises(MoltEntryError, match=r"^unknown entry 'nope'; the pool offers "):
        inline.call("nope")


# -- a worker of its own --------------------------------------------------------------------------------
def test_start_makes_the_worker_ready(client: Client, transport: str) -> None:
    report = client.ping(timeout_ms=60_000)
    assert report["ready"] is True
    assert "echo" in report["exports"]
    assert report["executors"]["size"] == 2
    assert report["pid"] not in (os.getpid(), 0)


def test_a_ping_says_what_the_protocol_s_reference_lists(client: Client) -> None:
    text = (ROOT / "docs" / "reference" / "protocol.md").read_text(encoding="utf-8")
    listed = re.search(r"The result of `__ping__` is a msgpack map:(.*?)Keys may be added", text, re.DOTALL)
    assert listed is not None
    report = client.ping(timeout_ms=60_000)
    named = set(re.findall(r"`(\w+)`", listed[1]))
    assert named - ({"name", "clients"} - set(report)) == {*report, *report["executors"]}


def test_a_ping_needs_no_executor(make_client: MakeClient, tmp_path: Path) -> None:
    client = make_client(executors=1)
    running = tmp_path / "running"
    errors: list[MoltError] = []

    def call() -> None:
        errors.append(raised(MoltError, client.call, "announce_and_sleep", str(running), timeout_ms=None))

    stuck = in_thread(call)
    wait_for_file(running)
    report = client.ping(timeout_ms=60_000)
    assert (report["in_flight"], report["executors"]["busy"]) == (1, 1)
    client.close()
    stuck.join()
    assert [type(error) for error in errors] == [MoltCancelled]


def test_leaving_the_context_closes(make_client: MakeClient) -> None:
    with make_client() as client:
        assert client.call("echo", 1) == 1
    with pytest.raises(MoltClientClosed, match=r"^the client is closed$"):
        client.call("echo", 1)


# -- the shared one -------------------------------------------------------------------------------------
@pytest.fixture
def no_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_clients", {})
    monkeypatch.setenv("MOLT_TRANSPORT", "inline")
    monkeypatch.setenv("MOLT_EXPORTS", EXPORTS)


@pytest.mark.usefixtures("no_default")
def test_the_shared_client_is_made_once_from_the_environment() -> None:
    made: list[Client] = []
    start = threading.Barrier(8)

    def use() -> None:
        start.wait()
        made.append(default_client())

    threads = [in_thread(use) for _ in range(8)]
    for thread in threads:
        thread.join()
    assert len({id(client) for client in made}) == 1
    assert made[0].config.transport == "inline"
    assert made[0].call("echo", 1) == 1


@pytest.mark.usefixtures("no_default")
def test_a_wrong_setting_fails_at_first_use_and_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOLT_TRANSPORT", "pigeon")
    with pytest.raises(ConfigError, match=r"^MOLT_TRANSPORT: 'pigeon' is not allowed"):
        default_client()
    monkeypatch.setenv("MOLT_TRANSPORT", "inline")
    assert default_client().config.transport == "inline"


@pytest.mark.usefixtures("no_default")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")
def test_a_child_forked_while_the_shared_client_is_made_makes_its_own() -> None:
    with forks.start_lock():  # as the thread that makes it holds it, which the child doesn't have
        pid = fork(lambda: default_client().call("echo", 7) == 7)
    assert exit_code(pid) == 0


def test_the_supervisor_tells_the_project_s_folders(client: Client, make_client: MakeClient) -> None:
    client.call("echo", 1, timeout_ms=60_000)
    assert str(ROOT / "tests" / "support") in client.folders(timeout_ms=60_000)
    assert Client(transport="inline").folders() == []
