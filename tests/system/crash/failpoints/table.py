"""Every failpoint: who passes it, which moment it is, and how the matrix gets somebody there.

The one table of them. A process that passes a point which is not in it aborts, if any point is armed.
"""

import enum
from dataclasses import dataclass
from typing import Final


class Actor(enum.Enum):
    """Whose process passes a point."""

    CLIENT = "client"
    EXECUTOR = "executor"
    SUPERVISOR = "supervisor"
    FORKSERVER = "forkserver"


class Script(enum.Enum):
    """What is done so that a point is passed."""

    ECHO = "echo"  #: a small call
    LIMIT = "limit"  #: two calls at once of an entrypoint of which one may run
    LARGE = "large"  #: a call whose request and reply are larger than a ring
    NAP = "nap"  #: a call for each executor, so long that both sides sleep
    LOOP = "loop"  #: calls of an event loop that has no bell yet
    CANCEL = "cancel"  #: a call that is given up while it runs
    LATE = "late"  #: a call whose deadline passes while it runs
    STUCK = "stuck"  #: one that has to be killed for it
    CRASH = "crash"  #: a call that kills its executor
    LEASE = "lease"  #: more calls at once than the client has channels
    ATTACH = "attach"  #: a client that comes, and calls
    DETACH = "detach"  #: one that leaves
    DIE = "die"  #: one that is killed while its call runs
    START = "start"  #: a call while nobody serves the pool
    RELOAD = "reload"  #: SIGHUP to the supervisor, and a call
    DRAIN = "drain"  #: SIGTERM to the supervisor, and a call


@dataclass(frozen=True, slots=True)
class Point:
    """A moment between two steps."""

    name: str
    actors: tuple[Actor, ...]
    script: Script
    moment: str
    #: Why it isn't passed for certain while the pool has all it can do; empty: it is.
    not_saturated: str = ""


def _points(actor: Actor, *rows: tuple[str, Script, str] | tuple[str, Script, str, str]) -> tuple[Point, ...]:
    return tuple(Point(f"{actor.value}.{row[0]}", (actor,), *row[1:]) for row in rows)


_NOBODY_SLEEPS: Final = "executors that have always something to do need no waking"
_ANYBODY_STARTS: Final = "whichever client is first starts the pool; the others wait"
_IS_MARKED: Final = "a channel that is used all the time is marked already"

