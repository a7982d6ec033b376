"""Channels of clients that are gone, or that returned them with something on them: ended, and granted to others.

`clients` explains when a channel may be granted to another client.

| state of such a channel | means | done |
|---|---|---|
| READY | no executor has begun | IDLE, all of them before any other |
| CLAIMED | an executor has the request | ABANDONED; it is stopped |
| ABANDONED | it is stopped, or has to be | it is stopped |
| KILLING | its executor is being killed | nothing: it becomes FAILED |
| DONE, FAILED or no state, and no executor has a request on it | nobody will take the outcome | IDLE |
| IDLE, no executor has a request on it, and its client is done with it | it is nobody's | reset, and free |
"""

from __future__ import annotations

from molt_accel.ipc.failpoint import failpoint
from molt_accel.ipc.shm.layout import ChannelState, idle_word, state_of, with_state
from molt_worker.entrypoints.request import StopReason
from molt_worker.processes.handles import StopWords
from molt_worker.supervisor.shm.clients import Clients
from molt_worker.supervisor.shm.deadlines import Deadlines
from molt_worker.supervisor.shm.ledger import Ledger


def reclaim(clients: Clients, words: StopWords, ledger: Ledger, deadlines: Deadlines, now_ns: int) -> bool:
    """Take back channels that their clients won't use again. True: look again soon, as something is still on one."""
    arena, taken_back = ledger.arena, False
    for _, channel in clients.quarantined():
        word = arena.word(channel)
        if state_of(word) is ChannelState.READY:  # before an executor claims it
            arena.step(channel, word, idle_word(word))
    for client, channel in clients.quarantined():
        if channel not in client.channels:
            continue  # it was taken back meanwhile: a grant to a client that waits calls this function again
        word = arena.word(channel)
        state = state_of(word)
        if state is ChannelState.CLAIMED:
            abandoned = with_state(word, ChannelState.ABANDONED)
            if arena.step(channel, word, abandoned):
                failpoint("supervisor.abandoning")
                deadlines.stop(channel, abandoned, StopReason.CANCELLED, now_ns)
        elif state is ChannelState.ABANDONED:
            deadlines.stop(channel, word, StopReason.CANCELLED, now_ns)
        elif state not in (ChannelState.IDLE, ChannelState.KILLING) and not words.is_claimed(channel):
            arena.step(channel, word, idle_word(word))
        is_idle = state_of(arena.word(channel)) is ChannelState.IDLE
        if client.is_done_with(channel) and is_idle and not words.is_claimed(channel):
            arena.reset_channel(channel)
            failpoint("supervisor.reclaiming")
            clients.take_back(client, channel)
            taken_back = True
    if taken_back:  # after all of them: a grant to a client that waits calls this function again
        clients.serve_waiting()
    return any(client.is_done_with(channel) for client, channel in clients.quarantined())
