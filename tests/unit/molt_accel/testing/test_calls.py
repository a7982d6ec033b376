"""molt_accel.testing.calls: what is recorded, and of which calls."""

import asyncio

from molt_accel import CallOptions, Client, Config, errors, testing
from tests.support import EXPORTS
from tests.support.entrypoints import echo
from tests.support.errors import raised


def test_a_call_is_recorded_with_all_that_was_given() -> None:
    payload = {"a": (1, 2)}
    config = Config(transport="inline", exports=EXPORTS, pool="reports")
    with (
        Client(config) as client,
        testing.recorded_calls() as calls,
    ):
        client.call(echo, payload, timeout_ms=500, metadata={"tenant": "a"})
        asyncio.run(client.acall("echo"))
        client.ping()
        error = raised(errors.MoltInternalError, client.call, "fail", "value")
        with testing.forced("echo", testing.busy()):
            busy = raised(errors.MoltBusy, client.call, "echo", 2, idempotent=True, retry_backoff_ms=0)
    first, second, third, fourth = calls
    assert (first.pool, first.entry, first.metadata) == ("reports", "echo", {"tenant": "a"})
    assert first.payload is payload
    assert first.options == CallOptions(entry="echo", timeout_ms=500)
    assert first.reply is not None
    assert first.reply.value == {"a": [1, 2]}
    assert (second.payload, second.metadata, second.error) == (None, {}, None)
    assert [third.error, fourth.error] == [error, busy]
    assert third.reply is None


def test_calls_may_be_chosen_and_each_record_has_its_own() -> None:
    with (
        Client(transport="inline", exports=EXPORTS) as client,
        testing.recorded_calls() as all_calls,
        testing.recorded_calls(entry=echo) as echoes,
        testing.recorded_calls(pool="reports") as reports,
    ):
        client.call("echo", 1)
        client.call("pid")
    assert [call.entry for call in all_calls] == ["echo", "pid"]
    assert [call.entry for call in echoes] == ["echo"]
    assert reports == []
