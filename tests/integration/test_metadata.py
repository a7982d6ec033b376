"""Metadata: what a caller says about a call beside its payload, on its way to the entrypoint."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from molt_accel import Client, MoltInvalidInput
from molt_accel.errors import Status
from molt_accel.ipc.messages import MAX_METADATA_BYTES, Codec
from tests.support.driver import Driver, error_of

TOLD = {"tenant": "größe", "attempt": 2, "share": 0.5, "dry": True, "parent": None}


@pytest.mark.parametrize("size", [0, 10, 1024 * 1024 + 1])
def test_an_entrypoint_reads_what_its_caller_says_beside_the_payload(client: Client, size: int) -> None:
    assert client.call("told", "x" * size, metadata=TOLD, timeout_ms=10_000) == ["x" * size, TOLD]
    assert client.call("told_raw", b"x" * size, codec="raw", metadata=TOLD) == [b"x" * size, TOLD]


def test_metadata_is_one_call_s_own(client: Client) -> None:
    assert client.call("told", metadata={"a": 1}) == [None, {"a": 1}]
    assert client.call("told") == [None, {}]
    assert client.call("told", metadata={}) == [None, {}]


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        (
            {"a": [1]},
            "must map texts to texts, numbers, booleans or None: Expected ",
        ),
        ({1: "a"}, "must map texts to texts, numbers, booleans or None: Expected `str`"),
        ({"a": 2**64}, "must map texts to texts, numbers, booleans or None: "),
        ({"a": "x" * MAX_METADATA_BYTES}, f"has 4102 bytes, {MAX_METADATA_BYTES} at most"),
    ],
)
def test_what_can_t_be_metadata_is_refused_where_it_is_given(
    client: Client, metadata: dict[object, object], said: str
) -> None:
    with pytest.raises(MoltInvalidInput) as caught:
        client.call("told", metadata=metadata)
    assert caught.value.detail.startswith("the metadata ")
    assert said in caught.value.detail


def test_metadata_that_a_foreign_client_gets_wrong_costs_one_answer(
    make_driver: Callable[..., Driver],
) -> None:
    driver = make_driver()
    for payload, size, said in (
        (b"\xc0\x81\xa1a\x01", 6, "the metadata can't have 6 bytes in a payload of 5"),
        (b"\xc0" + b"x" * 5000, 4097, "the metadata can't have 4097 bytes in a payload of 5001"),
        (b"\xc0\xc1\xc1", 2, "the metadata is not valid: "),
    ):
        request = driver.request("told_raw", payload, codec=Codec.RAW, metadata_bytes=size)
        driver.send(request)
        status, body = error_of(driver.response(request.request_id))
        assert status is Status.INVALID_INPUT
        assert body["detail"].startswith(said)
