"""Runs the benchmark from start to stop: steps in growing arenas, then calls of growing numbers of client processes."""

from __future__ import annotations

import dataclasses
import os
import secrets
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from bench.core import environment
from bench.core.processes import Family, wait_gone
from bench.core.progress import Reporter, clock
from bench.core.results import Heading
from bench.growth.callers import Callers, Turn
from bench.growth.options import CHANNELS, CHANNELS_OF_A_CLIENT, START_S, STEP_S, Options
from bench.growth.report.document import KIND, build
from bench.growth.steps import STEPS, Cost, Program
from bench.micro.client_process import PeerFailed
from bench.micro.peers.base import Unavailable

_GONE_S = 10.0


@dataclass(slots=True)
class Session:
    """One run of the benchmark. `run` may be called once; nothing that it started outlives it."""

    options: Options
    reporter: Reporter
    _costs: dict[str, dict[int, Cost]] = field(default_factory=dict)
    _turns: list[Turn] = field(default_factory=list)
    _errors: list[str] = field(default_factory=list)
    _mark: str = field(default_factory=lambda: f"growth-{secrets.token_hex(6)}")

    def run(self, command: str) -> dict[str, Any]:
        """Measures everything and returns the results document; `command` is how it was called.

        Raises BenchError for options that aren't allowed and where steps can't be measured, and KeyboardInterrupt
        when it was interrupted.
        """
        self.options.validate()
        heading = Heading(KIND, command)
        seconds = self.options.expected_s()
        self.reporter.expect(seconds)
        self.reporter.note(
            f"Steps, then calls of {self.options.clients or 'no'} clients: {clock(seconds)} min."
        )
        # Short: Unix sockets below it have little more than a hundred bytes for their path.
        with tempfile.TemporaryDirectory(prefix="mg-", ignore_cleanup_errors=True) as scratch:
            directory = Path(scratch)
            try:
                if self.options.steps:
                    self._measure_steps(directory)
                if self.options.calls:
                    self._measure_calls(directory)
            except (PeerFailed, Unavailable) as error:
                self._errors.append(f"calls: {error}")
            finally:
                self._sweep()
            made = build(
                heading,
                self.options,
                self._costs,
                self._turns,
                settings=environment.settings(os.environ),
                errors=self._errors,
            )
            places = environment.places(directory, self.options.out)
        cleaned: dict[str, Any] = environment.without_paths(made, places)
        return cleaned

    def _measure_steps(self, directory: Path) -> None:
        self.reporter.stage("steps of the native core")
        program = Program(directory)
        for channels in CHANNELS:
            for step in STEPS:
                cost = program.measure(step, channels, channels // CHANNELS_OF_A_CLIENT)
                self._costs.setdefault(step, {})[channels] = cost
            shown = ", ".join(f"{step} {self._costs[step][channels].ns:.0f} ns" for step in STEPS)
            self.reporter.done(STEP_S, f"{channels} channels: {shown}")

    def _measure_calls(self, directory: Path) -> None:
        defaults = self.options.defaults
        with ExitStack() as stack:
            callers, before = Callers(directory, self._mark, stack), 0
            for count in self.options.clients:
                self.reporter.running(f"{count} client processes")
                callers.grow(count)
                self.reporter.done((count - before) * START_S)
                before = count
                for _ in range(self.options.round_count):
                    turn = callers.turn(defaults.batch_s, defaults.window_s)
                    self._turns.append(turn)
                    self.reporter.done(
                        defaults.batch_s + defaults.window_s,
                        ", ".join(f"{name} {value:g}" for name, value in dataclasses.asdict(turn).items()),
                    )

    def _sweep(self) -> None:
        """Ends what should have ended."""
        left = wait_gone([each.process for each in Family(None, self._mark).members()], _GONE_S)
        for process in left:
            try:
                self._errors.append(f"had to be killed at the end: {process.pid} {process.name()}")
                process.kill()
            except psutil.Error:
                continue
        wait_gone(left, _GONE_S)
