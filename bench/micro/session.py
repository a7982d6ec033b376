"""Runs the benchmark from start to stop: peers up, measured in turn under each condition, stopped.

All peers stay up through all rounds and one at a time is asked. A peer that polls rests until its turn. The order is
drawn anew for each round and size, from a seed.
"""

from __future__ import annotations

import os
import random
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from bench.core import BenchError, environment
from bench.core.cpu import Surroundings, Watch, cpu_ns, idle_percent, pids_of, spent_ns
from bench.core.processes import Family, wait_gone
from bench.core.progress import Reporter, clock
from bench.core.results import Heading
from bench.micro.burners import Burners, by_session, cores_to_burn
from bench.micro.client_process import PROGRAM, ClientProcess, PeerFailed, begin_window
from bench.micro.options import CONDITIONS, QUOTA, QUOTA_PROCESSORS, START_S, Layout, Options, clients_of
from bench.micro.payloads import size_name
from bench.micro.peers.base import Unavailable
from bench.micro.peers.table import PEERS, row
from bench.micro.quota import NoQuota, Quota
from bench.micro.report.document import KIND, build
from bench.micro.report.figures import Batch, Idle, Measured, Window

PATIENCE_S = 60.0
"""How much longer than planned an answer may take, on a machine whose cores are all busy."""
GONE_S = 5.0
POLLER_S = 1.0
"""How long the idle processor time of a peer that polls is watched: it takes all of a core."""


@dataclass(slots=True)
class Running:
    """A peer with its client processes."""

    name: str
    clients: list[ClientProcess]
    family: Family
    mark: str

    @property
    def polls(self) -> bool:
        """Whether it has to rest while others are measured."""
        return PEERS[self.name].polls


def turns(running: Sequence[Running], chance: random.Random) -> list[Running]:
    """The peers in a random order, but with the judged ones one after another: they are compared with each other.

    What else happens on the machine changes within seconds, and a turn of all peers takes longer than that.
    """
    drawn = chance.sample(running, len(running))
    others = [peer for peer in drawn if not PEERS[peer.name].judged]
    place = chance.randrange(len(others) + 1)
    return others[:place] + [peer for peer in drawn if PEERS[peer.name].judged] + others[place:]


