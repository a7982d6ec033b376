"""An arena in this process's own memory, and what both sides do on it."""

import mmap
import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from molt_accel.errors import Status
from molt_accel.ipc.messages import Request, Response
from molt_accel.ipc.shm import arena as arenas
from molt_accel.ipc.shm.layout import ChannelState

core: Any = arenas.native()
RING = 4096
MAX_BYTES = 1 << 20
#: Longer than anything takes here; a hang shall fail.
PATIENCE_S = 60.0
#: The fact of a slot that counts requests, in these tests.
COUNTER = 16
T = TypeVar("T")


def new_arena(channels: int = 4, slots: int = 2, ring_bytes: int = RING) -> Any:
    return arena_in(new_memory(channels, slots, ring_bytes), channels, slots, ring_bytes)


def new_memory(channels: int = 4, slots: int = 2, ring_bytes: int = RING) -> mmap.mmap:
    return mmap.mmap(-1, core.arena_size(channels, slots, ring_bytes))


def arena_in(
    memory: mmap.mmap | memoryview, channels: int = 4, slots: int = 2, ring_bytes: int = RING
) -> Any:
    """An arena in some memory, whose waits never spin."""
    arena = core.Arena(memory, channels, slots, ring_bytes)
    arena.set_in_use(channels)
    return arena


def channel_of(arena: Any, index: int = 0, max_bytes: int = MAX_BYTES) -> Any:
    return core.Channel(arena, index, max_bytes)


def slot_of(arena: Any, index: int = 0, epoch: int = 0) -> Any:
    slot = core.Slot(arena, index, epoch)
    slot.open()
    return slot


def request(number: int = 1, payload: bytes = b"x", entry: str = "echo", **fields: Any) -> Request:
    return Request(number, entry, payload, **fields)


def response(number: int = 1, payload: bytes = b"y", status: Status = Status.OK, **fields: Any) -> Response:
    return Response(number, status, payload, **fields)


def publish(channel: Any, number: int = 1, payload: bytes = b"x") -> None:
    """Publish a request, in a queue with room."""
    assert channel.publish(request(number, payload), 1000, 0) == core.ADMITTED


def reply(slot: Any, answer: Response) -> int:
    code: int = slot.reply(answer, MAX_BYTES, COUNTER)
    return code


def one_of_each() -> tuple[Any, Any, Any]:
    """A new arena, a channel of it and a slot."""
    arena = new_arena()
    return arena, channel_of(arena), slot_of(arena)


def claimed(payload: bytes = b"x") -> tuple[Any, Any, Any]:
    """The same; the channel has a request, and the slot has claimed it."""
    arena, channel, slot = one_of_each()
    publish(channel, payload=payload)
    assert slot.next() == core.REQUEST
    return arena, channel, slot


def state_on(arena: Any, index: int = 0) -> ChannelState:
    return ChannelState(arena.word(index) & 0xFF)


def put(arena: Any, index: int, word: int) -> None:
    while not arena.step(index, arena.word(index), word):
        pass


class Running(Generic[T]):
    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._got: list[T] = []
        self._error: BaseException | None = None
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            self._got.append(self._work())
        except BaseException as exc:
            self._error = exc

    def result(self) -> T:
        """What came of it; fails if nothing does."""
        self.thread.join(PATIENCE_S)
        assert not self.thread.is_alive(), "it hangs"
        if self._error is not None:
            raise self._error
        return self._got[0]
