"""What the processes of a worker tell each other: supervisor, fork server and executors. Nothing else is in here.

Each is a control message (`molt_accel.ipc.messages.Message`). An executor is named by its number, from 1 on.
The supervisor sends `Spawn`, `Interrupt` and `Kill` to the fork server, which reports `Sources`, `Ready`, `Spawned` and
`Exited`. An executor sends `Hello`, `Wake` and `Recycle` to the supervisor.
"""

from __future__ import annotations

from typing import Final

import msgspec

from molt_accel.ipc.messages import U32, Codec, Hello, Message, StartFailed
from molt_accel.overload.priority import Priority

EXIT_BAD_EXPORTS: Final = 2  #: exit code of a worker, and of a fork server, whose exports can't be used


class Command(Message):
    """What the fork server is to do to one executor."""

    executor: U32


class Spawn(Command):
    """Fork an executor for a slot. The message brings its socket along."""

    slot: U32


class Interrupt(Command):
    """Send the executor the soft interrupt."""


class Kill(Command):
    """SIGKILL the executor and its process group."""


class ExportRow(msgspec.Struct, frozen=True, array_like=True):
    """What the supervisor must know of an export."""

    name: str
    codec_in: Codec
    codec_out: Codec
    target: str
    compiled: bool
    max_concurrency: int | None = None
    priority: Priority = Priority.NORMAL


class Sources(Message):
    """Sent before `Ready`: what the exports are made of; see `sources`."""

    files: list[tuple[str, int]]  #: those that were read, with their stamps
    folders: tuple[str, ...] = ()  #: those of the project's modules
    digest: int = 0  #: of all sources in these folders


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


class Wake(Message):
    """The executor runs a request whose deadline comes before the supervisor's next look at deadlines."""


class Recycle(Message):
    """The executor has served `max_requests`: replace it."""


TO_FORKSERVER: Final = msgspec.msgpack.Decoder(Spawn | Interrupt | Kill)
FROM_FORKSERVER: Final = msgspec.msgpack.Decoder(StartFailed | Sources | Ready | Spawned | Exited)
FROM_EXECUTOR: Final = msgspec.msgpack.Decoder(Hello | Wake | Recycle)
