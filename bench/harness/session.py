"""Runs a benchmark from start to stop: servers up, proved alike, warmed up, loaded in turn, stopped.

The servers of all scenarios stay up through all rounds, and only one is loaded at a time. Starting them
afresh for each run would spend more of the time on starting and warming up than on measuring; an idle server
costs memory only, which is no assumption here: processor time of the idle ones is measured in every run, and
reported when it is not nothing. Rounds are interleaved, and every second one goes through the scenarios
backwards, so that neither a slow spell of the machine nor a place in the order favours one of them.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.harness import environment
from bench.harness.aggregate import Mode, Run, open_rate
from bench.harness.document import build
from bench.harness.errors import BenchError
from bench.harness.k6 import K6, Load, LoadSpec, find_k6
from bench.harness.options import Options
from bench.harness.progress import Reporter
from bench.harness.sampling import Sampler
from bench.harness.scenarios import DEMO_EXPORTS, GROUPS, Scenario, chosen, layout
from bench.harness.servers import ROOT, Server, ServerSpec, StopReport
from bench.harness.studies import STUDIES
from bench.harness.studies.study import Context
from bench.harness.warmup import Target, verify_alike, warm_up
from bench.harness.worker_metrics import MetricsFile

HEALTH_PATH = "/healthz"
READY_PATH = "/light/"
# Beyond its own seconds a run costs this much: starting k6, reading its summary.
RUN_OVERHEAD_S = 0.4
START_AND_STOP_S = 12.0
MOST_OPEN_CLIENTS = 200


@dataclass(slots=True)
class Bench:
    """A scenario with its running server, what is sent to it, and where its metrics go."""

    scenario: Scenario
    server: Server
    target: Target
    body_file: Path | None
    metrics: MetricsFile
    env: dict[str, str]
    worker: dict[str, Any] = field(default_factory=dict)
    runs: list[Run] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Step:
    """One round of one mode over a group."""

    k6: K6
    directory: Path
    mode: Mode
    round: int
    duration_s: float
    rate: int | None


class Session:
    """One benchmark. `run` may be called once; whatever happens, nothing that it started outlives it."""

    def __init__(self, options: Options, reporter: Reporter, root: Path = ROOT) -> None:
        self._options = options
        self._reporter = reporter
        self._root = root
        self._benches: list[Bench] = []
        self._builds: Path | None = None
        self._build_report: dict[str, Any] = {}
        self._doubts: list[str] = []
        self._studies: dict[str, dict[str, Any]] = {}
        self._stopped: list[StopReport] = []

    def run(self, command: str) -> dict[str, Any]:
        """Runs everything and returns the results document; `command` is how it was called.

        Raises BenchError when the benchmark can't run, and KeyboardInterrupt when it was interrupted.
        """
        self._options.validate()
        scenarios = chosen(self._options)
        k6 = find_k6(self._options.k6)
        started = time.monotonic()
        created = datetime.now(UTC)
        self._reporter.note(f"k6 {k6.version} ({k6.source}); about {self._expected_s(scenarios):.0f} s to go")
        self._reporter.expect(self._load_seconds(scenarios))
        surroundings = {"git": environment.git_state(self._root), "machine": environment.machine()}
        with tempfile.TemporaryDirectory(prefix="molt-bench-") as scratch:
            directory = Path(scratch)
            with ExitStack() as stack:
                stack.callback(self._stop)
                self._start(scenarios, directory)
                alike = self._verify()
                self._load(k6, directory)
            self._study(k6, directory)
            # After the stop nothing is written any more: what has no line end now is torn.
            torn = sum(bench.metrics.read_new(last=True).bad_lines for bench in self._benches)
            places = {
                str(directory): "<scratch>",
                str(self._options.out): "<out>",
                str(self._root): ".",
                sys.prefix: "<python>",
                sys.base_prefix: "<python>",
                str(Path.home()): "~",
            }
            document = build(
                options=self._options,
                command=command,
                created=created,
                elapsed_s=time.monotonic() - started,
                surroundings=surroundings | {"tools": environment.tools(k6)},
                settings={
                    bench.scenario.name: environment.settings(os.environ | bench.env)
                    for bench in self._benches
                },
                workers={bench.scenario.name: bench.worker for bench in self._benches if bench.worker},
                client=self._client_config(),
                alike=alike,
                runs=[run for bench in self._benches for run in bench.runs],
                stopped=self._stopped,
                logs={
                    bench.scenario.name: bench.server.log_tail() for bench in self._benches if _failed(bench)
                },
                torn_lines=torn,
                build=self._build_report,
                studies=self._studies,
                doubts=self._doubts,
            )
            cleaned: dict[str, Any] = environment.without_paths(document, places)
        return cleaned

    def _load_seconds(self, scenarios: Iterable[Scenario]) -> float:
        plans = [self._options.plan(scenario.group) for scenario in scenarios]
        studied = sum(STUDIES[name].load_seconds(self._options) for name in self._options.studies)
        return studied + sum((plan.closed_rounds + plan.open_rounds) * plan.duration_s for plan in plans)

    def _study(self, k6: K6, directory: Path) -> None:
        """Ask the studies, with the servers of the scenarios gone: each has its own."""
        if self._options.studies and self._builds is None and not self._build_report:
            self._builds = self._build(directory / "builds")
        for name in self._options.studies:
            scratch = directory / f"study-{name}"
            scratch.mkdir()
            context = Context(
                self._options,
                k6,
                self._reporter,
                scratch,
                self._root,
                self._builds,
                self._stopped,
                self._doubts,
            )
            self._studies[name] = STUDIES[name].run(context)

    def _expected_s(self, scenarios: Iterable[Scenario]) -> float:
        plans = [self._options.plan(scenario.group) for scenario in scenarios]
        runs = sum(plan.closed_rounds + plan.open_rounds for plan in plans)
        return self._load_seconds(scenarios) + runs * RUN_OVERHEAD_S + START_AND_STOP_S

    def _start(self, scenarios: Iterable[Scenario], directory: Path) -> None:
        scenarios = list(scenarios)
        body_file = None
        if any(GROUPS[scenario.group].method == "POST" for scenario in scenarios):
            body_file = self._make_table(directory)
        if any(scenario.compiled for scenario in scenarios):
            self._builds = self._build(directory / "builds")
        self._reporter.stage(f"starting {len(scenarios)} servers")
        for scenario in scenarios:
            self._benches.append(self._bench(scenario, directory, body_file))
            self._benches[-1].server.start()
        for bench in self._benches:
            answer = bench.server.wait_ready()
            if bench.scenario.role == "offload":
                bench.worker = environment.worker_facts(answer)
            bench.target = self._target(bench)

    def _bench(self, scenario: Scenario, directory: Path, body_file: Path | None) -> Bench:
        laid_out = layout(scenario, self._options)
        metrics = directory / f"metrics-{scenario.name}.jsonl"
        env = {
            "MOLT_LOG_LEVEL": "warning",
            "MOLT_DEMO_METRICS_PATH": str(metrics),
            # A pool of its own: never one that the user runs, nor that of another scenario; gone with its server.
            "MOLT_WORKER_NAME": f"bench-{secrets.token_hex(4)}",
            "MOLT_RUNTIME_DIR": str(directory / "pools"),
            "MOLT_WORKER_LINGER_MS": "0",
        }
        # Left in Python unless it is the scenario's own: nothing that was built before may come in between.
        env["MOLT_COMPILED"] = "require" if scenario.compiled and self._builds else "off"
        env["DEMO_COMPILED"] = (
            "1" if env["MOLT_COMPILED"] == "require" and scenario.role == "baseline" else "0"
        )
        env["MOLT_BUILD_DIR"] = str(self._builds or directory)
        if scenario.role != "baseline":
            env["MOLT_WORKER_EXECUTORS"] = str(self._options.executor_count)
        if scenario.role == "offload":
            env["MOLT_TRANSPORT"] = laid_out.transport or "auto"
            if self._options.max_queue is not None:
                env["MOLT_WORKER_MAX_QUEUE"] = str(self._options.max_queue)
        env |= dict(scenario.env) | self._options.extra_env
        spec = ServerSpec(
            name=scenario.name,
            app=self._options.app,
            processes=laid_out.server_processes,
            threads=laid_out.server_threads,
            env=env,
            # The health endpoint asks the worker, and so would start one beside a baseline that needs none.
            ready_path=HEALTH_PATH if scenario.role == "offload" else READY_PATH,
            dirty_app=scenario.dirty_app,
            dirty_workers=self._options.executor_count,
        )
        server = Server(spec, directory, self._root)
        body = body_file if GROUPS[scenario.group].method == "POST" else None
        target = Target(scenario.name, 0, scenario.path, "GET", ("",))
        return Bench(scenario, server, target, body, MetricsFile(metrics), env)

    def _target(self, bench: Bench) -> Target:
        group = GROUPS[bench.scenario.group]
        return Target(
            scenario=bench.scenario.name,
            port=bench.server.port,
            path=bench.scenario.path,
            method=group.method,
            queries=group.queries,
            body=bench.body_file.read_bytes() if bench.body_file is not None else None,
            expect_key=group.expect_key,
        )

    def _build(self, folder: Path) -> Path | None:
        """Compile the demo's handler cores; None if it can't be done here, which the report then says."""
        self._reporter.stage("compiling the handler cores")
        command = [
            sys.executable,
            "-m",
            "molt_worker",
            "build",
            DEMO_EXPORTS,
            "--json",
            "--build-dir",
            str(folder),
        ]
        done = subprocess.run(command, cwd=self._root, capture_output=True, text=True, check=False)
        if done.returncode:
            self._build_report = {"failed": done.stderr.strip()[-1000:]}
            self._reporter.note(f"not compiled: {done.stderr.strip()[-300:]}")
            return None
        record = json.loads(done.stdout)
        self._build_report = {name: record[name] for name in ("compiler", "seconds", "modules")}
        return folder

    def _make_table(self, directory: Path) -> Path:
        path = directory / "table.json"
        rows = str(self._options.data_rows)
        self._reporter.stage(f"making a table of {rows} rows")
        with path.open("wb") as file:
            done = subprocess.run(
                [sys.executable, "-m", "demo.molt_worker_app.make_table", "--rows", rows],
                cwd=self._root,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.PIPE,
                timeout=120,
                check=False,
            )
        if done.returncode != 0:
            raise BenchError(
                f"the table of the data path couldn't be made: {done.stderr.decode(errors='replace')}"
            )
        return path

    def _groups(self) -> Iterator[list[Bench]]:
        for name in GROUPS:
            members = [bench for bench in self._benches if bench.scenario.group == name]
            if members:
                yield members

    def _verify(self) -> dict[str, Any]:
        alike = {}
        for members in self._groups():
            name = members[0].scenario.group
            self._reporter.stage(
                f"verifying that {', '.join(bench.scenario.name for bench in members)} answer alike"
            )
            alike[name] = verify_alike([bench.target for bench in members])
            for bench in members:
                if bench.scenario.role == "offload":
                    self._prove_offloaded(bench)
                self._reporter.stage(f"warming up {bench.scenario.name}")
                # The data path's requests are far heavier and warm as well with a tenth of them.
                requests = (
                    self._options.warmups if bench.body_file is None else max(1, self._options.warmups // 10)
                )
                warm_up(bench.target, requests, self._options.concurrency)
                bench.metrics.read_new()
        return alike

    def _prove_offloaded(self, bench: Bench) -> None:
        """Raises BenchError unless the requests just sent were answered by a worker and not by a fallback."""
        asked = len(bench.target.queries)
        sample = bench.metrics.read_new()
        answered = sum(count for status, count in sample.statuses.items() if status.lower() == "ok")
        executed = sum(value > 0 for value in sample.values.get("exec_us", []))
        if min(answered, executed) < asked:
            raise BenchError(
                f"{bench.scenario.name} answered {asked} requests, but its metrics tell of {answered} "
                f"answered and {executed} executed by a worker (statuses {dict(sample.statuses)}): "
                "it doesn't truly offload. "
                f"{bench.server.log_tail()}"
            )
        workers = sum(member.part == "worker" for member in bench.server.family.members())
        transport = layout(bench.scenario, self._options).transport
        if not workers and transport != "inline":
            raise BenchError(f"{bench.scenario.name} answers, but no worker process of it is to be seen")

    def _load(self, k6: K6, directory: Path) -> None:
        """Loads group by group: the closed rounds, then the open ones at the rate that those gave."""
        for members in self._groups():
            plan = self._options.plan(members[0].scenario.group)
            for number in range(plan.closed_rounds):
                self._round(members, Step(k6, directory, "closed", number, plan.duration_s, None))
            if plan.open_rounds == 0:
                continue
            rate = self._rate(members)
            if rate is None:
                self._reporter.note("no open loop: a scenario had no good answer to take a rate from")
                continue
            for number in range(plan.open_rounds):
                self._round(members, Step(k6, directory, "open", number, plan.duration_s, rate))

    def _rate(self, members: list[Bench]) -> int | None:
        if self._options.rate is not None:
            return round(self._options.rate)
        closed = [run for bench in members for run in bench.runs if run.mode == "closed"]
        return open_rate(closed, self._options.rate_share)

    def _round(self, members: list[Bench], step: Step) -> None:
        ordered = members if step.round % 2 == 0 else members[::-1]
        for position, bench in enumerate(ordered):
            what = (
                f"{step.mode} loop{'' if step.rate is None else f' at {step.rate}/s'}, round {step.round + 1}"
            )
            self._reporter.running(f"{bench.scenario.name}: {what}")
            run = self._measure(bench, step, position)
            bench.runs.append(run)
            p95 = run.latency("p95")
            errors = f"ERRORS {run.load.error_rate:.2%}; " if run.load.error_rate else ""
            figures = f"{run.load.req_s:.0f} req/s" + (f", p95 {p95:.1f} ms" if p95 is not None else "")
            self._reporter.done(step.duration_s, f"{what}: {bench.scenario.name}: {errors}{figures}")

    def _measure(self, bench: Bench, step: Step, position: int) -> Run:
        target = bench.target
        clients = self._options.concurrency
        if step.rate is not None:
            # Enough that a stall of a second drops nothing; each costs memory, and a copy of the body.
            clients = max(2 * clients, min(step.rate, MOST_OPEN_CLIENTS))
        spec = LoadSpec(
            url=f"http://127.0.0.1:{target.port}{target.path}",
            mode=step.mode,
            duration_s=step.duration_s,
            vus=clients,
            rate=step.rate,
            method=target.method,
            queries=target.queries,
            body_file=bench.body_file,
            expect_key=target.expect_key,
        )
        started = datetime.now(UTC)
        others = tuple(other.server.family for other in self._benches if other is not bench)
        sampler = Sampler(bench.server.family, interval_s=self._options.sample_interval_s, idle=others)
        label = f"{bench.scenario.name}-{step.mode}-{step.round}"
        with sampler, Load(step.k6, spec, step.directory, label) as load:
            result = load.wait()
        return Run(
            scenario=bench.scenario,
            mode=step.mode,
            round=step.round,
            position=position,
            started_utc=started.isoformat(timespec="seconds"),
            rate=step.rate,
            load=result,
            usage=sampler.usage,
            metrics=bench.metrics.read_new(),
        )

    def _client_config(self) -> dict[str, Any] | None:
        offloads = [bench for bench in self._benches if bench.scenario.role == "offload"]
        return environment.effective_client_config(offloads[0].env, self._root) if offloads else None

    def _stop(self) -> None:
        if self._benches:
            self._reporter.stage("stopping the servers")
        for bench in self._benches:
            bench.server.ask_to_stop()
        self._stopped += [bench.server.stop() for bench in self._benches]


def _failed(bench: Bench) -> bool:
    return any(run.load.error_rate for run in bench.runs)
