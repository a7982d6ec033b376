"""Runs the benchmark from start to stop: rows up, measured in turn, stopped; then goodput of one to three pools."""

from __future__ import annotations

import os
import random
import secrets
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil

from bench.cluster.figures import Measured, Run
from bench.cluster.goodput import Goodput
from bench.cluster.network import SERVER, Pair
from bench.cluster.options import CALLERS, PAYLOAD_BYTES, POOLS, START_S, WARMUP_CALLS, Options
from bench.cluster.report.document import KIND, build
from bench.cluster.rows import PLACES, Row
from bench.cluster.sites import PATIENCE_S, Site, free_ports
from bench.core import BenchError, environment
from bench.core.cpu import Surroundings, Watch, cpu_ns, pids_of, spent_ns
from bench.core.processes import Family, wait_gone
from bench.core.progress import Reporter, clock
from bench.core.results import Heading
from bench.micro.client_process import ClientProcess, PeerFailed, begin_window
from bench.micro.options import Layout
from bench.micro.peers.base import Unavailable
from bench.micro.report.figures import Batch, Window

GONE_S = 5.0
_CALLER = (sys.executable, "-m", "bench.cluster.caller")
_PORT = 4222
"""Of NATS where nobody else listens: in a namespace of its own."""


def turns(rows: Sequence[Row], chance: random.Random) -> list[Row]:
    """The rows in a random order, but those that a place serves one after another: they are held against each other.

    What else happens on the machine changes within seconds, and a turn of all rows takes longer than that.
    """
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.place if row.served else row.name, []).append(row)
    drawn = chance.sample(list(groups.values()), len(groups))
    return [row for group in drawn for row in chance.sample(group, len(group))]


