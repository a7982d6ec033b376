"""The supervisor of a shared-memory pool: deadlines, deaths and clients. No request passes through it.

Executors and clients hand requests over between themselves, by steps on state words. This process takes the steps
that neither of them can: for who is dead, and against who doesn't stop. It sleeps while nothing of that is due.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from dataclasses import dataclass
from typing import Final

from molt_accel import codec
from molt_accel.config import Config
from molt_accel.errors import (
    AlreadyServed,
    MoltError,
    MoltStartFailed,
    MoltWorkerUnavailable,
    Status,
    WorkerVanished,
)
from molt_accel.ipc import control
from molt_accel.ipc.failpoint import failpoint
from molt_accel.ipc.frame import HELLO, PEEK_BYTES, Codec, Frame, Kind, format_id, peek
from molt_accel.ipc.shm import arena as arenas
from molt_accel.ipc.shm.layout import (
    HELD,
    MAX_WORD,
    NEVER,
    ChannelState,
    Failure,
    Gauge,
    Outcome,
    SlotGauge,
    failed_executor,
    failure_error,
    failure_word,
    generation_of,
    idle_word,
    serial_of,
    slot_of,
    state_of,
    with_state,
)
from molt_accel.version import __version__
from molt_worker.entrypoints.request import StopReason
from molt_worker.entrypoints.runner import error_response
from molt_worker.processes import forkserver as wire
from molt_worker.runtime.log import LogSink
from molt_worker.supervisor.base import Service
from molt_worker.supervisor.shm import spinning
from molt_worker.supervisor.shm.clients import Attachment, Channels, Clients
from molt_worker.supervisor.shm.pool import ShmPool

_MS: Final = 1_000_000
_S: Final = 1_000_000_000
#: How often channels of clients that are gone are looked at, until they are IDLE.
_RECLAIM_NS: Final = 20 * _MS
#: How long clients may take to give back channels that another one wants. They do so at once, if they get a processor.
_RECALL_NS: Final = _S
#: How long clients may take to leave a worker that drains; one that is stopped keeps no worker.
_LEAVE_NS: Final = 2 * _S
#: How long a pool that a client started waits for its first client.
_FIRST_CLIENT_NS: Final = 30 * _S
#: How long a pool that can't start stays to say so.
_TELL_NS: Final = 2 * _S
#: How often the arena is held against what is known, while there are clients: they all can write to it.
_AUDIT_NS: Final = _S
#: The least time between two looks at deadlines: what slots say must not keep this process busy.
_LOOK_NS: Final = _MS
#: How often a step is tried anew on a word that changes meanwhile. Honest ones change it once.
_TRIES: Final = 4
#: A client that is not the only one may have this share of the queue, so that the rest is left to others.
_SHARE: Final = 3 / 4


@dataclass(slots=True)
class Stop:
    """A running request that was told to stop; the grace time runs."""

    word: int  #: the claim, as far as it names slot, epoch and generation
    reason: StopReason
    kill_ns: int

    def means(self, word: int) -> bool:
        """Whether a state word still is of that claim."""
        return word >> 8 == self.word >> 8 and state_of(word) in HELD


@dataclass(slots=True)
class Orphan:
    """An executor whose request isn't its own any more, by no honest step; the grace time runs."""

    serial: int
    kill_ns: int