POINTS: Final[tuple[Point, ...]] = (
    *_points(
        Actor.CLIENT,
        ("starting", Script.START, "has the starter's lock, has not started the pool", _ANYBODY_STARTS),
        ("attaching", Script.ATTACH, "has asked for the arena, has not read the answer"),
        ("attached", Script.ATTACH, "has its channels, nobody watches the socket yet"),
        ("leasing", Script.LEASE, "has asked for more channels, has not got them"),
        ("leasing_bell", Script.LOOP, "has asked for a bell, has not got it"),
        ("leased", Script.ECHO, "has taken a channel, which is IDLE"),
        ("marking", Script.ATTACH, "READY is stored, the channel is not marked", _IS_MARKED),
        ("mid_payload", Script.LARGE, "a part of the request is in the ring"),
        ("undecided", Script.LIMIT, "READY is stored, and whether it is taken on is not decided"),
        ("published", Script.ECHO, "READY is stored, the count of published requests not"),
        ("announced", Script.ECHO, "the count is stored, no executor was woken"),
        ("mid_reply", Script.LARGE, "a part of the reply is read"),
        ("answered", Script.ECHO, "the outcome is there, and not taken"),
        ("taken", Script.ECHO, "the outcome is taken, the channel is IDLE and still leased"),
        ("gave_up", Script.CANCEL, "ABANDONED is stored, nobody was told"),
        ("cancelling", Script.CANCEL, "the executor was rung, the supervisor not told"),
        ("detaching", Script.DETACH, "has stopped using its channels, has not said so"),
        ("detached", Script.DETACH, "has said so, the socket is open"),
    ),
    *_points(
        Actor.EXECUTOR,
        ("forked", Script.CRASH, "has its process, has not touched its slot"),
        ("opened", Script.CRASH, "its slot is IDLE, the supervisor doesn't know"),
        (
            "entering",
            Script.LIMIT,
            "says that it runs an entrypoint with a limit, has not counted who else does",
        ),
        ("scanned", Script.ECHO, "has found the request whose turn it is, has not claimed it"),
        ("claimed", Script.ECHO, "CLAIMED is stored, its slot is still IDLE"),
        ("mid_request", Script.LARGE, "a part of the request is read"),
        ("begun", Script.ECHO, "its slot says what runs, the supervisor was not told of the deadline"),
        ("running", Script.ECHO, "user code runs, and has done nothing yet"),
        ("mid_reply", Script.LARGE, "a part of the reply is in the ring"),
        ("replied", Script.ECHO, "the reply is in the ring, DONE is not stored"),
        ("done", Script.ECHO, "DONE is stored, the client was not rung"),
        ("interrupted", Script.LATE, "in the handler of the soft interrupt, before it raises"),
        ("leaving", Script.RELOAD, "was told to retire, is about to exit"),
    ),
    *_points(
        Actor.SUPERVISOR,
        ("arena", Script.START, "the arena is made but for its magic"),
        ("bound", Script.START, "the socket has its name, nobody listens"),
        ("listening", Script.START, "clients can connect, no fork server was started"),
        ("accepted", Script.ATTACH, "a connection is accepted, and not known"),
        ("granting", Script.ATTACH, "channels are taken for a client, it was not told"),
        ("granted", Script.ATTACH, "it was told, and not greeted"),
        ("lending_bell", Script.LOOP, "a bell is taken for a client, it was not told"),
        ("lent_bell", Script.LOOP, "the bell is on its way to the client"),
        ("sweeping", Script.LATE, "no time to look at deadlines is stored: it is looking"),
        ("interrupting", Script.LATE, "the stop word is written, the signal not sent"),
        ("killing", Script.STUCK, "KILLING is stored, nobody was killed"),
        ("killed", Script.STUCK, "the kill is sent, the executor not reaped"),
        ("reaped", Script.CRASH, "the executor is reaped, its request is still CLAIMED"),
        ("repairing", Script.CRASH, "the reason is stored, FAILED is not"),
        ("failed", Script.CRASH, "FAILED is stored, the client was not rung"),
        ("unmarked", Script.ECHO, "an IDLE channel's mark is taken away, it was not looked at again"),
        ("resetting_slot", Script.CRASH, "the slot is free again, its epoch is the old one"),
        ("abandoning", Script.DIE, "a dead client's request is ABANDONED, its executor not told"),
        ("reclaiming", Script.DIE, "a dead client's channel is as new, and not free"),
        ("leaving", Script.DRAIN, "the socket's name is gone, the lock is held"),
    ),
    *_points(
        Actor.FORKSERVER,
        ("imported", Script.RELOAD, "the exports are imported, the supervisor doesn't know"),
        ("forking", Script.CRASH, "was told to fork an executor"),
        ("forked", Script.CRASH, "has forked it, has not said so"),
        ("reaped", Script.CRASH, "has reaped an executor, has not said so"),
        ("signalling", Script.LATE, "was told to signal an executor"),
    ),
    Point(
        "doorbell.parked",
        (Actor.CLIENT, Actor.EXECUTOR),
        Script.NAP,
        "a waiter has set the parked flag, and is about to sleep",
    ),
    Point(
        "doorbell.woken",
        (Actor.CLIENT, Actor.EXECUTOR),
        Script.NAP,
        "a waiter has slept, and was rung or not; its parked flag may be set",
    ),
    Point(
        "doorbell.ringing",
        (Actor.CLIENT,),
        Script.ECHO,
        "who wakes a sleeper has cleared its parked flag, and not posted",
        _NOBODY_SLEEPS,
    ),
    Point(
        "bell.ringing",
        (Actor.EXECUTOR,),
        Script.LOOP,
        "who rings an event loop has disarmed its bell, and not written",
    ),
    Point("doorbell.ringing", (Actor.EXECUTOR,), Script.NAP, "the same, an executor that rings a client"),
)
