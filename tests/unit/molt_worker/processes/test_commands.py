"""What may be said between supervisor, fork server and executors, and in which direction."""

import msgspec
import pytest

from molt_accel.ipc.messages import Codec, Hello, Message, StartFailed
from molt_accel.overload.priority import Priority
from molt_worker.processes.commands import (
    FROM_EXECUTOR,
    FROM_FORKSERVER,
    TO_FORKSERVER,
    Exited,
    ExportRow,
    Interrupt,
    Kill,
    Ready,
    Recycle,
    Sources,
    Spawn,
    Spawned,
    Wake,
)

ROW = ExportRow("echo", Codec.JSON, Codec.RAW, "m:echo", True, 2, Priority.LOW)
SAID = {
    TO_FORKSERVER: [Spawn(1, 2), Interrupt(1), Kill(2**32 - 1)],
    FROM_FORKSERVER: [
        *(StartFailed({"error": "MoltStartFailed"}), Sources([("/a.py", 2**60)])),
        *(Ready([ROW]), Spawned(1, 2**22), Exited(1, -9)),
    ],
    FROM_EXECUTOR: [Hello(), Wake(), Recycle()],
}


@pytest.mark.parametrize("decoder", SAID)
def test_each_direction_takes_its_own_messages_only(decoder: msgspec.msgpack.Decoder[Message]) -> None:
    for other, messages in SAID.items():
        for message in messages:
            if other is decoder:
                assert decoder.decode(msgspec.msgpack.encode(message)) == message
            else:
                with pytest.raises(msgspec.ValidationError):
                    decoder.decode(msgspec.msgpack.encode(message))


@pytest.mark.parametrize("command", [Spawn(-1, 0), Spawn(1, 2**32), Kill(2**32)])
def test_numbers_have_32_bits(command: Message) -> None:
    with pytest.raises(msgspec.ValidationError):
        TO_FORKSERVER.decode(msgspec.msgpack.encode(command))
