"""Every step: who passes it, what is done so that it is passed, and which moment it is."""

import enum
from dataclasses import dataclass
from typing import Final

#: The pulse of processes that the launcher runs: as `molt_accel.cluster.pulse` has it, and faster.
BEAT_S: Final = 0.5
LOOK_S: Final = 0.25
SILENCE_S: Final = 3 * BEAT_S + LOOK_S


class Script(enum.Enum):
    """The call that is made."""

    SMALL = "small"
    REQUEST = "request"  #: the request goes in pieces
    ANSWER = "answer"  #: the answer comes in pieces
    HOLD = "hold"  #: it runs until it is told to end
    CANCEL = "cancel"  #: the same, and it is cancelled while it runs
    LEAVE = "leave"  #: the same, and the bridge is told to leave while it runs
    BUSY = "busy"  #: the pool has no place for it


@dataclass(frozen=True, slots=True)
class Step:
    """A moment in a process: of the bridge or the client, as its name says."""

    name: str
    script: Script
    moment: str

    @property
    def who(self) -> str:
        return self.name.partition(".")[0]


STEPS: Final = (
    Step("bridge.received", Script.SMALL, "a request has come, and is not decoded"),
    Step("bridge.first_piece", Script.REQUEST, "the first piece is kept, no other was asked for"),
    Step("bridge.go_on", Script.REQUEST, "the other pieces are asked for"),
    Step("bridge.mid_request", Script.REQUEST, "some of the pieces are there"),
    Step("bridge.begun", Script.SMALL, "it is decoded, the pool does not have it"),
    Step("bridge.given", Script.SMALL, "the pool has it"),
    Step("bridge.told", Script.HOLD, "it runs, and the client was told so"),
    Step("bridge.answered", Script.SMALL, "the pool has answered, nothing is sent"),
    Step("bridge.mid_answer", Script.ANSWER, "some of the answer's pieces are sent"),
    Step("bridge.sent", Script.SMALL, "the answer is sent, the request still held"),
    Step("bridge.leaving", Script.LEAVE, "it was told to leave, and still asks for requests"),
    Step("bridge.unsubscribed", Script.LEAVE, "it asks for no more, and has not yet handled what came"),
    Step("bridge.cancel", Script.CANCEL, "a cancellation has come"),
    Step("bridge.cancelled", Script.CANCEL, "the request's task is cancelled, the pool was not told"),
    Step("client.sending", Script.SMALL, "the call is in the table, nothing is sent"),
    Step("client.sent", Script.SMALL, "the request is sent, nothing was heard"),
    Step("client.first_piece", Script.REQUEST, "the first piece is sent"),
    Step("client.go_on", Script.REQUEST, "the bridge asks for the other pieces"),
    Step("client.mid_request", Script.REQUEST, "some of the pieces are sent"),
    Step("client.told", Script.HOLD, "the bridge has said that it has it"),
    Step("client.mid_answer", Script.ANSWER, "some of the answer's pieces have come"),
    Step("client.answered", Script.SMALL, "the answer has come, the call is not resolved"),
    Step("client.refused", Script.BUSY, "a host says Busy, no other was asked"),
    Step("client.cancelling", Script.CANCEL, "the call has ended, the bridge was not told"),
)
