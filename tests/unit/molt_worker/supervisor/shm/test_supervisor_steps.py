"""The state table and what is done: each operation of clients, executors and the supervisor, in each state.

`layout.CHANNEL_TRANSITIONS` is the one table of the hand-over, but the steps are taken in C, in the binding and in the
supervisor. So everything that each of them can do is done here to a channel in every state it may be found in; and the
steps that were seen are the table's, with the same actors: none that it doesn't have, and none of it that nobody takes.
"""

import contextlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

from molt_accel.ipc.messages import Detach
from molt_accel.ipc.shm.layout import (
    CHANNEL_TRANSITIONS,
    Actor,
    ChannelState,
    epoch_of,
    generation_of,
    idle_word,
    slot_of,
    with_state,
)
from molt_worker.entrypoints.request import StopReason
from tests.support.handover import MAX_BYTES, core, put, reply, request, response
from tests.support.shm_testbed import GRACE_MS, Caller, MakeShmStage, Player, ShmStage

_MS = 1_000_000


class Scene:
    """A channel in some state, the client that has it, and the executor that has or had its request."""

    def __init__(self, stage: ShmStage, state: ChannelState) -> None:
        self.stage = stage
        self.caller = Caller(stage, 2)
        players = stage.players or stage.start()
        self.player: Player = next(
            each for each in players if stage.arena.slot_state(each.index) == core.SLOT_IDLE
        )
        self.channel = self.caller.publish(deadline_ns=time.monotonic_ns() + 1000 * GRACE_MS * _MS)
        self.player.claim()
        self.stopped = with_state(self.word, ChannelState.CLAIMED)
        index, word = self.channel.index, self.word
        if state is ChannelState.IDLE:
            put(stage.arena, index, idle_word(word))
        elif state is ChannelState.READY:  # the next one, of the same client
            put(stage.arena, index, idle_word(word))
            assert self.channel.publish(request(), 9, 0) == core.ADMITTED
        elif state is ChannelState.DONE:
            assert reply(self.player.slot, response()) == core.TRANSFERRED
        elif state is ChannelState.FAILED:
            assert self.player.slot.fail(7)
        else:
            put(stage.arena, index, with_state(word, state))
        assert stage.state(self.channel) is state

    @property
    def word(self) -> int:
        return int(self.stage.arena.word(self.channel.index))

    # -- a client's ----------------------------------------------------------------------------------------
    def publish(self) -> None:
        self.channel.publish(request(), 9, 0)

    def give_up(self) -> None:
        self.channel.give_up()

    def give_up_the_place(self) -> None:
        self.channel.give_up(True)

    def wait(self) -> None:
        self.channel.wait(0)
        self.channel.excess(0)
        self.channel.redirect(self.channel)
        self.channel.ring()

    def take(self) -> None:
        # Where it is another request's than the executor has answered.
        with contextlib.suppress(core.Corrupt):
            self.channel.take()

    def clear(self) -> None:
        self.channel.clear()

    # -- an executor's -------------------------------------------------------------------------------------
    def claim(self) -> None:
        if self.stage.state(self.channel) is ChannelState.READY:  # else it would wait for one that is
            other = next(each for each in self.stage.players if each is not self.player)
            assert other.slot.next() == core.REQUEST

    def begin(self) -> None:
        self.player.begin(0)

    def read(self) -> None:
        with contextlib.suppress(core.Corrupt):
            if self.stage.state(self.channel) is not ChannelState.CLAIMED:  # else it would wait for more
                self.player.slot.receive(MAX_BYTES)

    def reply(self) -> None:
        reply(self.player.slot, response())

    def fail(self) -> None:
        self.player.slot.fail(7)

    # -- the supervisor's ----------------------------------------------------------------------------------
    def look_at_deadlines(self) -> None:
        self.stage.supervisor._deadlines.look(time.monotonic_ns() + 2000 * GRACE_MS * _MS)

    def kill(self) -> None:
        deadlines, now_ns = self.stage.supervisor._deadlines, time.monotonic_ns()
        deadlines.stop(self.channel.index, self.stopped, StopReason.TIMED_OUT, now_ns)
        self.stage.look_at_stops(now_ns + 2 * GRACE_MS * _MS)

    def cancel(self) -> None:
        self.stage.supervisor.on_cancel()

    def reap(self) -> None:
        self.stage.supervisor._audit.end_of_dead(self.player.index, -9)

    def lose_the_client(self) -> None:
        self.caller.close()

    def reclaim(self) -> None:
        self.caller.send(Detach())

    def drain(self) -> None:
        self.stage.supervisor.drain()
        self.stage.supervisor.finished()


OPERATIONS: dict[Actor, list[Callable[[Scene], None]]] = {
    Actor.CLIENT: [
        # A request that finds no place is published and given up again: two steps, each of them here.
        *(Scene.publish, Scene.give_up, Scene.give_up_the_place),
        *(Scene.wait, Scene.take, Scene.clear),
    ],
    Actor.EXECUTOR: [Scene.claim, Scene.begin, Scene.read, Scene.reply, Scene.fail],
    Actor.SUPERVISOR: [
        *(Scene.look_at_deadlines, Scene.kill, Scene.cancel, Scene.reap),
        *(Scene.lose_the_client, Scene.reclaim, Scene.drain),
    ],
}


def _each() -> Iterator[tuple[Actor, Callable[[Scene], None], ChannelState]]:
    for actor, operations in OPERATIONS.items():
        for operation in operations:
            for state in ChannelState:
                yield actor, operation, state


def test_the_steps_taken_are_those_of_the_table(make_shm_stage: MakeShmStage) -> None:
    taken: dict[tuple[ChannelState, ChannelState], set[Actor]] = defaultdict(set)
    for actor, operation, state in _each():
        scene = Scene(make_shm_stage(worker_name=f"{operation.__name__}-{state.name}"), state)
        before = scene.word
        operation(scene)
        after = ChannelState(scene.word & 0xFF)
        what = f"{actor.name} by {operation.__name__}: {state.name} to {after.name}"
        if scene.word != before:
            assert (state, after) in CHANNEL_TRANSITIONS, what
            assert actor in CHANNEL_TRANSITIONS[state, after], what
            taken[state, after].add(actor)
            begins = (state, after) == (ChannelState.IDLE, ChannelState.READY)
            assert generation_of(scene.word) == generation_of(before) + begins, what
            if after in (ChannelState.IDLE, ChannelState.READY):
                assert scene.word & 0xFFFF_FF00 == 0, what  # nobody's
            elif state is not ChannelState.READY:
                assert (slot_of(scene.word), epoch_of(scene.word)) == (slot_of(before), epoch_of(before)), (
                    what
                )
    assert {step: frozenset(actors) for step, actors in taken.items()} == CHANNEL_TRANSITIONS


def _public(cls: Any) -> set[str]:
    return {name for name in vars(cls) if not name.startswith("_") and callable(getattr(cls, name))}


def test_no_operation_of_the_binding_is_left_out() -> None:
    """Whoever adds one here decides whether it takes a step."""
    looked_through = {
        "listen",
        "take",
        "wait",
        "clear",
        "give_up",
        "excess",
        "publish",
        "aim",
        "catch_up",
        "redirect",
        "ring",
        "announce",
    }
    assert _public(core.Channel) == looked_through
    assert _public(core.Slot) == {"begin", "fail", "next", "open", "receive", "reply", "take"}
