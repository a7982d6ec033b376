"""A supervisor of shared memory whose executors the test plays: arena and sockets are real, but nothing is forked."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from molt_accel import __version__
from molt_accel.config import Config
from molt_accel.ipc import control
from molt_accel.ipc.frame import Item
from molt_accel.ipc.messages import SHM_FROM_WORKER, Attach, Attached, Grant, Message, Request
from molt_accel.ipc.shm.layout import ChannelState, Gauge, Outcome, SlotGauge
from molt_worker.processes.commands import Command, Interrupt, Kill, Wake
from molt_worker.supervisor.shm import spinning
from molt_worker.supervisor.shm.supervisor import ShmSupervisor
from tests.support import EXPORTS
from tests.support.handover import MAX_BYTES, channel_of, core, request
from tests.support.scripted_forkserver import Logged, staging

_MS = 1_000_000
#: Time passes as the test says; a slow machine must not come near any of these.
GRACE_MS = 100_000


def in_ms(ms: float) -> int:
    return time.monotonic_ns() + int(ms * _MS)


class Watched:
    """An arena that writes down what is done to it, and lets something happen just before that.

    Args:
        arena: The real one.
        names: The methods to write down.
    """

    def __init__(self, arena: Any, *names: str) -> None:
        self._arena = arena
        self._names = names
        self.done: list[tuple[Any, ...]] = []
        self.just_before: dict[str, Any] = {}  #: by method, called once

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._arena, name)
        if name not in self._names:
            return real

        def watched(*args: Any) -> Any:
            self.just_before.pop(name, lambda: None)()
            self.done.append((name, *args))
            return real(*args)

        return watched


class Player:
    """An executor, as far as arena and supervisor can tell."""

    def __init__(self, stage: "ShmStage", number: int, slot: int) -> None:
        self.stage = stage
        self.number = number
        self.index = slot
        claim = stage.supervisor.pool.words.claim_of(slot)
        self.slot = core.Slot(stage.arena, slot, stage.arena.slot_gauge(slot, SlotGauge.EPOCH), claim)
        stage.arena.set_slot_gauge(slot, SlotGauge.NUMBER, number)
        self.slot.open()

    @property
    def child(self) -> Any:
        return self.stage.forkserver.children[self.number]

    def claim(self, *, begin: bool = True) -> int:
        """Take the oldest request, and begin with it. Returns its channel."""
        assert self.slot.next() == core.REQUEST
        frame = self.slot.receive(MAX_BYTES)
        if begin:
            self.begin(frame.deadline_ns)
        return int(self.slot.channel)

    def take(self, caller: "Caller | None" = None, *args: Any, **request: Any) -> Any:
        """Have a client, else a new one, publish a request, and begin with it. Returns its channel."""
        channel = (caller or Caller(self.stage, 2)).publish(*args, **request)
        self.claim()
        self.stage.turn()
        return channel

    def begin(self, deadline_ns: int) -> None:
        if self.slot.begin(SlotGauge.SERIAL, deadline_ns, Gauge.WAKE_NS):
            self.child.send(Wake())

    def interrupted(self) -> list[int]:
        """Why it was told to stop what it has, and has not been before."""
        told = self.stage.told(self, Interrupt)
        return [self.stage.supervisor.pool.words.word_of(self.index).reason(self.slot.serial)] * told

    def killed(self) -> bool:
        return self.stage.told(self, Kill) > 0

    def die(self, code: int = -signal.SIGKILL) -> None:
        self.child.sock.close()
        self.stage.forkserver.exited(self.number, code)
        self.stage.turn()


class Caller:
    def __init__(
        self,
        stage: "ShmStage",
        channels: int,
        version: str = __version__,
        *,
        observer: bool = False,
        nested: bool = False,
    ) -> None:
        self.stage = stage
        self.sock = control.new_socket()
        stage.callers.append(self)
        self.sock.setblocking(False)
        self.sock.connect(stage.supervisor._name.path)
        control.send(self.sock, Attach(version, observer, channels, {}, nested))
        stage.turn()
        self.heard = self.received()
        self.channels = self.granted(self.heard)

    def received(self) -> list[Item | None]:
        found: list[Item | None] = []
        while True:
            try:
                message, fds = control.receive(self.sock, SHM_FROM_WORKER, max_fds=1)
            except BlockingIOError:
                return found
            except ConnectionResetError:
                message, fds = None, []
            control.close_all(fds)
            found.append(message)
            if message is None:
                return found

    @staticmethod
    def granted(heard: list[Item | None]) -> list[int]:
        return [index for item in heard if isinstance(item, Attached | Grant) for index in item.channels]

    def send(self, message: Message | Request) -> None:
        control.send(self.sock, message)
        self.stage.turn()

    def publish(self, index: int | None = None, deadline_ns: int = 0, payload: bytes = b"x") -> Any:
        channel = channel_of(self.stage.arena, self.channels[0] if index is None else index)
        frame = request(payload=payload, deadline_ns=deadline_ns)
        assert channel.publish(frame, 1000, 0) == core.ADMITTED
        return channel

    def close(self) -> None:
        self.sock.close()
        self.stage.turn()


class ShmStage(Logged):
    """The supervisor, its log, and time that passes as the test says."""

    def __init__(self, linger: bool = False, **options: Any) -> None:
        super().__init__()
        defaults: dict[str, Any] = {
            "worker_name": "pool", "runtime_dir": os.environ["MOLT_RUNTIME_DIR"], "exports": EXPORTS,
            "executors": 2, "max_queue": 8, "grace_ms": GRACE_MS,
        }  # fmt: skip
        self.config = Config.load(environ={}, **{**defaults, **options})
        self.supervisor = ShmSupervisor(self.config, self.sink, linger=linger)
        self.supervisor.listen()
        self.arena: Any = self.supervisor._ledger.arena
        self.players: list[Player] = []
        self.callers: list[Caller] = []
        self._told: dict[tuple[int, type[Command]], int] = {}

    def watch(self, *names: str) -> Watched:
        """Write down what supervisor and pool do to the arena."""
        watched = Watched(self.arena, *names)
        self.supervisor._ledger.arena = self.supervisor._slots.arena = watched  # type: ignore[assignment]
        return watched

    def turn(self) -> None:
        for _ in range(30):
            for forkserver in self.forkservers:
                forkserver.obey()
            self.supervisor._loop.at(1)
            self.supervisor._loop.turn(lambda now_ns: None)

    def pass_time(self, ms: float = 0) -> int:
        """Have the supervisor look at everything that has a time, as if so much had passed. Returns that time."""
        now_ns = in_ms(ms)
        self.supervisor.on_timers(now_ns)
        self.turn()
        return now_ns

    def look_at_stops(self, now_ns: int) -> None:
        """What the supervisor does at this time with what it has told to stop."""
        for channel, word in self.supervisor._deadlines.look_at_stops(now_ns):
            self.supervisor._audit.end_forged(channel, word)

    def start(self) -> list[Player]:
        self.supervisor.pool.start_forkserver()
        self.forkserver.loaded()
        self.turn()
        return self.play_those_that_start()

    def play_those_that_start(self) -> list[Player]:
        """Have executors that were forked say that they are ready. Returns them."""
        known = {player.number for player in self.players}
        new = []
        for number, child in self.forkserver.children.items():
            if number not in known:
                new.append(Player(self, number, child.slot))
                child.greet()
        self.turn()
        self.players += new
        return new

    def told(self, player: Player, command: type[Command]) -> int:
        """How often a fork server was told this about an executor, since that was asked last."""
        self.turn()
        total = sum(forkserver.told.count(command(player.number)) for forkserver in self.forkservers)
        before = self._told.get((player.number, command), 0)
        self._told[player.number, command] = total
        return total - before

    def state(self, channel: Any) -> ChannelState:
        return ChannelState(self.arena.word(channel.index) & 0xFF)

    def outcomes(self) -> dict[str, int]:
        counts = {outcome.name: self.arena.gauge(Gauge.OUTCOMES + outcome) for outcome in Outcome}
        return {name: count for name, count in counts.items() if count}

    def close(self) -> None:
        super().close()
        for caller in self.callers:
            caller.sock.close()
        for executor in self.supervisor.pool._executors.values():
            executor.sock.close()
        self.supervisor.close()
        self.supervisor._loop.close()


MakeShmStage = Callable[..., ShmStage]


@pytest.fixture
def make_shm_stage(monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeShmStage]:
    """Makes supervisors, whose fork servers are fakes."""
    monkeypatch.setattr(spinning, "measure", lambda: spinning.SpinLimits(0, 0, 0, 1, False))
    with staging(ShmStage, monkeypatch) as make:
        yield make
