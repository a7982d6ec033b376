"""What the processes of a worker tell each other: supervisor, fork server and executors. Nothing else is in here.

Each is a control message (`molt_accel.ipc.messages.Message`). An executor is named by its number, from 1 on.
"""

from __future__ import annotations

from typing import Final

import msgspec

from molt_accel.ipc.messages import U32, Codec, Hello, Message, StartFailed

EXIT_BAD_EXPORTS: Final = 2  #: exit code of a worker, and of a fork server, whose exports can't be used

# -- from the supervisor to the fork server -----------------------------------------------------------------


class Command(Message):
    """Something to be done to one executor."""

    executor: U32


class Spawn(Command):
    """Fork an executor, on the socket that comes along, for a slot."""

    slot: U32


class Interrupt(Command):
    """Send it the soft interrupt."""


class Kill(Command):
    """SIGKILL it and its process group."""


# -- from the fork server to the supervisor -----------------------------------------------------------------


class ExportRow(msgspec.Struct, frozen=True, array_like=True):
    """One export, as far as the supervisor has to know it."""

    name: str
    codec_in: Codec
    codec_out: Codec
    target: str
    compiled: bool


class Sources(Message):
    """Before `Ready`: the files of the project's own modules that were imported, and their mtimes in nanoseconds."""

    files: list[tuple[str, int]]


class Ready(Message):
    """The exports are imported, and executors can be forked."""

    exports: list[ExportRow]


class Spawned(Message):
    """An executor was forked."""

    executor: U32
    pid: U32


class Exited(Message):
    """An executor was reaped, or could not be forked. The exit code is negative for a signal."""

    executor: U32
    exit_code: int


# -- from an executor to the supervisor, beside `Hello` -----------------------------------------------------


class Wake(Message):
    """It runs a request whose deadline comes before the supervisor's next look at deadlines."""


class Recycle(Message):
    """It has served `max_requests`: replace it."""


TO_FORKSERVER: Final = msgspec.msgpack.Decoder(Spawn | Interrupt | Kill)
FROM_FORKSERVER: Final = msgspec.msgpack.Decoder(StartFailed | Sources | Ready | Spawned | Exited)
FROM_EXECUTOR: Final = msgspec.msgpack.Decoder(Hello | Wake | Recycle)
