"""What client and worker may say to each other, and in which direction."""

from typing import Any

import msgspec
import pytest

from molt_accel.ipc.messages import (
    SHM_FROM_CLIENT,
    SHM_FROM_WORKER,
    STDIO_FROM_CLIENT,
    STDIO_FROM_WORKER,
    Attach,
    Attached,
    BadFrame,
    Cancel,
    CancelChannel,
    Codec,
    Detach,
    Draining,
    Grant,
    Hello,
    Lease,
    Message,
    Recall,
    Refused,
    Return,
    StartFailed,
)

ERROR: dict[str, int | str] = {"error": "MoltBusy", "retry_after_s": 1}
SAID: dict[Any, list[Message]] = {
    STDIO_FROM_CLIENT: [Cancel(2**64 - 1, 2**32 - 1)],
    STDIO_FROM_WORKER: [Hello(), StartFailed(ERROR), BadFrame("why")],
    SHM_FROM_CLIENT: [Attach("1.0", False, 2), Lease(3), Return([1, 2]), CancelChannel(0, 9), Detach()],
    SHM_FROM_WORKER: [
        *(Attached([0], 1, 2, 3, 4, 2**60, 6, 7, 8), Refused(ERROR), Grant([]), Recall(1)),
        *(Hello(), Draining(), StartFailed(ERROR)),
    ],
}


@pytest.mark.parametrize("decoder", SAID)
def test_each_direction_takes_its_own_messages_only(decoder: msgspec.msgpack.Decoder[Message]) -> None:
    own = {type(message) for message in SAID[decoder]}
    for message in (each for messages in SAID.values() for each in messages):
        data = msgspec.msgpack.encode(message)
        if type(message) in own:
            assert decoder.decode(data) == message
        else:
            with pytest.raises(msgspec.ValidationError):
                decoder.decode(data)


@pytest.mark.parametrize("message", [Lease(-1), Lease(2**32), Return([2**32]), Attach("1", False, -1)])
def test_numbers_out_of_range_are_refused(message: Message) -> None:
    with pytest.raises(msgspec.ValidationError):
        SHM_FROM_CLIENT.decode(msgspec.msgpack.encode(message))


def test_codecs_go_by_their_labels() -> None:
    assert [codec.label for codec in Codec] == ["msgpack", "json", "raw"]