class ShmSupervisor(Service):
    """Keeps a named pool.

    Args:
        config: The worker's configuration.
        log: Where events go.
        linger: Stop some time after the last client has left.

    Raises:
        NoSharedMemory: there is no room for the arena, or no shared memory at all.
        AlreadyServed: somebody serves this name already.
        MoltWorkerUnavailable: the socket's directory can't be used.
    """

    def __init__(self, config: Config, log: LogSink, *, linger: bool) -> None:
        super().__init__(config, log)
        self._name = config.pool_name
        directory = config.pool_directory
        control.ensure_directory(directory)
        self._path = control.socket_path(directory, self._name)
        lock_fd = control.lock(directory, self._name, "lock", wait=False)
        if lock_fd is None:
            raise AlreadyServed(f"another worker serves the pool {self._name!r} already")
        self._lock_fd = lock_fd
        self._linger = linger
        self._leave_ns = time.monotonic_ns() + _FIRST_CLIENT_NS if linger else NEVER
        self._refuse_ns = NEVER
        self._drained_ns = NEVER
        self._start_failure = ""  # why it can't serve, until it has stopped
        self._ready = False
        self._stops: dict[int, Stop] = {}  # by channel
        self._orphans: dict[int, Orphan] = {}  # by slot
        self._facts: dict[int, int] = {}  # what the arena's facts must say, by `Gauge`
        self._used = 0  # channels from this one on were never granted
        self._audit_ns = 0  # when to audit next; 0: when there is a client
        geometry = arenas.Geometry.fitting(config.pool_size, config.max_queue, config.arena_mb * 1024 * 1024)
        self._arena, arena_fd = arenas.create(geometry)
        self._arena_fd = arena_fd
        self._channels = Channels(geometry.channels)
        self._capacity = min(config.max_queue, geometry.channels - config.pool_size)
        if self._capacity < config.max_queue:
            log.log("warning", "queue_limited", capacity=self._capacity, hint="raise MOLT_WORKER_ARENA_MB")
        self._write_facts(spinning.measure())
        self._pool: ShmPool = ShmPool(config, self._loop, log, self._counters, self, self._arena)
        self._clients = Clients(self._bind(), arena_fd, self._channels, self._loop, log, self._counters, self)

    def _write_facts(self, limits: spinning.SpinLimits) -> None:
        arena, config = self._arena, self._config
        arena.spin_ns = limits.spin_ns if config.spin_us is None else config.spin_us * 1000
        arena.executor_spinners = limits.executors
        self._cpus = limits.cpus
        for fact, value in (
            (Gauge.PID, os.getpid()),
            (Gauge.STARTED_NS, time.monotonic_ns()),
            (Gauge.CAPACITY, self._capacity),
            (Gauge.CLIENT_LIMIT, self._channels.count),
            (Gauge.SPIN_NS, arena.spin_ns),
            (Gauge.CLIENT_SPINNERS, limits.clients),
            (Gauge.EXECUTOR_SPINNERS, limits.executors),
            (Gauge.WAKE_NS, NEVER),
            (Gauge.POOL_SIZE, config.pool_size),
            (Gauge.GRACE_MS, config.grace_ms),
        ):
            self._set_gauge(fact, value)
        self._repair_header()

    def _set_gauge(self, fact: Gauge, value: int) -> None:
        self._facts[fact] = value
        self._arena.set_gauge(fact, value)

    def _repair_header(self) -> None:
        """Write again what only this process writes."""
        arena = self._arena
        arena.repair()
        arena.set_cpus(self._cpus)
        arena.in_use = self._used
        for fact, value in self._facts.items():
            if fact != Gauge.WAKE_NS:  # each look at deadlines writes it
                arena.set_gauge(fact, value)

    def _bind(self) -> socket.socket:
        listener = control.new_socket()
        listener.setblocking(False)
        if os.path.lexists(self._path):
            os.unlink(self._path)  # of a worker that was killed: the lock is ours
        listener.bind(self._path)
        self._path_inode = os.lstat(self._path).st_ino
        failpoint("supervisor.bound")
        return listener

    # -- Service ----------------------------------------------------------------------------------------

    def listen(self) -> None:
        """Accept clients from now on; `run` serves them."""
        self._clients.listen()
        failpoint("supervisor.listening")
        self._log.log("info", "worker_started", name=self._name, pid=os.getpid(), socket=self._path)

    def _on_start(self) -> None:
        self._loop.at(0 if self._leave_ns == NEVER else self._leave_ns)

    def _finished(self) -> bool:
        if self._stopping:
            return True
        if not self._draining:
            return False
        # A client that has not read yet that this worker drains may be about to publish: one moment without a request
        # is not the end of them. Whoever has read it leaves as soon as its calls have ended.
        if self._clients.count and time.monotonic_ns() < self._drained_ns:
            return False
        # What is DONE or FAILED is its client's to take, and needs no worker for it.
        return not any(
            state_of(self._arena.word(channel)) in HELD | {ChannelState.READY} for channel in self._in_use()
        )

    def _on_drain(self) -> None:
        self._log.log("info", "worker_draining", requests=sum(1 for _ in self._held()))
        self._set_gauge(Gauge.SERVING, 2)
        self._let_go_of_name()
        self._clients.tell_all(control.message(control.DRAINING))
        now_ns = time.monotonic_ns()
        self._drained_ns = now_ns + _LEAVE_NS
        self._loop.at(now_ns + _RECLAIM_NS)

    def _let_go_of_name(self) -> None:
        """From now on another worker may serve it."""
        if self._lock_fd >= 0:
            self._clients.stop_listening()
            with contextlib.suppress(FileNotFoundError):  # somebody tidied up
                if os.lstat(self._path).st_ino == self._path_inode:  # else another worker's, after tidying up
                    os.unlink(self._path)
            failpoint("supervisor.leaving")
            os.close(self._lock_fd)
            self._lock_fd = -1

    def _before_turn(self) -> None:
        pass

    def _after_turn(self) -> None:
        counters = self._counters
        self._set_gauge(Gauge.EXECUTOR_STARTS, counters.executor_starts)
        self._set_gauge(Gauge.EXECUTOR_DEATHS, counters.executor_deaths)
        self._set_gauge(Gauge.RECYCLED, counters.recycled)
        self._set_gauge(Gauge.RELOADS, counters.reloads)
        self._set_gauge(Gauge.BAD_FRAMES, counters.bad_frames)
        self._set_gauge(Gauge.FORKSERVER_PID, self._pool.forkserver_pid)
        if self._exports is not None:
            self._set_gauge(Gauge.EXPORTS, len(self._exports))
            self._set_gauge(Gauge.COMPILED, len(self._exports.compiled))

    def _on_timers(self, now_ns: int) -> None:
        self._look_at_deadlines(now_ns)  # whatever brings it here, for WAKE_NS may have been scribbled over
        self._look_at_stops(now_ns)
        if self._reclaim(now_ns) or self._draining:
            self._loop.at(now_ns + _RECLAIM_NS)
        if self._audit_ns and now_ns >= self._audit_ns:
            self._audit(now_ns)
        self._loop.at(self._audit_ns)
        self._clients.on_timers(now_ns)
        if now_ns >= self._refuse_ns:
            self._refuse_ns = NEVER
            self._clients.refuse_waiting()
        if now_ns >= self._leave_ns:
            self._leave_ns = NEVER
            if not self._clients.count:
                # What its clients left running has been told to stop, and has its grace time.
                if self._held():
                    self._leave_ns = now_ns + _RECLAIM_NS
                else:
                    self._log.log("info", "worker_left_alone", linger_ms=self._config.linger_ms)
                    self._stop_all(MoltWorkerUnavailable("nobody needs the worker any more"))
        for due_ns in (self._refuse_ns, self._leave_ns):
            self._loop.at(0 if due_ns == NEVER else due_ns)

    def _stop_all(self, why: MoltError) -> None:
        super()._stop_all(why)
        self._let_go_of_name()

    def _on_close(self) -> None:
        self._let_go_of_name()
        self._clients.close()
        os.close(self._arena_fd)

    # -- requests ---------------------------------------------------------------------------------------

    def _in_use(self) -> range:
        return range(self._used)

    def _held(self) -> list[tuple[int, int]]:
        """Channels and words of the requests that executors have."""
        words = [(channel, self._arena.word(channel)) for channel in self._in_use()]
        return [(channel, word) for channel, word in words if state_of(word) in HELD]

    def _look_at_deadlines(self, now_ns: int) -> None:
        """Stop what is late, and find out when to look again."""
        arena = self._arena
        # First, so that an executor that sets a deadline during the look tells of it.
        arena.set_gauge(Gauge.WAKE_NS, NEVER)
        failpoint("supervisor.sweeping")
        for channel, word in self._held():
            slot = slot_of(word)
            if (
                state_of(word) is not ChannelState.CLAIMED
                or slot >= arena.slots
                or self._stopped(channel, word)
            ):
                continue
            if arena.slot_gauge(slot, SlotGauge.SERIAL) != serial_of(channel, generation_of(word)):
                continue  # it has not begun, and will tell
            deadline_ns = arena.slot_gauge(slot, SlotGauge.DEADLINE_NS)
            # If it still runs, the deadline was its own.
            if 0 < deadline_ns <= now_ns and arena.word(channel) == word:
                self._stop(channel, word, StopReason.TIMED_OUT, now_ns)
        # Also those of requests that have ended: the next ones end later, and need not tell until then.
        deadlines = [arena.slot_gauge(slot, SlotGauge.DEADLINE_NS) for slot in range(arena.slots)]
        next_ns = min((deadline_ns for deadline_ns in deadlines if deadline_ns > now_ns), default=NEVER)
        if next_ns != NEVER:
            next_ns = max(next_ns, now_ns + _LOOK_NS)
        arena.set_gauge(Gauge.WAKE_NS, next_ns)
        self._loop.at(0 if next_ns == NEVER else next_ns)

    def _stop(self, channel: int, word: int, reason: StopReason, now_ns: int) -> None:
        """Interrupt softly; the grace time begins."""
        if self._stopped(channel, word):
            return
        stop = self._stops[channel] = Stop(word, reason, now_ns + self._config.grace_ms * _MS)
        self._pool.stop_request(slot_of(word), serial_of(channel, generation_of(word)), reason)
        self._loop.at(stop.kill_ns)

    def _stopped(self, channel: int, word: int) -> bool:
        stop = self._stops.get(channel)
        return stop is not None and stop.means(word)

    def _look_at_stops(self, now_ns: int) -> None:
        for channel, stop in list(self._stops.items()):
            word = self._arena.word(channel)
            if not stop.means(word):
                del self._stops[channel]
            elif now_ns < stop.kill_ns:
                self._loop.at(stop.kill_ns)
            elif self._pool.claims().get(slot := slot_of(word)) != (
                serial := serial_of(channel, generation_of(word))
            ):
                del self._stops[channel]  # it has just ended, or its word is forged
                self._repair_forged(channel, word)
            # If this fails it has just ended, and its executor may have another request by now.
            elif state_of(word) is ChannelState.KILLING or self._arena.step(
                channel, word, with_state(word, ChannelState.KILLING)
            ):
                failpoint("supervisor.killing")
                self._pool.kill_slot(slot, serial, **self._request_on(channel))
            else:
                self._loop.at(now_ns + _LOOK_NS)

    def _count(self, outcome: Outcome) -> None:
        self._arena.add_counter(Gauge.OUTCOMES + outcome)

    # -- what the pool tells ----------------------------------------------------------------------------

    def on_executor_ready(self) -> None:
        if not self._ready:
            self._ready = True
            self._set_gauge(Gauge.SERVING, 1)
            self._clients.tell_all(control.message(HELLO))

    def on_deadline_set(self) -> None:
        self._look_at_deadlines(time.monotonic_ns())

    def on_executor_reaped(self, slot: int, exit_code: int | None) -> None:
        number = self._arena.slot_gauge(slot, SlotGauge.NUMBER)
        crash = failure_word(Failure.FORKSERVER_DIED, number)
        if exit_code is not None:
            crash = failure_word(Failure.CRASHED, number, exit_code)
        self._orphans.pop(slot, None)
        claim = self._pool.claims().get(slot)
        for channel, word in self._held():
            # It tells of a claim before it makes it, so another may have been faster.
            if slot_of(word) == slot and serial_of(channel, generation_of(word)) == claim:
                self._repair(channel, word, crash)

    def _repair(self, channel: int, claimed: int, crash: int) -> None:
        """End a request that no executor has: its own is dead, or never was. `claimed` is its word."""
        arena = self._arena
        stop = self._stops.pop(channel, None)
        for _ in range(_TRIES):
            word = arena.word(channel)
            state = state_of(word)
            if word >> 8 != claimed >> 8 or state not in HELD:
                return
            request = self._request_on(channel)  # as long as it is its own
            forged = crash & 0xFF == Failure.CORRUPT
            outcome = Outcome.ProtocolError if forged else Outcome.WorkerCrashed
            if state is ChannelState.ABANDONED:
                outcome, after = Outcome.Cancelled, idle_word(word)
            else:
                after = with_state(word, ChannelState.FAILED)
                reason = crash
                if stop is not None and stop.means(word):
                    timed_out = stop.reason is StopReason.TIMED_OUT
                    outcome = Outcome.Timeout if timed_out else Outcome.Cancelled
                    reason = failure_word(Failure.TIMED_OUT, failed_executor(crash)) if timed_out else crash
                arena.set_failure(channel, reason)
            failpoint("supervisor.repairing")
            if arena.step(channel, word, after):  # else its client has given up just now
                failpoint("supervisor.failed")
                arena.ring_client(channel)
                self._count(outcome)
                if outcome is Outcome.WorkerCrashed:
                    error = failure_error(crash, str(request.get("entry", "?"))).detail
                    number = failed_executor(crash)
                    self._log.log("error", "executor_crashed", executor=number, error=error, **request)
                return

    def _request_on(self, channel: int) -> dict[str, object]:
        """What a log line says of a channel's request, if it can be seen: a large one is overwritten by its rest."""
        request = peek(self._arena.request_bytes(channel, PEEK_BYTES))
        if request is None:
            return {}
        return {"request_id": format_id(request.request_id), "entry": request.entry}

    def on_start_failed(self, why: str) -> None:
        self._clients.tell_all(error_response(Frame(Kind.REQUEST, 0), MoltStartFailed(why)))
        if self._linger and not self._clients.count:
            # It failed before whoever started this has attached: stay to say why.
            self._log.log("error", "start_failed", error=why)
            self._exit_code = wire.EXIT_BAD_EXPORTS
            self._start_failure = why
            self._leave_ns = self._loop.at(time.monotonic_ns() + _TELL_NS)
        else:
            super().on_start_failed(why)

    # -- what the clients tell --------------------------------------------------------------------------

    def grant_facts(self) -> dict[str, object]:
        config = self._config
        return {
            "max_frame_bytes": config.max_frame_bytes,
            "max_wait_ms": config.max_wait_ms,
            "grace_ms": config.grace_ms,
            "capacity": self._capacity,
            "spin_ns": self._facts[Gauge.SPIN_NS],
            "client_spinners": self._facts[Gauge.CLIENT_SPINNERS],
        }

    def is_leaving(self) -> bool:
        # Servers are restarted, or restart themselves, because their code was changed; who starts the pool by hand
        # says so with SIGHUP.
        if self._linger and not self._draining and not self._stopping and self._pool.is_outdated():
            if not self._clients.count:
                self._log.log("info", "worker_outdated", hint="its code was changed; a successor is started")
                self._stop_all(MoltWorkerUnavailable("the worker's code was changed"))
                return True
            self._reload()
        return False

    def refusal(self) -> MoltError | None:
        if self._draining or self._stopping:
            return WorkerVanished("the worker is stopping")
        if self._start_failure:
            return MoltStartFailed(f"the worker can't start: {self._start_failure}")
        return None

    def on_attached(self, client: Attachment) -> None:
        if self._ready:
            self._clients.tell(client, control.message(HELLO))

    def is_free(self, channel: int) -> bool:
        return state_of(self._arena.word(channel)) is ChannelState.IDLE

    def on_cancel(self, channel: int, generation: int) -> None:
        # The state word says all of it, also where another such message was lost on a full socket.
        del channel, generation
        self._stop_abandoned(time.monotonic_ns())

    def _stop_abandoned(self, now_ns: int) -> None:
        for channel, word in self._held():
            if state_of(word) is ChannelState.ABANDONED:
                self._stop(channel, word, StopReason.CANCELLED, now_ns)

    def on_clients_changed(self) -> None:
        clients = self._clients
        count = clients.count
        limit = self._channels.count
        if count > 1:
            limit = self._pool.size + max(1, int(self._capacity * _SHARE))
        self._set_gauge(Gauge.CLIENT_LIMIT, limit)
        self._set_gauge(Gauge.CLIENTS, count)
        self._used = max([self._used, *(max(client.channels) + 1 for client in clients if client.channels)])
        now_ns = time.monotonic_ns()
        if count:
            self._leave_ns = NEVER
        elif self._linger and self._leave_ns == NEVER:
            self._leave_ns = self._loop.at(now_ns + self._config.linger_ms * _MS + 1)
        if clients.anybody_waits and self._refuse_ns == NEVER:
            self._refuse_ns = self._loop.at(now_ns + _RECALL_NS)
        if self._reclaim(now_ns):
            self._loop.at(now_ns + _RECLAIM_NS)
        self._audit(now_ns)

    def _audit(self, now_ns: int) -> None:
        """Hold the arena against what is known, and put right what doesn't agree.

        What executors have, they tell in memory that no client can map; who has which channel is known here. So
        scribbling costs the requests that it hits, and nobody else, and nothing of it stays. Whatever changes while it
        is looked at is left for the next time.
        """
        arena = self._arena
        self._repair_header()
        self._pool.retire_replaced()
        granted = {channel for client in self._clients for channel in client.channels}
        settled = True
        for channel in self._in_use():
            word = arena.word(channel)  # before the claims: an executor tells of a claim before it makes it
            state = state_of(word)
            if state in HELD:
                # ABANDONED: the message that tells of it may have been lost. KILLING: unless by this process, somebody
                # wants its executor to wait for ever.
                if not self._repair_forged(channel, word) and state is not ChannelState.CLAIMED:
                    self._stop(channel, word, StopReason.CANCELLED, now_ns)
            elif state is ChannelState.IDLE or (channel in granted and isinstance(state, ChannelState)):
                continue
            elif self._is_claimed(channel):
                settled = False
            elif arena.step(channel, word, idle_word(word)):
                self._log.log("warning", "arena_repaired", channel=channel, state=int(state))
                arena.ring_client(channel)
        self._look_at_orphans(now_ns)
        settled = settled and not self._orphans and not self._held()
        waits = self._clients.count or not settled
        self._audit_ns = self._loop.at(now_ns + _AUDIT_NS) if waits else 0

    def _repair_forged(self, channel: int, word: int) -> bool:
        """End a request that its word, read before, says is held, but that no executor has. False if one has."""
        if serial_of(channel, generation_of(word)) in self._pool.claims().values():
            return False
        self._repair(channel, word, failure_word(Failure.CORRUPT, 0))
        return True

    def _is_claimed(self, channel: int) -> bool:
        """Whether an executor may still write to a channel, whatever its state word says."""
        return any(serial >> 32 == channel for serial in self._pool.claims().values())

    def _look_at_orphans(self, now_ns: int) -> None:
        """Stop executors whose request was taken away from them: nobody waits for it, and it has no deadline."""
        claims = self._pool.claims()
        for slot in self._orphans.keys() - claims.keys():
            del self._orphans[slot]
        for slot, serial in claims.items():
            word = self._arena.word(serial >> 32)
            orphan = self._orphans.pop(slot, None)
            if serial_of(serial >> 32, generation_of(word)) == serial and (
                # It tells of a claim before it makes it.
                state_of(word) is ChannelState.READY or (slot_of(word) == slot and state_of(word) in HELD)
            ):
                continue
            if orphan is None or orphan.serial != serial:  # it may have ended in this moment
                self._orphans[slot] = Orphan(serial, now_ns + self._config.grace_ms * _MS)
                self._pool.stop_request(slot, serial, StopReason.CANCELLED)
            elif now_ns < orphan.kill_ns:
                self._orphans[slot] = orphan
            else:
                self._pool.kill_slot(slot, serial, why="its request was taken away")

    def _reclaim(self, now_ns: int) -> bool:
        """Take back channels that their clients won't use again. True while some are not IDLE or not certain yet."""
        arena, freed = self._arena, False
        for _, channel in self._clients.orphaned():
            word = arena.word(channel)
            if state_of(word) is ChannelState.READY:  # before an executor is free for it
                arena.step(channel, word, idle_word(word))
        for client, channel in self._clients.orphaned():
            if channel not in client.channels:
                continue  # freed meanwhile: granting one to who waits comes back here
            word = arena.word(channel)
            state = state_of(word)
            if state is ChannelState.CLAIMED:
                if arena.step(channel, word, with_state(word, ChannelState.ABANDONED)):
                    failpoint("supervisor.abandoning")
                    self._stop(
                        channel, with_state(word, ChannelState.ABANDONED), StopReason.CANCELLED, now_ns
                    )
            elif state is ChannelState.ABANDONED:
                self._stop(channel, word, StopReason.CANCELLED, now_ns)
            elif state not in (ChannelState.IDLE, ChannelState.KILLING) and not self._is_claimed(channel):
                arena.step(channel, word, idle_word(word))
            if client.is_done_with(channel) and self.is_free(channel) and not self._is_claimed(channel):
                arena.reset_channel(channel)
                failpoint("supervisor.reclaiming")
                self._clients.freed(client, channel)
                freed = True
        if freed:  # after all of them: granting one to who waits comes back here
            self._clients.serve_waiting()
        return any(client.is_done_with(channel) for client, channel in self._clients.orphaned())

    def pong(self, ping: Frame) -> Frame:
        arena = self._arena
        self._stop_abandoned(time.monotonic_ns())  # pings can fill a socket too
        held = self._held()
        counters = self._counters.as_dict()
        counters["outcomes"] = self._outcomes()
        report = {
            "version": __version__,
            "transport": "shm",
            "name": self._name,
            "pid": os.getpid(),
            "ready": self._ready,
            "exports": [export.name for export in self._exports] if self._exports is not None else [],
            "compiled": self._exports.compiled if self._exports is not None else [],
            "executors": self._pool.describe(),
            "queue_depth": arena.ready(),
            "max_queue": self._capacity,
            "in_flight": len(held),
            "clients": self._clients.count,
            **counters,
        }
        answer = Frame(Kind.RESPONSE, ping.request_id, status=Status.OK, generation=ping.generation)
        answer.payload = codec.encode(Codec.MSGPACK, report)
        answer.queue_depth, answer.in_flight = arena.ready(), len(held)
        return answer

    def _outcomes(self) -> dict[str, int]:
        arena = self._arena
        counts = {
            outcome.name: arena.gauge(Gauge.OUTCOMES + outcome)
            + sum(arena.slot_gauge(slot, SlotGauge.OUTCOMES + outcome) for slot in range(arena.slots))
            for outcome in Outcome
        }
        # No codec has numbers beyond a word, and they may be anything.
        return {name: min(count, MAX_WORD) for name, count in counts.items() if count}
