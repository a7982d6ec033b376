"""The supervisor of a shared-memory pool: no request passes through it.

Clients and executors hand requests over between themselves, by steps on state words. The supervisor takes the steps
that neither of them can: against executors that don't stop (`deadlines`), for executors that are dead (`audit`), and
for clients that are gone (`reclaim`). It sleeps while none of these is due.
"""

from __future__ import annotations

import os
import time
from dataclasses import asdict
from typing import Final

from molt_accel import errors
from molt_accel.config import Config
from molt_accel.durations import NS_PER_MS, NS_PER_S
from molt_accel.errors import MoltError
from molt_accel.ipc.failpoint import failpoint
from molt_accel.ipc.frame import Item
from molt_accel.ipc.messages import Attach, Draining, Request, Response, StartFailed
from molt_accel.ipc.shm import arena as arenas
from molt_accel.ipc.shm.layout import (
    HELD,
    MAX_WORD,
    NEVER,
    ChannelState,
    Gauge,
    Outcome,
    Serving,
    slot_of,
    state_of,
)
from molt_accel.process import identity
from molt_worker.entrypoints.exports import ExportTable
from molt_worker.processes.commands import Recycle, Wake
from molt_worker.processes.handles import ExecutorHandle, StopWords
from molt_worker.processes.pool import Pool
from molt_worker.runtime.log import LogSink
from molt_worker.supervisor import report
from molt_worker.supervisor.base import Worker
from molt_worker.supervisor.shm import snapshot, spinning
from molt_worker.supervisor.shm.audit import Audit
from molt_worker.supervisor.shm.bells import Bells
from molt_worker.supervisor.shm.clients import Channels, Clients
from molt_worker.supervisor.shm.deadlines import Deadlines
from molt_worker.supervisor.shm.ledger import Ledger, request_serial
from molt_worker.supervisor.shm.name import Name
from molt_worker.supervisor.shm.reclaim import reclaim
from molt_worker.supervisor.shm.slots import Slots

#: How often to look at channels of clients that are gone, until they are IDLE.
_RECLAIM_NS: Final = 20 * NS_PER_MS
#: How long a worker that drains waits for its clients, some of which may be stopped.
_CLIENTS_LEAVE_NS: Final = 2 * NS_PER_S
_FIRST_CLIENT_NS: Final = 30 * NS_PER_S  #: how long a pool that a client started waits for its first client
_TELL_NS: Final = 2 * NS_PER_S  #: how long a pool that can't start stays to say so
#: How much longer than an import may take clients wait for executors with newer code.
_RELOAD_SLACK_MS: Final = 1000
_NESTED_NS: Final = NS_PER_S  #: how long executors of other pools may stay attached without a call, at least
_SHARE: Final = 3 / 4  #: the share of the queue that one client of several may have, so that others find room