@dataclass(slots=True)
class Session:
    """One run of the benchmark. `run` may be called once; nothing that it started outlives it."""

    options: Options
    reporter: Reporter
    _measured: Measured = field(default_factory=Measured)
    _not_run: dict[str, str] = field(default_factory=dict)
    _failed: dict[str, str] = field(default_factory=dict)
    _left_out: dict[str, str] = field(default_factory=dict)
    _left_over: list[str] = field(default_factory=list)
    _surroundings: dict[str, Surroundings] = field(default_factory=dict)
    _chance: random.Random = field(init=False)

    def run(self, command: str) -> dict[str, Any]:
        """Measures everything and returns the results document; `command` is how it was called.

        Raises BenchError for options that aren't allowed and where no peer can run, and KeyboardInterrupt
        when it was interrupted.
        """
        self.options.validate()
        self._chance = random.Random(self.options.seed)
        heading = Heading(KIND, command)
        self._announce()
        # Short: Unix sockets below it have little more than a hundred bytes for their path.
        with tempfile.TemporaryDirectory(prefix="molt-micro-") as scratch:
            directory = Path(scratch)
            self._measure_latency(directory)
            if self.options.quota_peers:
                self._measure_quota(directory)
            if not self._measured.batches and not self._measured.idle:
                not_run = self._not_run | self._left_out
                reasons = "; ".join(f"{name}: {reason}" for name, reason in not_run.items())
                raise BenchError(f"no peer can run here: {reasons}")
            if self.options.callers_at_once:
                self._measure_throughput(directory)
        made = build(
            heading,
            self.options,
            self._measured,
            settings=environment.settings(os.environ),
            not_run=self._not_run,
            failed=self._failed,
            left_out=self._left_out,
            surroundings=self._surroundings,
            left_over=self._left_over,
            by_session=by_session(),
        )
        cleaned: dict[str, Any] = environment.without_paths(
            made, environment.places(directory, self.options.out)
        )
        return cleaned

    def _announce(self) -> None:
        options, seconds = self.options, self.options.expected_s()
        self.reporter.expect(seconds)
        self.reporter.note(
            f"{len(options.chosen_peers)} peers, {options.round_count} rounds; sizes "
            f"{', '.join(map(size_name, options.payload_sizes))}; conditions {', '.join(options.conditions)}; "
            f"several callers: {len(options.callers_at_once)} peers. About {clock(seconds)} minutes."
        )

    # -- peers ---------------------------------------------------------------------------------------------

    @contextmanager
    def _up(
        self,
        directory: Path,
        names: Sequence[str],
        workers: int,
        clients: Callable[[str], int] = lambda _: 1,
        within: Callable[[str], Sequence[str]] = lambda _: (),
    ) -> Iterator[list[Running]]:
        """Starts the peers that can run, and stops them in the end.

        `clients` says how many client processes a peer has, and `within` what stands before their command.
        """
        running: list[Running] = []
        with ExitStack() as stack:
            stack.callback(self._stop, running)
            for name in names:
                if name not in self._not_run:
                    self.reporter.running(f"starting {name}")
                    self._start(name, directory, workers, clients(name), within(name), running)
                self.reporter.done(START_S * clients(name))
            yield running

    def _start(
        self,
        name: str,
        directory: Path,
        workers: int,
        clients: int,
        within: Sequence[str],
        running: list[Running],
    ) -> None:
        scratch = Path(tempfile.mkdtemp(prefix=f"{name[:8]}-", dir=directory))
        mark = f"{name}-{secrets.token_hex(6)}"
        command = (*within, *PROGRAM)
        made = [ClientProcess(scratch / f"client-{number}.log", mark, command) for number in range(clients)]
        peer = Running(name, made, Family(made[0].pid, mark), mark)
        # In the list before it is asked anything: whatever happens then, it is stopped.
        running.append(peer)
        try:
            for number, client in enumerate(made):
                client.ask(
                    "start",
                    timeout_s=PATIENCE_S,
                    peer=name,
                    scratch=str(scratch),
                    workers=workers,
                    first=number == 0,
                )
                if peer.polls:
                    client.ask("rest", timeout_s=PATIENCE_S)
        except Unavailable as error:
            self._drop(peer, running, str(error))
        except PeerFailed as error:
            self._drop(peer, running, str(error), failed=True)

    def _drop(self, peer: Running, running: list[Running], reason: str, *, failed: bool = False) -> None:
        """Stops a peer that can't run or failed; the others go on."""
        self.reporter.note(f"{peer.name}: {'failed' if failed else 'not run'}: {reason}")
        self._not_run[peer.name] = reason
        if failed:
            self._failed[peer.name] = reason
        running.remove(peer)
        self._stop([peer])

    def _stop(self, running: list[Running]) -> None:
        seen: list[psutil.Process] = []
        for peer in running:
            seen += [member.process for member in peer.family.members()]
            for client in peer.clients:
                client.ask_to_stop()
        for peer in running:
            for client in peer.clients:
                if not client.close():
                    self._left_over.append(f"client process of {peer.name}")
        left = wait_gone(seen, GONE_S)
        for process in left:
            try:
                self._left_over.append(f"{process.pid} {process.name()}")
                process.kill()
            except psutil.Error:
                continue
        wait_gone(left, GONE_S)
        running.clear()

    @contextmanager
    def _turn(self, peer: Running) -> Iterator[None]:
        """The peer's turn: one that rests is awake until it ends."""
        if peer.polls:
            self._each(peer, "wake")
        yield
        if peer.polls:
            self._each(peer, "rest")

    def _each(self, peer: Running, do: str) -> None:
        for client in peer.clients:
            client.ask(do, timeout_s=PATIENCE_S)

    def _in_turns(
        self, running: list[Running], what: str, measure: Callable[[Running], None], seconds: float = 0.0
    ) -> None:
        """Measures each peer, in a random order, planned to take `seconds` each; leaves out from then on what fails."""
        for peer in turns(running, self._chance):
            self.reporter.running(f"{what}: {peer.name}")
            try:
                with self._turn(peer):
                    measure(peer)
            except PeerFailed as error:
                self._drop(peer, running, str(error), failed=True)
            self.reporter.done(seconds)

    # -- latency -------------------------------------------------------------------------------------------

    def _measure_latency(self, directory: Path) -> None:
        conditions = [name for name in self.options.conditions if name != QUOTA]
        if not conditions and not self.options.idle_seconds:
            return
        workers = self.options.latency_executors
        with self._up(directory, self.options.called_peers, workers) as running:
            if self.options.idle_seconds:
                with self._up(directory, self.options.only_watched_peers, workers) as others:
                    if watched := [*running, *others]:
                        self._measure_idle(watched)
            for condition in conditions:
                self._under(condition, running)

    def _measure_quota(self, directory: Path) -> None:
        """Measures under the quota: the peers are started once more, each with all its processes in a group."""
        try:
            with Quota(QUOTA_PROCESSORS) as quota:
                within = {name: quota.entering(name) for name in self.options.quota_peers}
                names, workers = self.options.quota_peers, self.options.latency_executors
                with self._up(directory, names, workers, within=within.__getitem__) as running:
                    self._under(QUOTA, running)
        except NoQuota as error:
            self.reporter.note(f"{QUOTA}: not measured: {error}")
            self._left_out[QUOTA] = str(error)

    def _under(self, condition: str, running: list[Running]) -> None:
        if not running:
            return
        with self._condition(condition, running):
            for number in range(self.options.round_count):
                self.reporter.note(f"{CONDITIONS[condition]}: round {number + 1}")
                self._latency_round(running, condition, number)

    def _latency_round(self, running: list[Running], condition: str, number: int) -> None:
        for size in self.options.sizes_under(condition):
            for raw in self.options.raw_too(size):
                # A peer that failed with one size is not asked with the next.
                running[:] = [peer for peer in running if peer.name not in self._failed]
                names = [info.name for info in self.options.under(condition, size, raw, number)]
                self._in_turns(
                    [peer for peer in running if peer.name in names],
                    f"{condition}, round {number + 1}, {size_name(size)}{' raw' if raw else ''}",
                    partial(self._batch, condition, size, raw, number),
                    self.options.batch_s(size, condition),
                )

    def _batch(self, condition: str, size: int, raw: bool, number: int, peer: Running) -> None:
        budget = self.options.budget(size, condition)
        (client,) = peer.clients
        answer = client.ask(
            "latency",
            timeout_s=budget.limit_s + PATIENCE_S,
            size=size,
            raw=raw,
            calls=budget.calls,
            limit_s=budget.limit_s,
            warmup=budget.warmup,
            pause_s=self.options.pause_s(condition),
            pids=pids_of(peer.family),
        )
        self._measured.batches.append(Batch(row(peer.name, raw), condition, size, number, **answer))

    @contextmanager
    def _condition(self, condition: str, running: list[Running]) -> Iterator[None]:
        with Burners(cores_to_burn(condition)) as burners:
            watch = Watch(lambda: [os.getpid(), *burners.pids, *self._pids(running)])
            yield
            self._surroundings[condition] = watch.end()

    def _pids(self, running: list[Running]) -> list[int]:
        return [pid for peer in running for pid in pids_of(peer.family)]

    def _measure_idle(self, running: list[Running]) -> None:
        """Watches all peers at once, after a few calls, while nothing is asked of them."""
        seconds = self.options.idle_seconds
        self.reporter.note(f"nothing asked for {seconds:g} s: idle processor time")
        self._in_turns(list(running), "calls before idling", self._call_a_little)
        quiet = [peer for peer in running if not peer.polls and self._rests(peer.name)]
        self._watch_idle(quiet, seconds)
        self.reporter.done(seconds)
        for peer in running:
            if peer.polls:
                with self._turn(peer):
                    self._watch_idle([peer], min(seconds, POLLER_S))

    @staticmethod
    def _rests(name: str) -> bool:
        """Whether a peer has processes that wait for calls; the C programs run in their turn only."""
        return PEERS[name].sized or bool(PEERS[name].callers)

    def _call_a_little(self, peer: Running) -> None:
        size = self.options.payload_sizes[0]
        self._each_asked(peer, "warm_up", size=size, calls=self.options.budget(size).warmup)

    def _each_asked(self, peer: Running, do: str, **details: Any) -> list[dict[str, Any]]:
        for client in peer.clients:
            client.send(do, **details)
        return [client.receive(PATIENCE_S) for client in peer.clients]

    def _watch_idle(self, peers: list[Running], seconds: float) -> None:
        pids = {peer.name: pids_of(peer.family) for peer in peers}
        before = {name: cpu_ns(of) for name, of in pids.items()}
        begun = time.monotonic()
        time.sleep(seconds)
        elapsed_s = time.monotonic() - begun
        for name, of in pids.items():
            spent = spent_ns(before[name], cpu_ns(of))
            self._measured.idle[name] = Idle(name, len(of), elapsed_s, spent)

    # -- throughput ----------------------------------------------------------------------------------------

    def _measure_throughput(self, directory: Path) -> None:
        names, workers = self.options.callers_at_once, self.options.executors
        with self._up(directory, names, workers, clients_of) as running:
            if not running:
                return
            watch = Watch(lambda: [os.getpid(), *self._pids(running)])
            self._in_turns(list(running), "warming up", self._call_a_little)
            for number in range(self.options.round_count):
                self.reporter.note(f"throughput: round {number + 1}")
                for layout, taking in self.options.layouts(number):
                    running[:] = [peer for peer in running if peer.name not in self._failed]
                    self._in_turns(
                        [peer for peer in running if peer.name in taking],
                        f"round {number + 1}, {layout.name}",
                        partial(self._window, layout, number),
                        self.options.window_cost_s,
                    )
            self._surroundings["throughput"] = watch.end()

    def _window(self, layout: Layout, number: int, peer: Running) -> None:
        pids = pids_of(peer.family)
        before = cpu_ns(pids)
        taking_part = peer.clients[: layout.clients]
        start_at_ns = begin_window(
            taking_part,
            size=self.options.payload_sizes[0],
            callers=layout.callers,
            window_s=self.options.window,
        )
        idle = self._idle_percent(start_at_ns)
        answers = [client.receive(self.options.window + PATIENCE_S) for client in taking_part]
        spent = spent_ns(before, cpu_ns(pids_of(peer.family)))
        calls = sum(answer["calls"] for answer in answers)
        self._measured.windows.append(
            Window(peer.name, layout, number, calls, self.options.window, spent, idle)
        )

    def _idle_percent(self, start_at_ns: int) -> float | None:
        """How much of the machine's processor time nobody has in a window; waits for its end."""
        time.sleep(max(0, start_at_ns - time.monotonic_ns()) / 1e9)
        before = psutil.cpu_times()
        time.sleep(self.options.window)
        return idle_percent(before, psutil.cpu_times())
