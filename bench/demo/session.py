"""Runs a benchmark from start to stop: servers up, proved alike, warmed up, loaded in turn, stopped; then the studies.

The servers of all scenarios stay up through all rounds, and only one is loaded at a time: starting them for each run
would take longer than measuring. An idle server costs memory only. That is no assumption: the processor time of idle
servers is measured in every run, and a warning tells where it is not nothing. Rounds are interleaved, and every second
one goes through the scenarios backwards, so that neither a slow spell of the machine nor a place in the order favours
one of them.
"""

from __future__ import annotations

import os
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.core import BenchError, environment
from bench.core.progress import Reporter
from bench.core.results import Heading
from bench.demo.load.k6 import K6, Load, LoadSpec, find_k6
from bench.demo.load.sampling import Sampler
from bench.demo.load.servers import Server, ServerSpec, StopReport
from bench.demo.load.warmup import Alike, Target, warm_up
from bench.demo.load.worker_metrics import MetricsFile
from bench.demo.options import Options
from bench.demo.plan import Plan, slowness
from bench.demo.preparation import Build, make_table
from bench.demo.report.aggregate import Mode, Run, open_rate
from bench.demo.report.document import KIND, build
from bench.demo.scenarios import GROUPS, Scenario, chosen, layout
from bench.demo.settings import NO_TARGET, effective_client_config, server_settings, worker_facts
from bench.demo.studies.registry import chosen_studies
from bench.demo.studies.testbed import Testbed

HEALTH_PATH = "/healthz"
READY_PATH = "/light/"
MOST_OPEN_CLIENTS = 200
PACKAGES = ("Django", "gunicorn", "molt-accel", "msgpack", "msgspec", "orjson", "psutil", "posix-ipc")


@dataclass(slots=True)
class Running:
    """A scenario with its running server, what is sent to it, and where its metrics go."""

    scenario: Scenario
    server: Server
    body_file: Path | None
    metrics: MetricsFile
    env: dict[str, str]
    worker: dict[str, Any] = field(default_factory=dict)
    runs: list[Run] = field(default_factory=list)

    @property
    def target(self) -> Target:
        """What is sent to it."""
        group = GROUPS[self.scenario.group]
        return Target(
            scenario=self.scenario.name,
            port=self.server.port,
            path=self.scenario.path,
            method=group.method,
            queries=group.queries,
            body=self.body_file.read_bytes() if self.body_file is not None else None,
            expect_key=group.expect_key,
        )


@dataclass(frozen=True, slots=True)
class Round:
    """One round of one mode over a group."""

    mode: Mode
    number: int
    duration_s: float
    rate: int | None = None

    def __str__(self) -> str:
        rate = "" if self.rate is None else f" at {self.rate}/s"
        return f"{self.mode} loop{rate}, round {self.number + 1}"


