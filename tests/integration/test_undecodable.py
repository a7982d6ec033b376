"""Values that encode but don't decode: whose fault they are, and what says so."""

from __future__ import annotations

from typing import Any

import pytest

from molt_accel import Client, MoltInternalError, MoltInvalidInput, codec
from tests.support.driver import MakeModule
from tests.support.pools import MakeClient

SOURCE = """
from molt_worker import export

@export(codec_in="json", codec_out="json")
def same(value):
    return value

@export(codec_out="json")
def broken_text(_):
    return b"{not JSON"

@export(codec_out="json")
def deep(levels):
    return b"[" * levels + b"]" * levels
"""


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.fixture
def client(make_client: MakeClient, make_module: MakeModule) -> Client:
    make_module("undecodable", SOURCE)
    return make_client(exports="undecodable")


@pytest.mark.parametrize("name", ["msgpack", "json"])
def test_a_value_that_is_too_deep_is_refused_with_its_depth(name: str) -> None:
    with pytest.raises(codec.EncodeError) as caught:
        codec.encode(name, {"rows": nested(2000)})
    assert str(caught.value).startswith(f"can't be encoded as {name}, 2001 levels deep: ")


@pytest.mark.parametrize(("entry", "payload"), [("broken_text", None), ("deep", 100_000)])
def test_a_result_that_does_not_come_back_is_the_entrypoint_s_fault(
    client: Client, entry: str, payload: object
) -> None:
    with pytest.raises(MoltInternalError) as caught:
        client.call(entry, payload)
    assert caught.value.detail.startswith(f"the result of {entry!r} is not valid json: ")


def test_a_payload_that_was_encoded_here_is_not_its_sender_s_fault(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(MoltInvalidInput) as caught:
        client.call("same", b"[" * 100_000, codec="json")  # text of a visitor's
    assert caught.value.detail.startswith("the payload is not valid json: ")
    assert caught.value.__cause__ is None
    # What this process encodes, in a codec that allows more here than the worker's decoder does.
    monkeypatch.setitem(codec.ENCODERS, codec.Codec.JSON, lambda value: b"[" * 100_000 + b"]" * 100_000)
    with pytest.raises(MoltInvalidInput) as caught:
        client.call("same", nested(3), codec="json", timeout_ms=29_999)  # options that are not known yet
    assert isinstance(caught.value.__cause__, codec.EncodeError)
    assert str(caught.value.__cause__) == "encodes to what can't be decoded; it is 3 levels deep"
