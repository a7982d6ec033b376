"""Typed entrypoints through a client, over each transport."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from molt_accel import Client, MoltInternalError, MoltInvalidInput
from tests.support.processes import wait_for_file

Connect = Callable[..., Client]


@pytest.mark.parametrize("entry", ["order", "order_json"])
def test_a_typed_entrypoint_gets_its_object_and_gives_one(make_client: Connect, entry: str) -> None:
    options = {"codec": "json"} if entry == "order_json" else {}
    client = make_client()
    assert client.call(entry, {"number": 7, "lines": ["a", "b"]}, **options) == {"number": 7, "count": 2}
    with pytest.raises(MoltInvalidInput, match=r"Expected `str`, got `int` - at `\$.lines\[1\]`"):
        client.call(entry, {"number": 7, "lines": ["a", 1]}, **options)
    with pytest.raises(MoltInvalidInput, match="unknown field `more`"):
        client.call(entry, {"number": 7, "more": 1}, **options)
    assert client.call(entry, {"number": 8}, **options) == {"number": 8, "count": 0}


def test_cancellation_ends_the_decoding_too(make_client: Connect, tmp_path: Path) -> None:
    client = make_client(executors=1, grace_ms=20_000)
    path = tmp_path / "pid"

    async def cancelled() -> None:
        call = asyncio.create_task(client.acall("slow_order", {"path": str(path)}))
        await asyncio.to_thread(wait_for_file, path)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call

    asyncio.run(cancelled())
    assert client.call("pid") == int(path.read_text())  # it was interrupted, not killed


def test_a_result_that_has_no_form_is_the_entrypoint_s_fault(make_client: Connect) -> None:
    with pytest.raises(MoltInternalError, match="the result of 'wrong_receipt' can't be encoded as msgpack"):
        make_client().call("wrong_receipt", {"number": 1})


def test_inline_does_the_same(make_client: Connect) -> None:
    client = make_client(transport="inline")
    assert client.call("order", {"number": 7}) == {"number": 7, "count": 0}
    with pytest.raises(MoltInvalidInput, match="missing required field `number`"):
        client.call("order", {})