class Session:
    """One benchmark. `run` may be called once; whatever happens, nothing that it started outlives it."""

    def __init__(self, options: Options, reporter: Reporter) -> None:
        self._options = options
        self._reporter = reporter
        self._plan = Plan(options, chosen(options), chosen_studies(options), slowness())
        self._running: list[Running] = []
        self._alike: defaultdict[str, Alike] = defaultdict(Alike)
        self._builds: Path | None = None
        self._build_report: dict[str, Any] = {}
        self._stopped: list[StopReport] = []

    def run(self, command: str) -> dict[str, Any]:
        """Runs everything and returns the results document; `command` is how it was called.

        Raises BenchError when the benchmark can't run, and KeyboardInterrupt when it was interrupted.
        """
        k6 = find_k6(self._options.k6)
        for line in self._plan.lines():
            self._reporter.note(line)
        self._reporter.expect(self._plan.total_s)
        heading = Heading(KIND, command)
        with tempfile.TemporaryDirectory(prefix="molt-bench-") as scratch:
            directory = Path(scratch)
            with ExitStack() as stack:
                stack.callback(self._stop)
                self._set_up(directory)
                for members in self._groups():
                    self._load(members, k6, directory)
            studies, warnings = self._study(k6, directory)
            # After the stop nothing is written any more: what has no line end now is torn.
            torn = sum(each.metrics.read_new(last=True).bad_lines for each in self._running)
            offloads = [each for each in self._running if each.scenario.role == "offload"]
            document = build(
                heading,
                self._options,
                [run for each in self._running for run in each.runs],
                tools=environment.tools(PACKAGES, k6=k6.version, k6_source=k6.source),
                settings={
                    each.scenario.name: environment.settings(os.environ | each.env) for each in self._running
                },
                workers={each.scenario.name: each.worker for each in self._running if each.worker},
                client=effective_client_config(offloads[0].env) if offloads else None,
                verified={group: alike.as_json() for group, alike in self._alike.items()},
                stopped=self._stopped,
                logs={
                    each.scenario.name: each.server.log_tail()
                    for each in self._running
                    if any(run.load.error_rate for run in each.runs)
                },
                torn_lines=torn,
                build=self._build_report,
                studies=studies,
                warnings=warnings,
            )
        cleaned: dict[str, Any] = environment.without_paths(
            document, environment.places(directory, self._options.out)
        )
        return cleaned

    # -- set-up --------------------------------------------------------------------------------------------

    def _set_up(self, directory: Path) -> None:
        """Has all servers up, proved alike and warm; those that need no compiled cores while these are built."""
        scenarios = self._plan.scenarios
        plain, compiled = ([each for each in scenarios if each.compiled == which] for which in (False, True))
        body_file = None
        with ExitStack() as stack:
            if self._plan.builds:
                building = Build(directory / "builds")
                stack.callback(building.cancel)
            if any(GROUPS[scenario.group].method == "POST" for scenario in scenarios):
                body_file = make_table(directory / "table.json", self._options.data_rows)
            self._start(plain, directory, body_file)
            if self._plan.builds:
                self._reporter.stage("compiling the handler cores")
                self._builds, self._build_report = building.wait()
                if self._builds is None:
                    self._reporter.note(f"not compiled: {self._build_report['failed'][-300:]}")
            self._start(compiled, directory, body_file)
        self._running.sort(key=lambda each: scenarios.index(each.scenario))
        self._reporter.done(self._plan.setup_s)

    def _start(self, scenarios: Sequence[Scenario], directory: Path, body_file: Path | None) -> None:
        """Starts servers side by side; proves that they answer alike, and warms them up, one after the other."""
        if not scenarios:
            return
        names = ", ".join(scenario.name for scenario in scenarios)
        while_building = (
            " while the handler cores are compiled" if self._builds is None and self._plan.builds else ""
        )
        self._reporter.stage(f"starting {names}{while_building}")
        started = []
        for scenario in scenarios:
            body = body_file if GROUPS[scenario.group].method == "POST" else None
            started.append(self._prepared(scenario, directory, body))
            self._running.append(started[-1])
            started[-1].server.start()
        for each in started:
            answer = each.server.wait_ready()
            if each.scenario.role == "offload":
                each.worker = worker_facts(answer)
        for each in started:
            self._reporter.stage(f"verifying and warming up {each.scenario.name}")
            self._alike[each.scenario.group].prove(each.target)
            if each.scenario.role == "offload":
                self._prove_offloaded(each)
            warm_up(each.target, self._options.warmups(each.scenario.group), self._options.concurrency)
            each.metrics.read_new()

    def _prepared(self, scenario: Scenario, directory: Path, body_file: Path | None) -> Running:
        laid_out = layout(scenario, self._options)
        metrics = directory / f"metrics-{scenario.name}.jsonl"
        env = server_settings(directory, builds=self._builds, compiled=scenario.compiled)
        env["MOLT_DEMO_METRICS_PATH"] = str(metrics)
        in_server = scenario.role == "baseline" and env["MOLT_COMPILED"] == "require"
        env["DEMO_COMPILED"] = "1" if in_server else "0"
        if scenario.role != "baseline":
            env["MOLT_WORKER_EXECUTORS"] = str(self._options.executor_count)
        if scenario.role == "offload":
            env["MOLT_TRANSPORT"] = laid_out.transport or "auto"
            env |= dict(NO_TARGET)
            if self._options.max_queue is not None:
                env["MOLT_WORKER_MAX_QUEUE"] = str(self._options.max_queue)
        env |= dict(scenario.env) | self._options.extra_env
        spec = ServerSpec(
            name=scenario.name,
            app=self._options.app,
            processes=laid_out.server_processes,
            threads=laid_out.server_threads,
            env=env,
            # The health endpoint asks the worker, and would start one beside a baseline that needs none.
            ready_path=HEALTH_PATH if scenario.role == "offload" else READY_PATH,
            dirty_app=scenario.dirty_app,
            dirty_workers=self._options.executor_count,
        )
        return Running(scenario, Server(spec, directory), body_file, MetricsFile(metrics), env)

    def _groups(self) -> Iterator[list[Running]]:
        for name in GROUPS:
            members = [each for each in self._running if each.scenario.group == name]
            if members:
                yield members

    def _prove_offloaded(self, running: Running) -> None:
        """Raises BenchError unless the requests just sent were answered by a worker and not by a fallback."""
        name, asked = running.scenario.name, len(running.target.queries)
        sample = running.metrics.read_new()
        answered = sum(count for status, count in sample.statuses.items() if status.lower() == "ok")
        executed = sum(value > 0 for value in sample.values.get("exec_us", []))
        if min(answered, executed) < asked:
            raise BenchError(
                f"{name} answered {asked} requests, but its metrics tell of {answered} answered and {executed} run "
                f"by a worker (statuses {dict(sample.statuses)}): it doesn't truly offload. {running.server.log_tail()}"
            )
        workers = sum(member.part == "worker" for member in running.server.family.members())
        if not workers and layout(running.scenario, self._options).transport != "inline":
            raise BenchError(f"{name} answers, but no worker process of it is to be seen")

    # -- load ----------------------------------------------------------------------------------------------

    def _load(self, members: list[Running], k6: K6, directory: Path) -> None:
        """Loads a group: the closed rounds, then the open rounds at the rate that those gave."""
        rounds = self._options.rounds(members[0].scenario.group)
        for number in range(rounds.closed):
            self._round(members, Round("closed", number, rounds.duration_s), k6, directory)
        if rounds.open == 0:
            return
        rate = self._rate(members)
        if rate is None:
            self._reporter.note("no open loop: a scenario had no good answer to take a rate from")
            return
        for number in range(rounds.open):
            self._round(members, Round("open", number, rounds.duration_s, rate), k6, directory)

    def _rate(self, members: list[Running]) -> int | None:
        if self._options.rate is not None:
            return round(self._options.rate)
        closed = [run for each in members for run in each.runs if run.mode == "closed"]
        return open_rate(closed, self._options.rate_share)

    def _round(self, members: list[Running], turn: Round, k6: K6, directory: Path) -> None:
        for position, each in enumerate(members if turn.number % 2 == 0 else members[::-1]):
            name = each.scenario.name
            self._reporter.running(f"{name}: {turn}")
            run = self._measure(each, turn, position, k6, directory)
            each.runs.append(run)
            p95 = run.figure("p95_ms")
            errors = f"ERRORS {run.load.error_rate:.2%}; " if run.load.error_rate else ""
            figures = f"{run.load.req_s:.0f} req/s" + (f", p95 {p95:.1f} ms" if p95 is not None else "")
            self._reporter.done(self._plan.run_s(each.scenario.group), f"{turn}: {name}: {errors}{figures}")

    def _measure(self, running: Running, turn: Round, position: int, k6: K6, directory: Path) -> Run:
        target = running.target
        clients = self._options.concurrency
        if turn.rate is not None:
            # Enough that a stall of a second drops nothing; each costs memory, and a copy of the body.
            clients = max(2 * clients, min(turn.rate, MOST_OPEN_CLIENTS))
        spec = LoadSpec(
            url=f"http://127.0.0.1:{target.port}{target.path}",
            mode=turn.mode,
            duration_s=turn.duration_s,
            vus=clients,
            rate=turn.rate,
            method=target.method,
            queries=target.queries,
            body_file=running.body_file,
            expect_key=target.expect_key,
        )
        started = datetime.now(UTC)
        others = tuple(other.server.family for other in self._running if other is not running)
        sampler = Sampler(running.server.family, interval_s=self._options.sample_interval_s, idle=others)
        label = f"{running.scenario.name}-{turn.mode}-{turn.number}"
        with sampler, Load(k6, spec, directory, label) as load:
            result = load.wait()
        return Run(
            scenario=running.scenario,
            mode=turn.mode,
            round=turn.number,
            position=position,
            started_utc=started.isoformat(timespec="seconds"),
            rate=turn.rate,
            load=result,
            usage=sampler.usage,
            metrics=running.metrics.read_new(),
        )

    def _study(self, k6: K6, directory: Path) -> tuple[dict[str, Any], list[str]]:
        """Runs the studies, with the servers of the scenarios gone. Returns their sections and warnings."""
        studies = self._plan.studies
        if not studies:
            return {}, []
        scratch = directory / "studies"
        scratch.mkdir()
        self._reporter.stage(
            f"starting the servers of the studies {', '.join(study.name for study in studies)}"
        )
        testbed = Testbed(self._options, k6, self._reporter, scratch, self._builds, studies)
        sections = {}
        try:
            with testbed:
                self._reporter.done(self._plan.study_start_s)
                for study in studies:
                    sections[study.name] = study.run(testbed)
        finally:
            self._stopped += testbed.stopped
        return sections, testbed.warnings()

    def _stop(self) -> None:
        if self._running:
            self._reporter.stage("stopping the servers")
        for each in self._running:
            each.server.ask_to_stop()
        self._stopped += [each.server.stop() for each in self._running]
