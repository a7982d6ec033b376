"""A client that harms: a process of its own, with a program of attacks on the arena and on the control socket.

As a program: ``python -m tests.system.hostile.offender SOCKET ATTACK SECONDS SEED``. It attacks for so long, and
writes how
often it did; it lets go of nothing, its end has to do.
"""

import array
import contextlib
import mmap
import os
import random
import socket
import struct
import sys
import time
from collections.abc import Callable
from typing import Any

from molt_accel import __version__
from molt_accel.ipc import control
from molt_accel.ipc.frame import Item, encode
from molt_accel.ipc.messages import (
    PING,
    SHM_FROM_WORKER,
    Attach,
    CancelChannel,
    Detach,
    Draining,
    Grant,
    GrantBell,
    Lease,
    LeaseBell,
    Request,
    Return,
)
from molt_accel.ipc.shm import arena as arenas
from molt_accel.ipc.shm import attach
from molt_accel.ipc.shm.layout import ChannelState, Gauge, SlotGauge, generation_of, state_of, with_state
from tests.support.frames import message_of, message_saying

_WORD = 2**64
_PAGE = 4096
_HEADER = 2 * _PAGE
#: Where the header has its words; arena.h, molt_header.
_TICKETS, _PUBLISHED, _CPUS, _IN_USE, _BELLS = 64, 128, 192, 256, 832
#: arena.h, molt_slot.
_SLOT_BYTES = 64 + 64 + 32 * 8 + 2 * 128 * 8
#: Arrays of words, one for each channel; the last three say of which entrypoint a request is, its turn, when it began.
_ARRAYS = 6
#: arena.h, molt_entry.
_ROWS, _ROW_BYTES = 1024, 128


def _lines(n: int) -> int:
    """So many bytes, in whole cache lines."""
    return (n + 63) & ~63