@dataclass(slots=True)
class Session:
    """One run of the benchmark. `run` may be called once; nothing that it started outlives it."""

    options: Options
    reporter: Reporter
    _measured: Measured = field(default_factory=Measured)
    _not_run: dict[str, str] = field(default_factory=dict)
    _failed: dict[str, str] = field(default_factory=dict)
    _left_over: list[str] = field(default_factory=list)
    _surroundings: dict[str, Surroundings] = field(default_factory=dict)
    _mark: str = field(default_factory=lambda: f"cluster-{secrets.token_hex(6)}")
    _family: Family = field(init=False)
    _chance: random.Random = field(init=False)
    _directory: Path = field(init=False)
    _sites: dict[str, Site] = field(default_factory=dict)
    _inside: tuple[str, ...] = ()

    def run(self, command: str) -> dict[str, Any]:
        """Measures everything and returns the results document; `command` is how it was called.

        Raises BenchError for options that aren't allowed and where nothing can run, and KeyboardInterrupt
        when it was interrupted.
        """
        self.options.validate()
        self._chance = random.Random(self.options.seed)
        self._family = Family(None, self._mark)
        heading = Heading(KIND, command)
        self._announce()
        # Short: Unix sockets below it have little more than a hundred bytes for their path.
        with tempfile.TemporaryDirectory(prefix="mc-", ignore_cleanup_errors=True) as scratch:
            self._directory = Path(scratch)
            try:
                if self.options.chosen:
                    self._measure_calls()
                if self.options.goodput:
                    self._measure_goodput()
            finally:
                self._sweep()
        if not self._measured.calls.batches and not self._measured.runs:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in self._not_run.items())
            raise BenchError(f"nothing can run here: {reasons}")
        made = build(
            heading,
            self.options,
            self._measured,
            settings=environment.settings(os.environ),
            not_run=self._not_run,
            failed=self._failed,
            surroundings=self._surroundings,
            left_over=self._left_over,
        )
        cleaned: dict[str, Any] = environment.without_paths(
            made, environment.places(self._directory, self.options.out)
        )
        return cleaned

    def _announce(self) -> None:
        seconds = self.options.expected_s()
        self.reporter.expect(seconds)
        parts = [f"{len(self.options.chosen)} rows"] if self.options.chosen else []
        parts += [f"goodput of {', '.join(map(str, POOLS))} pools"] if self.options.goodput else []
        self.reporter.note(
            f"{'; '.join(parts)}; {self.options.round_count} rounds. About {clock(seconds)} minutes."
        )

    def _leave_out(self, name: str, reason: str, *, failed: bool) -> None:
        """Notes why a row, or goodput, has no figures (any more); the others go on."""
        self.reporter.note(f"{name}: {'failed' if failed else 'not run'}: {reason}")
        self._not_run[name] = reason
        if failed:
            self._failed[name] = reason

    def _pids(self) -> list[int]:
        return [os.getpid(), *pids_of(self._family)]

    def _sweep(self) -> None:
        """Ends what should have ended."""
        left = wait_gone([member.process for member in self._family.members()], GONE_S)
        for process in left:
            try:
                self._left_over.append(f"{process.pid} {process.name()}")
                process.kill()
            except psutil.Error:
                continue
        wait_gone(left, GONE_S)

    # -- single calls --------------------------------------------------------------------------------------

    def _measure_calls(self) -> None:
        with ExitStack() as stack:
            for place in self.options.places():
                self._open(place, stack)
            up: dict[str, ClientProcess] = {}
            stack.callback(lambda: [client.close() for client in up.values()])
            for row in self._still(self.options.chosen):
                if row.resident:
                    self._start(row, up)
                    self.reporter.done(START_S)
            watch = Watch(self._pids)
            for number in range(self.options.round_count):
                self._round(number, up)
            self._surroundings["calls"] = watch.end()

    def _still(self, rows: tuple[Row, ...]) -> list[Row]:
        return [row for row in rows if row.name not in self._not_run]

    def _open(self, place: str, stack: ExitStack) -> None:
        """Starts what serves the rows of a place."""
        rows = [row for row in self.options.chosen if row.place == place]
        served = {row.served for row in rows} - {""}
        if not served:
            return
        self.reporter.running(f"starting what serves {PLACES[place]}")
        try:
            if place == "namespaces":
                pair = stack.enter_context(Pair(self.options.delay_ms / 1000))
                self._inside = pair.client
                site = Site(self._directory / "n", self._mark, SERVER, _PORT, pair.server)
            else:
                site = Site(self._directory / "l", self._mark, "127.0.0.1", free_ports())
            stack.enter_context(site)
            site.start_server()
            if "responder" in served:
                site.start_responder()
            if "responder-uvloop" in served and find_spec("uvloop"):
                site.start_responder("uvloop")
            if "pool" in served:
                site.start_pool(place, 1)
                site.start_bridge(place)
            self._sites[place] = site
        except (Unavailable, PeerFailed) as error:
            for row in rows:
                if row.served:
                    self._leave_out(row.name, str(error), failed=isinstance(error, PeerFailed))

    def _start(self, row: Row, up: dict[str, ClientProcess]) -> None:
        self.reporter.running(f"starting {row.name}")
        scratch = Path(tempfile.mkdtemp(prefix=f"{row.name[:6]}-", dir=self._directory))
        inside = self._inside if row.place == "namespaces" else ()
        client = ClientProcess(scratch / "client.log", self._mark, (*inside, *_CALLER))
        up[row.name] = client
        try:
            client.ask(
                "start",
                timeout_s=PATIENCE_S,
                peer=row.name,
                scratch=str(scratch),
                workers=1,
                first=True,
                at=self._sites[row.place].url if row.served else "",
            )
        except (Unavailable, PeerFailed) as error:
            self._leave_out(row.name, str(error), failed=isinstance(error, PeerFailed))
            self._stop(row, up)

    def _stop(self, row: Row, up: dict[str, ClientProcess]) -> None:
        if not up.pop(row.name).close():
            self._left_over.append(f"client process of {row.name}")

    @contextmanager
    def _turn(self, row: Row, up: dict[str, ClientProcess]) -> Iterator[ClientProcess | None]:
        """A row's turn; one that isn't resident is up for it only."""
        if not row.resident:
            self._start(row, up)
            self.reporter.done(START_S)
        yield up.get(row.name)
        if not row.resident and row.name in up:
            self._stop(row, up)

    def _round(self, number: int, up: dict[str, ClientProcess]) -> None:
        rows = self._still(self.options.chosen)
        self.reporter.note(f"calls: round {number + 1}")
        for row in turns(rows, self._chance):
            self.reporter.running(f"round {number + 1}: {row.name}")
            with self._turn(row, up) as client:
                if client is not None:
                    try:
                        self._measure(row, number, client)
                    except PeerFailed as error:
                        self._leave_out(row.name, str(error), failed=True)
                        self._stop(row, up)
            self.reporter.done(self.options.turn_s)

    def _measure(self, row: Row, number: int, client: ClientProcess) -> None:
        seconds = self.options.defaults.batch_s
        answer = client.ask(
            "latency",
            timeout_s=seconds + PATIENCE_S,
            size=PAYLOAD_BYTES,
            raw=False,
            calls=self.options.most_calls,
            limit_s=seconds,
            warmup=WARMUP_CALLS,
            pause_s=0.0,
        )
        self._measured.calls.batches.append(Batch(row.name, row.place, PAYLOAD_BYTES, number, **answer))
        for layout in CALLERS:
            if layout.callers <= row.callers:
                self._window(row, layout, number, client)

    def _window(self, row: Row, layout: Layout, number: int, client: ClientProcess) -> None:
        window_s = self.options.defaults.window_s
        pids = pids_of(self._family)
        before = cpu_ns(pids)
        begin_window([client], size=PAYLOAD_BYTES, callers=layout.callers, window_s=window_s)
        answer = client.receive(window_s + PATIENCE_S)
        spent = spent_ns(before, cpu_ns(pids))
        self._measured.calls.windows.append(
            Window(row.name, layout, number, answer["calls"], window_s, spent)
        )

    # -- goodput -------------------------------------------------------------------------------------------

    def _measure_goodput(self) -> None:
        goodput = Goodput(self.options, self._directory, self._mark)
        try:
            self.reporter.running("starting the pools of goodput")
            with goodput.up():
                watch = Watch(self._pids)
                for number in range(self.options.round_count):
                    self.reporter.note(f"goodput: round {number + 1}")
                    for pools in self._chance.sample(POOLS, len(POOLS)):
                        self.reporter.running(f"goodput, round {number + 1}: pools {pools}")
                        run = goodput.run(pools, number)
                        self._measured.runs.append(run)
                        self.reporter.done(self.options.goodput_turn_s, told(run))
                self._surroundings["goodput"] = watch.end()
        except (Unavailable, PeerFailed) as error:
            self._leave_out("goodput", str(error), failed=isinstance(error, PeerFailed))


def told(run: Run) -> str:
    """One run in a line."""
    ended = ", ".join(f"{name} {count}" for name, count in sorted(run.outcomes.items()))
    with_ = "1 pool" if run.pools == 1 else f"{run.pools} pools"
    return f"{with_}: {run.goodput_s:.0f} answers in time per second ({ended})"
