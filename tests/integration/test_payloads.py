"""Payloads and results from nothing to over the frame limit."""

import pytest

from molt_accel import Client, MoltInternalError, MoltInvalidInput
from molt_accel.errors import Status
from molt_accel.ipc.frame import HEADER_BYTES
from molt_accel.ipc.messages import Codec
from tests.support.driver import MakeDriver, error_of, value_of
from tests.support.errors import raised
from tests.support.pools import MakeClient

pytestmark = pytest.mark.sample(4)

LIMIT = 100_000


@pytest.mark.parametrize(
    "size",
    [0, 1, 4095, 4096, 16_383, 16_384, 16_385, 65_535, 65_536, 65_537, 1024 * 1024, 9 * 1024 * 1024 + 1],
)
def test_a_payload_of_any_size_comes_back(client: Client, size: int) -> None:
    payload = (bytes(range(256)) * (size // 256 + 1))[:size]
    for _ in range(2):
        assert client.call("echo_raw", payload, codec="raw") == payload


def test_a_request_at_the_limit_passes_and_one_byte_more_is_refused_here(make_client: MakeClient) -> None:
    client = make_client(max_frame_bytes=LIMIT)
    room = LIMIT - HEADER_BYTES - len("echo_raw")
    assert client.call("echo_raw", b"x" * room, codec="raw") == b"x" * room
    error = raised(MoltInvalidInput, client.call, "echo_raw", b"x" * (room + 1), codec="raw")
    assert error.detail == f"over the frame limit: {LIMIT + 1} bytes, {LIMIT} at most"
    assert client.call("echo_raw", b"x", codec="raw") == b"x"


def test_a_result_over_the_limit_is_an_internal_error_that_says_so(make_client: MakeClient) -> None:
    client = make_client(max_frame_bytes=LIMIT)
    encoded = 5 + LIMIT  # msgpack's head of a long binary
    error = raised(MoltInternalError, client.call, "big", LIMIT)
    assert error.detail == (
        f"the result is over the frame limit: {HEADER_BYTES + encoded} bytes, {LIMIT} at most"
    )
    room = LIMIT - HEADER_BYTES - 5
    assert client.call("big", room) == b"x" * room


def test_an_oversized_frame_of_another_client_s_limit_costs_one_answer(make_driver: MakeDriver) -> None:
    driver = make_driver("--max-frame-bytes", str(LIMIT))
    large = driver.request("echo_raw", b"x" * (3 * LIMIT), codec=Codec.RAW, generation=9)
    driver.send(large)
    good = driver.start("echo", "after it")
    status, body = error_of(driver.response(large.request_id))
    assert status is Status.INVALID_INPUT
    size = HEADER_BYTES + len("echo_raw") + 3 * LIMIT
    assert body["detail"] == f"over the frame limit: {size} bytes, {LIMIT} at most"
    assert value_of(driver.response(good)) == "after it"


def test_queued_payloads_are_bounded_in_bytes_too(make_driver: MakeDriver, tmp_path: object) -> None:
    driver = make_driver("--max-frame-bytes", str(LIMIT), "--max-queue", "1000")
    driver.start("wait_for_file", f"{tmp_path}/gate")
    payload = b"x" * (LIMIT - 200)
    ids = [driver.start("echo_raw", payload, codec=Codec.RAW) for _ in range(10)]
    answered = {driver.response(request_id).status for request_id in ids[4:]}
    assert answered == {Status.BUSY}
    small = driver.start("echo", 1)  # what fits is still taken
    with open(f"{tmp_path}/gate", "w"):
        for request_id in ids[:4]:
            assert driver.response(request_id).payload == payload
    assert value_of(driver.response(small)) == 1