class Offender:
    """An attached client with the arena's bytes in its hands."""

    def __init__(self, path: str, chance: random.Random) -> None:
        self.path, self.chance = path, chance
        self.sock = self.connected()
        fd, self.grant = attach._ask(self.sock, Attach(__version__, False, attach.FIRST_BATCH))
        self.memory = mmap.mmap(fd, os.fstat(fd).st_size)
        self.arena: Any = arenas.attach(fd)
        self.mine: list[int] = self.grant.channels
        while not self.mine:  # others have them all just now, and are asked for some
            control.send(self.sock, Lease(attach.FIRST_BATCH))
            message, _ = control.receive(self.sock, SHM_FROM_WORKER)
            assert message is not None
            if isinstance(message, Grant):
                self.mine = message.channels
        self.sock.setblocking(False)  # it reads nothing from here on, and must not wait for who answers
        self.kept: list[socket.socket] = []
        # What is aimed at is there: a channel's number follows its doorbell, an executor's pid follows its doorbell
        # and two words.
        assert struct.unpack_from("<Q", self.memory, self.channel_at(self.mine[-1]) + 64)[0] == self.mine[-1]
        pid = self.arena.slot_gauge(0, SlotGauge.PID)
        assert struct.unpack_from("<Q", self.memory, self.slots_at + 128)[0] == pid

    def connected(self) -> socket.socket:
        """Another connection."""
        sock = attach.connect(self.path)
        assert sock is not None
        return sock

    # -- words of the arena ---------------------------------------------------------------------------------
    def anything(self) -> int:
        """A word: likely ones, and any."""
        return self.chance.choice(
            [0, 1, 2**63, _WORD - 1, self.chance.randrange(_WORD), self.chance.randrange(64)]
        )

    def channel(self) -> int:
        """A channel: mostly one that is in use, be it whose it may."""
        return self.chance.randrange(max(1, min(self.arena.in_use, self.arena.channels)))

    def put(self, channel: int, word: int) -> None:
        """Set a state word."""
        struct.pack_into("<Q", self.memory, _HEADER + 8 * channel, word)

    def words(self) -> None:
        """Any state word of any channel."""
        self.put(self.channel(), self.anything())

    def states(self) -> None:
        """Each state, possible or not, on a word that is right but for that."""
        channel = self.channel()
        self.put(channel, self.arena.word(channel) & ~0xFF | self.chance.choice([*ChannelState, 7, 99, 255]))

    def executors(self) -> None:
        """Slots and epochs, those that there are and others."""
        channel = self.channel()
        slot = self.chance.choice([*range(self.arena.slots + 1), 0xFFFF])
        word = self.arena.word(channel) & ~0xFFFFFF00 | slot << 8 | self.chance.randrange(256) << 24
        self.put(channel, word)

    def taken_away(self) -> None:
        """The running request of another is IDLE, DONE, READY again, of another generation, or about to be killed."""
        for channel in range(min(self.arena.in_use, self.arena.channels)):
            word = self.arena.word(channel)
            if state_of(word) is ChannelState.CLAIMED:
                states = (
                    ChannelState.IDLE, ChannelState.DONE, ChannelState.READY, ChannelState.FAILED,
                    ChannelState.KILLING, ChannelState.ABANDONED,
                )  # fmt: skip
                self.put(
                    channel, self.chance.choice([*(with_state(word, s) for s in states), word + (1 << 32)])
                )

    def forged_claims(self) -> None:
        """Each executor has a request on this one's channels, and shall be stopped for it."""
        for channel in self.mine[:8]:
            slot = self.chance.randrange(self.arena.slots)
            inc = self.arena.slot_gauge(slot, SlotGauge.EPOCH) & 0xFF
            generation = generation_of(self.arena.word(channel)) or 1
            state = self.chance.choice([ChannelState.CLAIMED, ChannelState.ABANDONED, ChannelState.KILLING])
            self.put(channel, state | slot << 8 | inc << 24 | generation << 32)
        self.say(CancelChannel(self.mine[0], 1))

    def doorbells(self) -> None:
        """Counts, who sleeps, and every byte of the semaphores."""
        at = self.channel_at(self.channel())
        if self.chance.random() < 0.3:
            at = self.slots_at + _SLOT_BYTES * self.chance.randrange(self.arena.slots)
        what = self.chance.randrange(3)
        if what == 0:
            struct.pack_into("<Q", self.memory, at, self.anything())
        else:
            struct.pack_into("<Q", self.memory, at + 8, 1)
            byte = at + 16 + self.chance.randrange(32)
            self.memory[byte] = self.chance.choice([0, 1, 0x7E, 0x81, self.chance.randrange(256)])

    def bells(self) -> None:
        """Which bells are armed, and which doorbell or bell is rung for a channel."""
        armed = _BELLS + 64 * self.chance.randrange(64)
        struct.pack_into("<Q", self.memory, armed, self.anything())
        rung = self.chance.choice([2**32 + self.chance.randrange(70), self.anything()])
        struct.pack_into("<Q", self.memory, self.channel_at(self.channel()) + 64, rung)

    def channel_at(self, channel: int) -> int:
        """Where a channel begins, with its doorbell."""
        size = arenas.native().arena_size
        channels, slots, ring_bytes = self.arena.channels, self.arena.slots, self.arena.ring_bytes
        stride = size(2, slots, ring_bytes) - size(
            1, slots, ring_bytes
        )  # what else they need fits the same lines
        return int(self.memory.size() - (channels - channel) * stride)

    @property
    def slots_at(self) -> int:
        """Where the slots begin, each with its doorbell."""
        return (self.rows_at + _ROWS * _ROW_BYTES + _PAGE - 1) // _PAGE * _PAGE

    @property
    def rows_at(self) -> int:
        """Where the table of entrypoints begins."""
        return self.marks_at + _lines(8 * self.words_of_marks)

    @property
    def marks_at(self) -> int:
        """Where the marks of channels begin, behind the flags of who spins."""
        arrays = _ARRAYS * _lines(8 * self.arena.channels)
        return _HEADER + arrays + _lines(self.arena.channels) + _lines(self.arena.slots)

    @property
    def words_of_marks(self) -> int:
        """How many there are."""
        return (self.arena.channels + 63) // 64

    def empty_requests(self) -> None:
        """READY, with nothing in the ring, or lengths that lie. Few: each may hold an executor until it gives up."""
        channel = self.mine[0]
        if state_of(self.arena.word(channel)) is not ChannelState.IDLE:
            self.put(channel, self.arena.word(channel) >> 32 << 32)
            return
        size = arenas.native().arena_size
        geometry = self.arena.channels, self.arena.slots, self.arena.ring_bytes
        stride = size(2, *geometry[1:]) - size(1, *geometry[1:])
        ring = self.memory.size() - (geometry[0] - channel) * stride + stride - 2 * geometry[2]
        lies = encode(Request(1, "echo", b"x" * self.chance.randrange(200)))
        lies = lies[:4] + self.chance.randbytes(self.chance.randrange(90)) + lies[100:]
        self.memory[ring : ring + len(lies)] = lies
        for at in (ring - 256, ring - 192):  # request.head and tail, just before the data
            struct.pack_into("<Q", self.memory, at, self.chance.choice([len(lies), 3, _WORD - 1]))
        self.put(
            channel,
            ChannelState.READY | ((generation_of(self.arena.word(channel)) + 1) & 0xFFFFFFFF or 1) << 32,
        )
        struct.pack_into("<Q", self.memory, _PUBLISHED, self.chance.randrange(_WORD))

    def tickets(self) -> None:
        """Who is first, and how many there were."""
        array_bytes = (8 * self.arena.channels + 63) & ~63
        struct.pack_into("<Q", self.memory, _HEADER + array_bytes + 8 * self.channel(), self.anything())
        struct.pack_into("<Q", self.memory, self.chance.choice([_TICKETS, _PUBLISHED]), self.anything())

    def header(self) -> None:
        """Geometry, processors, channels in use, and every fact."""
        struct.pack_into("<Q", self.memory, 8 * self.chance.randrange(5), self.anything())
        struct.pack_into("<Q", self.memory, self.chance.choice([_CPUS, _IN_USE]), self.anything())
        self.arena.set_gauge(self.chance.choice([*Gauge, *range(48)]), self.anything())

    def slots(self) -> None:
        """States, facts and counts of slots, and who shall retire."""
        slot = self.chance.randrange(self.arena.slots)
        self.arena.set_slot_gauge(slot, self.chance.randrange(32), self.anything())
        if self.chance.random() < 0.01:
            self.arena.retire(slot)

    def flags(self) -> None:
        """Failure words and who spins."""
        self.arena.set_failure(self.channel(), self.anything())
        array_bytes = (8 * self.arena.channels + 63) & ~63
        at = _HEADER + _ARRAYS * array_bytes + self.chance.randrange(self.arena.channels)
        self.memory[at] = 1

    def marks(self) -> None:
        """Which channels are looked at: all, none, and some that don't exist."""
        at = self.marks_at + 8 * self.chance.randrange(self.words_of_marks)
        struct.pack_into("<Q", self.memory, at, self.chance.choice([0, _WORD - 1, self.anything()]))

    def rows(self) -> None:
        """Rows of entrypoints: those that there are, new ones, and all at once."""
        row = self.rows_at + _ROW_BYTES * self.chance.randrange(_ROWS)
        if self.chance.random() < 0.8 and (known := self.arena.entries()):
            name = self.chance.choice(known).name.encode()
            row = max(self.memory.find(name.ljust(64, b"\0"), self.rows_at, self.slots_at) - 64, self.rows_at)
        if self.chance.random() < 0.01:
            for number in range(_ROWS):
                struct.pack_into("<Q", self.memory, self.rows_at + _ROW_BYTES * number, number + 1)
        struct.pack_into("<Q", self.memory, row + 8 * self.chance.randrange(8), self.anything())

    def places(self) -> None:
        """What slots say that they run: any entrypoint, of those with a limit too."""
        ids = [row.id for row in self.arena.entries()] or [1]
        slot = self.slots_at + _SLOT_BYTES * self.chance.randrange(self.arena.slots)
        struct.pack_into("<Q", self.memory, slot + 64 + 16, self.chance.choice([*ids, 0, self.anything()]))

    def turns(self) -> None:
        """Of which entrypoint requests are, when it is their turn, and when they were begun."""
        array = _HEADER + self.chance.randrange(3, _ARRAYS) * _lines(8 * self.arena.channels)
        ids = [row.id for row in self.arena.entries()]
        struct.pack_into(
            "<Q", self.memory, array + 8 * self.channel(), self.chance.choice([*ids, self.anything()])
        )

    # -- the control socket ---------------------------------------------------------------------------------
    def say(self, message: Item) -> None:
        """A message, on the connection that has attached; another one if that was ended."""
        try:
            control.send(self.sock, message)
        except BlockingIOError:
            return
        except OSError:
            self.sock.close()
            self.sock = self.connected()
            self.sock.setblocking(False)

    def raw(self, data: bytes, fds: list[int] | None = None) -> None:
        """A packet, on a connection of its own."""
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        with self.connected() as sock, contextlib.suppress(OSError):
            sock.setblocking(False)
            sock.sendmsg([data], rights)

    def garbage(self) -> None:
        """Packets that are no messages: cut, too long, of any bytes."""
        good = encode(Attach(__version__, False, 1))
        cut = good[: self.chance.randrange(1, len(good))]
        self.raw(self.chance.choice([cut, good + b"x", self.chance.randbytes(200), b"\0" * 140_000]))

    def bad_payloads(self) -> None:
        """Messages whose payload is not what it should be, or is nested deeply."""
        payloads = [
            b"", b"\xc1", b"\x91" * 5000, b"\x81\x90\x01", self.chance.randbytes(50), b"\xcf" + b"\xff" * 8,
        ]  # fmt: skip
        names = ["Attach", "Return", "Lease", "LeaseBell", "Recall", "?", PING]
        wrong = {
            self.chance.choice(["channels", "count", "version"]): self.chance.choice(
                [[0, True, -1], 2**63, {}]
            )
        }
        named = message_saying(type=self.chance.choice(names), **wrong)
        self.raw(self.chance.choice([named, message_of(self.chance.choice(payloads))]))

    def wrong_order(self) -> None:
        """Each message before and after attaching, twice, and with numbers of all sizes."""
        number = self.anything() % 2**32
        channels = [0, number]
        others = [
            Lease(number), Return(channels), Detach(), Grant(channels), Draining(),
            CancelChannel(number, number), LeaseBell(), GrantBell(number),
        ]  # fmt: skip
        self.raw(encode(self.chance.choice(others)))

    def floods(self) -> None:
        """Pings and cancels, whose answers are not read."""
        for _ in range(50):
            if self.chance.random() < 0.5:
                with contextlib.suppress(OSError):
                    control.send(self.sock, Request(7, PING))
            self.say(CancelChannel(self.chance.randrange(200), 0))
            self.say(LeaseBell())

    def descriptors(self) -> None:
        """Descriptors that nobody asked for, its own socket among them."""
        with self.connected() as other:
            self.raw(b"x" * 100, [other.fileno(), 0, 1, 2] * self.chance.randrange(1, 50))

    def half_open(self) -> None:
        """Connections that never say what they are."""
        with contextlib.suppress(OSError):
            sock = control.new_socket()
            sock.setblocking(False)
            self.kept.append(sock)
            sock.connect(self.path)

    def children(self) -> None:
        """A child holds the connection of a parent that has died."""
        if os.fork():
            os.wait()
            return
        sock = self.connected()
        control.send(sock, Attach(__version__, False, 1))
        if not os.fork():
            time.sleep(0.05)
        os._exit(0)