class ShmSupervisor:
    """Keeps a named pool of executors, and the shared memory through which clients reach them.

    Args:
        linger: Stop `linger_ms` after the last client has left.

    Raises:
        NoSharedMemory: there is no room for the arena, or no shared memory at all.
        AlreadyServed: another worker serves this name.
        MoltWorkerUnavailable: the socket's directory can't be used.
    """

    def __init__(self, config: Config, log: LogSink, *, linger: bool) -> None:
        self._worker = worker = Worker(config, log)
        self._config, self._log, self._loop, self._counters = config, log, worker.loop, worker.counters
        self._name = Name(config.pool_directory, config.pool_name)
        self._linger = linger
        self._identity = identity.of_starter(config.identity())
        self._idle_until_ns = time.monotonic_ns() + _FIRST_CLIENT_NS if linger else NEVER
        self._nested_only = False  # all clients are executors of other pools
        self._ended = 0  # how many requests had ended when that was looked at
        self._drained_ns = NEVER
        # Why it can't serve, until it has stopped.
        self._start_failure: errors.MoltWorkerUnavailable | None = None
        geometry = arenas.Geometry.fitting(config.pool_size, config.max_queue, config.arena_mb * 1024 * 1024)
        arena, self._arena_fd = arenas.create(geometry)
        self._capacity = min(config.max_queue, geometry.channels - config.pool_size)
        if self._capacity < config.max_queue:
            log.log("warning", "queue_limited", capacity=self._capacity, hint="raise MOLT_WORKER_ARENA_MB")
        limits = spinning.measure()
        arena.spin_ns = limits.spin_ns if config.spin_us is None else config.spin_us * 1000
        arena.executor_spinners = limits.executors
        self._ledger = ledger = Ledger(arena, limits)
        ledger[Gauge.SERVING] = Serving.STARTING
        ledger[Gauge.PID] = os.getpid()
        ledger[Gauge.STARTED_NS] = time.monotonic_ns()
        ledger[Gauge.CAPACITY] = self._capacity
        ledger[Gauge.CLIENT_LIMIT] = geometry.channels
        ledger[Gauge.SPIN_NS] = arena.spin_ns
        ledger[Gauge.CLIENT_SPINNERS] = limits.clients
        ledger[Gauge.EXECUTOR_SPINNERS] = limits.executors
        ledger[Gauge.WAKE_NS] = NEVER
        ledger[Gauge.POOL_SIZE] = config.pool_size
        ledger[Gauge.GRACE_MS] = config.grace_ms
        ledger.repair()
        words = StopWords(arena.slots)
        self._bells = Bells(arena, log)  # before any process is forked that shall have them
        self._slots = Slots(config, arena, words, self._bells.writing_ends)
        self.pool = Pool(config, self._loop, log, self._counters, words, self._slots, self)
        grace_ns = config.grace_ms * NS_PER_MS
        self._deadlines = Deadlines(grace_ns, self._loop, log, self.pool, ledger)
        self._audit = Audit(grace_ns, self._loop, log, self.pool, self._slots, ledger, self._deadlines)
        facts = {
            name: getattr(config, name)
            for name in ("max_frame_bytes", "max_wait_ms", "grace_ms", "queue_target_ms")
        }
        facts |= {"capacity": self._capacity, "executors": config.pool_size}
        facts |= {"spin_ns": arena.spin_ns, "client_spinners": limits.clients}
        self._channels = Channels(
            geometry.channels, lambda channel: state_of(ledger.arena.word(channel)) is ChannelState.IDLE
        )
        self._clients = Clients(
            *(self._name.bind(), self._arena_fd, self._channels, self._bells, facts),
            *(self._loop, log, self._counters, self),
        )

    def listen(self) -> None:
        """Accept clients from now on. `run` serves them."""
        self._clients.listen()
        self._loop.at(0 if self._idle_until_ns == NEVER else self._idle_until_ns)
        failpoint("supervisor.listening")
        name, path = self._config.pool_name, self._name.path
        self._log.log("info", "worker_started", name=name, pid=os.getpid(), socket=path)

    def run(self) -> int:
        """Serve until nobody needs the pool any more or a signal says so. Returns the exit code."""
        return self._worker.run(self)

    # -- Supervisor -------------------------------------------------------------------------------------

    def settle(self) -> None:
        self._loop.guard(self._write_counters)

    def _write_counters(self) -> None:
        for gauge in (*snapshot.RESTARTS, Gauge.BAD_FRAMES):
            self._ledger[gauge] = getattr(self._counters, gauge.name.lower())
        self._ledger[Gauge.FORKSERVER_PID] = self.pool.forkserver_pid

    def finished(self) -> bool:
        if self._worker.stopping:
            return True
        if not self._worker.draining:
            return False
        # A client that has not read yet that this worker drains may publish another request. A client that has read it
        # leaves as soon as its calls have ended.
        if self._clients.count and time.monotonic_ns() < self._drained_ns:
            return False
        # Clients take what is DONE or FAILED without the worker.
        return not any(state_of(word) in HELD | {ChannelState.READY} for _, word in self._ledger.words())

    def on_timers(self, now_ns: int) -> None:
        self._log.bound()
        self._deadlines.look(now_ns)  # each time, because a client may have written over WAKE_NS
        for channel, word in self._deadlines.look_at_stops(now_ns):
            self._audit.end_forged(channel, word)
        if self._reclaim(now_ns) or self._worker.draining:
            self._loop.at(now_ns + _RECLAIM_NS)
        self._audit.on_timers(now_ns, self._clients)
        self._clients.on_timers(now_ns)
        self._answer_asking(now_ns)
        if now_ns >= self._idle_until_ns:
            self._idle_until_ns = NEVER
            if not self._clients.keep and not self._clients.asking:
                # Requests that the clients left running have been told to stop, and have their grace time.
                if self._ledger.held():
                    self._idle_until_ns = now_ns + _RECLAIM_NS
                elif self._clients.count and self._is_used():
                    self._linger_for_nested(now_ns)
                else:
                    self._log.log("info", "worker_left_alone", linger_ms=self._config.linger_ms)
                    self.stop(errors.MoltWorkerUnavailable("nobody needs the worker any more"))
        self._loop.at(0 if self._idle_until_ns == NEVER else self._idle_until_ns)

    def drain(self) -> None:
        self._log.log("info", "worker_draining", requests=len(self._ledger.held()))
        self._ledger[Gauge.SERVING] = Serving.DRAINING
        self._let_go_of_name()
        self._clients.tell_all(Draining())
        for client in self._clients.asking:
            self._clients.refuse(client, errors.WorkerVanished("the worker is stopping"))
        now_ns = time.monotonic_ns()
        self._drained_ns = now_ns + _CLIENTS_LEAVE_NS
        self._loop.at(now_ns + _RECLAIM_NS)

    def stop(self, why: MoltError) -> None:
        """Stop now. Clients see the end of their connections, and decide what becomes of their requests."""
        del why
        self._worker.stopping = True
        self.pool.stop()
        self._let_go_of_name()

    def close(self) -> None:
        self._let_go_of_name()
        self._clients.close()
        self._bells.close()
        os.close(self._arena_fd)

    def _let_go_of_name(self) -> None:
        self._clients.stop_listening()
        self._name.let_go()

    def _reclaim(self, now_ns: int) -> bool:
        return reclaim(self._clients, self.pool.words, self._ledger, self._deadlines, now_ns)

    # -- what the pool tells ----------------------------------------------------------------------------

    def on_exports(self, exports: ExportTable) -> None:
        self._ledger[Gauge.EXPORTS] = len(exports)
        self._ledger[Gauge.COMPILED] = len(exports.compiled)
        if self._ledger.name_entries(exports):
            self._log.log(
                "warning", "entries_limited", exports=len(exports), hint="those left out have no estimates"
            )

    def on_start_failed(self, why: MoltError) -> None:
        self._clients.tell_all(StartFailed(errors.to_wire(why)))
        error = self._worker.start_failed(why)
        if self._linger and not self._clients.count:
            # The client that has started this worker has not attached yet: stay to tell it why.
            self._start_failure = error
            self._idle_until_ns = self._loop.at(time.monotonic_ns() + _TELL_NS)
        else:
            self.stop(error)

    def on_reload_failed(self, why: MoltError) -> None:
        """Refuse clients that came with newer code. A pool that was started by hand is not asked for that."""
        if self._linger:
            for client in self._clients.asking:
                error = (
                    f"the pool {self._config.pool_name!r} can't load the code that was changed: {why.detail}"
                )
                self._clients.refuse(client, errors.MoltStartFailed(error))

    def on_executor_ready(self, executor: ExecutorHandle) -> None:
        del executor
        self._ledger[Gauge.SERVING] = max(self._ledger[Gauge.SERVING], Serving.SERVING)
        self._clients.greet()

    def on_message(self, executor: ExecutorHandle, message: Item) -> bool:
        if isinstance(message, Wake):
            self._deadlines.look(time.monotonic_ns())
        elif isinstance(message, Recycle):
            self.pool.recycle(executor, "max_requests")
        else:
            return False
        return True

    def on_closed(self, executor: ExecutorHandle) -> None:
        """Do nothing yet: until it is reaped, an executor may still write to the arena."""

    def on_reaped(self, executor: ExecutorHandle, exit_code: int | None) -> None:
        failpoint("supervisor.reaped")
        self._audit.end_of_dead(executor.slot, exit_code)
        self._slots.reset(executor.slot)

    # -- what the clients tell and ask ------------------------------------------------------------------

    def make_way(self) -> bool:
        # A server that attaches was often restarted because its code was changed.
        worker = self._worker
        if worker.draining or worker.stopping or not self.pool.is_outdated():
            return False
        if not self._linger:
            self._log.log(
                "warning",
                "worker_outdated",
                hint="its code was changed; SIGHUP has it import the exports anew",
            )
        elif self._clients.count:
            worker.reload(self.pool)
        else:
            self._log.log("info", "worker_outdated", hint="its code was changed; a successor is started")
            self.stop(errors.MoltWorkerUnavailable("the worker's code was changed"))
            return True
        return False

    def reload_ms(self) -> int:
        return self._config.start_timeout_ms + _RELOAD_SLACK_MS if self._older_code_serves() else 0

    def _older_code_serves(self) -> bool:
        """Whether an executor with older code may take a request that is published from now on.

        One that has a request, and that was told to exit, takes no other.
        """
        older = self.pool.older()
        if not older or self.pool.is_reloading:
            return bool(older)
        claims = self.pool.words.claims()
        held = {(slot_of(word), request_serial(channel, word)) for channel, word in self._ledger.held()}
        return any((executor.slot, claims.get(executor.slot)) not in held for executor in older)

    def _answer_asking(self, now_ns: int) -> None:
        """Answer clients that wait for executors with newer code, if these serve, or if that takes too long."""
        if not self._clients.asking:
            return
        if not self._older_code_serves():
            # Only the newest code may serve them. `make_way` may start another reload, so ask again after it.
            stops = self.make_way()
            if not stops and not self._older_code_serves():
                for client in self._clients.asking:
                    self._clients.admit(client)
        for client in self._clients.asking:
            if now_ns >= client.answer_ns:
                error = (
                    f"the pool {self._config.pool_name!r} runs older code than this process, and executors with newer "
                    f"code did not start within {self._config.start_timeout_ms} ms; see its log"
                )
                self._clients.refuse(client, errors.MoltStartFailed(error))
        self._loop.at(now_ns + _RECLAIM_NS)

    def refusal(self, message: Attach) -> MoltError | None:
        if self._worker.draining or self._worker.stopping:
            return errors.WorkerVanished("the worker is stopping")
        differing = identity.differences(self._identity, message.identity) if message.identity else []
        if differing:
            return errors.MoltIncompatible(
                f"the pool {self._config.pool_name!r} runs other code or on other data than this process would: they "
                f"differ in {identity.listed(differing)}. Start both alike, use another MOLT_WORKER_NAME, or name "
                "variables that don't matter in MOLT_IGNORED_ENV"
            )
        return self._start_failure

    def on_cancel(self) -> None:
        self._deadlines.stop_abandoned(time.monotonic_ns())

    def on_clients_changed(self) -> None:
        clients = self._clients
        count = clients.count
        share = self.pool.size + max(1, int(self._capacity * _SHARE))
        limit = share if count > 1 else self._channels.count
        self._ledger[Gauge.CLIENT_LIMIT] = limit
        self._ledger[Gauge.CLIENTS] = count
        for client in clients:
            self._ledger.use(max(client.channels, default=-1))
        now_ns = time.monotonic_ns()
        if clients.keep:
            self._idle_until_ns = NEVER
        elif self._linger and count:
            self._linger_for_nested(now_ns)
        elif self._linger and (self._nested_only or self._idle_until_ns == NEVER):
            self._idle_until_ns = self._loop.at(now_ns + self._config.linger_ms * NS_PER_MS + 1)
        self._nested_only = bool(count) and not clients.keep
        if self._reclaim(now_ns):
            self._loop.at(now_ns + _RECLAIM_NS)
        self._audit.run(now_ns, clients)

    def _linger_for_nested(self, now_ns: int) -> None:
        """Look again later, whether the executors of other pools that are the only clients have called by then."""
        self._ended = sum(self._outcomes().values())
        self._idle_until_ns = self._loop.at(now_ns + max(self._config.linger_ms * NS_PER_MS, _NESTED_NS))

    def _is_used(self) -> bool:
        """Whether a request has ended since `_linger_for_nested` counted, one is queued, or none can be served yet."""
        waits = self._ledger.arena.ready() or not self._clients.greets
        return bool(waits) or self._ended != sum(self._outcomes().values())

    def pong(self, ping: Request) -> Response:
        # Pings can fill a socket, so that a cancellation is lost.
        self._deadlines.stop_abandoned(time.monotonic_ns())
        arena = self._ledger.arena
        return report.pong(
            ping,
            self.pool,
            self._counters,
            executors=self._slots.describe(self.pool.living()),
            queue_depth=arena.ready(),
            in_flight=len(self._ledger.held()),
            transport="shm",
            name=self._config.pool_name,
            ready=self._clients.greets,
            max_queue=self._capacity,
            clients=self._clients.count,
            outcomes=self._outcomes(),
            shed=snapshot.shed(arena),
            entries={name: asdict(each) for name, each in snapshot.entries(arena).items()},
        )

    def _outcomes(self) -> dict[str, int]:
        gauge = self._ledger.arena.gauge
        counts = {each.name: gauge(Gauge.OUTCOMES + each) + self._slots.outcomes(each) for each in Outcome}
        # A client may have written any numbers, and codecs have none beyond a word.
        return {name: min(count, MAX_WORD) for name, count in counts.items() if count}