#: Attacks on shared memory, which all clients can write to.
ON_MEMORY: dict[str, Callable[[Offender], None]] = {
    each.__name__: each
    for each in (
        *(Offender.words, Offender.states, Offender.executors, Offender.taken_away, Offender.forged_claims),
        *(Offender.empty_requests, Offender.tickets, Offender.header, Offender.slots, Offender.flags),
        *(Offender.doorbells, Offender.bells, Offender.rows, Offender.places, Offender.turns, Offender.marks),
    )
}
#: Attacks on the control socket.
ON_SOCKET: dict[str, Callable[[Offender], None]] = {
    each.__name__: each
    for each in (
        *(Offender.garbage, Offender.bad_payloads, Offender.wrong_order, Offender.floods),
        *(Offender.descriptors, Offender.half_open, Offender.children),
    )
}


def main(path: str, attack: str, seconds: str, seed: str) -> None:
    """Attack, and say how often."""
    offender = Offender(path, random.Random(int(seed)))
    attacks = {**ON_MEMORY, **ON_SOCKET}
    until, count = time.monotonic() + float(seconds), 0
    before = bytes(offender.memory[: 4 * _PAGE])
    elsewhere = {
        each.__name__
        for each in (Offender.doorbells, Offender.bells, Offender.rows, Offender.places, Offender.turns)
    }
    changed = attack in ON_SOCKET or attack in elsewhere
    while time.monotonic() < until:
        attacks[attack](offender)
        count += 1
        changed = changed or bytes(offender.memory[: 4 * _PAGE]) != before
        time.sleep(offender.chance.choice([0, 0, 0.0005]))
    print(count if changed else 0, flush=True)
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
