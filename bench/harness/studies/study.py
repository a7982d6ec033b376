"""What studies share: a bed of servers that are loaded in turn, round by round, and the figures of their runs."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

import psutil

from bench.harness.aggregate import BUSY_ELSEWHERE_PERCENT
from bench.harness.errors import BenchError
from bench.harness.k6 import K6, Load, LoadResult, LoadSpec
from bench.harness.options import Options
from bench.harness.processes import Family
from bench.harness.sampling import Sampler, Usage
from bench.harness.servers import Server, ServerSpec, StopReport
from bench.harness.stats import spread
from bench.harness.table import Table

if TYPE_CHECKING:  # it shows reports, studies included
    from bench.harness.progress import Reporter

#: A server is at rest when its processes took less than this share of a core for so long.
IDLE_SHARE = 0.1
IDLE_S = 0.3
LONGEST_S = 60.0
WSGI = "demo.django_app.wsgi:application"
ASGI = "demo.django_app.asgi:application"


@dataclass(frozen=True, slots=True)
class Context:
    """What a study works with.

    Attributes:
        directory: Scratch files go here.
        root: The checkout, which servers are started in.
        builds: Where the compiled handler cores are; None: they could not be compiled.
    """

    options: Options
    k6: K6
    reporter: Reporter
    directory: Path
    root: Path
    builds: Path | None
    stopped: list[StopReport]
    doubts: list[str]


class Study(Protocol):
    """One question. An instance has no state: what `run` finds is in the section that it returns."""

    name: str
    title: str

    def load_seconds(self, options: Options) -> float:
        """How long its load takes, for the progress bar."""

    def run(self, context: Context) -> dict[str, Any]:
        """Start its servers, load them in interleaved rounds, stop them; the section, ready for JSON.

        Raises:
            BenchError: it can't run.
        """

    def tables(self, section: Mapping[str, Any]) -> Iterator[Table]:
        """The tables of a section."""

    def sentences(self, section: Mapping[str, Any]) -> Iterator[str]:
        """What the section says, in a sentence each."""


@dataclass(frozen=True, slots=True)
class Way:
    """One way of serving that a study compares.

    Attributes:
        offload: It has a worker.
        compiled: Its worker takes the compiled handler cores.
        asgi: It is served by uvicorn.
        threads: Of the server's one process.
        env: Further settings.
    """

    name: str
    offload: bool = False
    compiled: bool = False
    asgi: bool = False
    threads: int | None = None
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Sample:
    """One run of one way."""

    load: LoadResult
    usage: Usage

    def figures(self) -> dict[str, float | None]:
        """The run's figures by name, with the unit in the name."""
        latency = self.load.latency_ms or {}
        parts = {name: part.cpu_seconds for name, part in self.usage.parts.items()}
        spent = {"": sum(parts.values())} | {f"{name}_": seconds for name, seconds in parts.items()}
        return {
            "req_s": self.load.req_s,
            **{f"{name}_ms": latency.get(name) for name in ("p50", "p95", "p99")},
            **{
                f"{name}cpu_ms_per_request": seconds * 1000 / self.load.ok if self.load.ok else None
                for name, seconds in spent.items()
            },
        }


def cpu_seconds(family: Family) -> float:
    """Processor time that the processes of a server have taken so far."""
    total = 0.0
    for member in family.members():
        try:
            times = member.process.cpu_times()
        except psutil.Error:
            continue
        total += times.user + times.system
    return total


def summary(samples: Sequence[Sample], **more: Sequence[float | None]) -> dict[str, Any]:
    """The figures of several rounds, each as a spread."""
    rows = [sample.figures() for sample in samples]
    found: dict[str, Sequence[float | None]] = {name: [row[name] for row in rows] for name in rows[0]}
    return {
        "rounds": len(samples),
        "errors": sum(sum(sample.load.failed.values()) + sample.load.dropped for sample in samples),
        **{name: as_spread(values) for name, values in {**found, **more}.items()},
    }


def as_spread(values: Sequence[float | None]) -> dict[str, Any] | None:
    """Values of rounds as median, least and greatest."""
    over_rounds = spread(values)
    return None if over_rounds is None else over_rounds.as_json()


def ratio_spread(up: Sequence[float | None], down: Sequence[float | None]) -> dict[str, Any] | None:
    """Ratios within each round."""
    return as_spread([a / b if a is not None and b else None for a, b in zip(up, down, strict=True)])


def shown(over_rounds: Mapping[str, Any] | None, digits: int = 2) -> str:
    """A spread as a text."""
    if over_rounds is None:
        return "-"
    texts = [f"{over_rounds[name]:.{digits}f}" for name in ("median", "min", "max")]
    return f"{texts[0]} ({texts[1]}-{texts[2]})" if len(over_rounds["rounds"]) > 1 else texts[0]


class Bed(AbstractContextManager["Bed"]):
    """Servers of one study, all up while one at a time is loaded; stopped when the context is left."""

    def __init__(self, context: Context, study: str, ways: Sequence[Way]) -> None:
        self._context = context
        self._servers: dict[str, Server] = {}
        self._study = study
        self.ways = [way for way in ways if context.builds is not None or not way.compiled]
        self.count = 0

    def __enter__(self) -> Bed:
        self._context.reporter.stage(f"starting the servers of the study {self._study}")
        try:
            for way in self.ways:
                self._servers[way.name] = self._server(way)
                self._servers[way.name].start()
            for way in self.ways:
                self._servers[way.name].wait_ready()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for server in self._servers.values():
            server.ask_to_stop()
        self._context.stopped.extend(server.stop() for server in self._servers.values())

    def _server(self, way: Way) -> Server:
        options = self._context.options
        env = {
            "MOLT_LOG_LEVEL": "error",
            "MOLT_WORKER_NAME": f"bench-{secrets.token_hex(4)}",
            "MOLT_RUNTIME_DIR": str(self._context.directory / "pools"),
            "MOLT_WORKER_LINGER_MS": "0",
            "MOLT_WORKER_EXECUTORS": str(options.executor_count),
            "MOLT_COMPILED": "require" if way.compiled else "off",
            "MOLT_BUILD_DIR": str(self._context.builds or self._context.directory),
            **way.env,
            **options.extra_env,
        }
        threads = way.threads if way.threads is not None else options.server_threads
        spec = ServerSpec(
            name=f"{self._study}-{way.name}",
            app=ASGI if way.asgi else WSGI,
            processes=1,
            threads=threads,
            ready_path="/healthz" if way.offload else "/light/",
            env=env,
            asgi=way.asgi,
        )
        return Server(spec, self._context.directory, self._context.root)

    def server(self, way: Way) -> Server:
        """The server of a way."""
        return self._servers[way.name]

    def url(self, way: Way, path: str) -> str:
        """A path on the server of a way."""
        return f"http://127.0.0.1:{self._servers[way.name].port}{path}"

    def settle(self) -> None:
        """Wait until no server computes any more: what clients have given up may go on for seconds in some.

        Raises:
            BenchError: one doesn't come to rest.
        """
        families = [server.family for server in self._servers.values()]
        until = time.monotonic() + LONGEST_S
        before = sum(map(cpu_seconds, families))
        while time.monotonic() < until:
            time.sleep(IDLE_S)
            now = sum(map(cpu_seconds, families))
            if now - before < IDLE_SHARE * IDLE_S:
                return
            before = now
        raise BenchError(f"{self._study}: a server still computes {LONGEST_S:g} s after its load")

    def load(self, way: Way, spec: LoadSpec, what: str) -> Sample:
        """Load it once, with all servers at rest before, and say what came of it."""
        self.settle()
        context = self._context
        context.reporter.running(f"{self._study}: {way.name}, {what}")
        self.count += 1
        with (
            Sampler(self.server(way).family, interval_s=context.options.sample_interval_s) as sampler,
            Load(context.k6, spec, context.directory, f"{self._study}-{way.name}-{self.count}") as load,
        ):
            result = load.wait()
        sample = Sample(result, sampler.usage)
        elsewhere = sampler.usage.other_cpu_seconds / sampler.usage.elapsed_s * 100
        if elsewhere > BUSY_ELSEWHERE_PERCENT:
            context.doubts.append(
                f"{self._study}: other programs took {elsewhere:.0f} % of a core ({way.name}, {what})."
            )
        p99 = sample.figures()["p99_ms"]
        text = f"{result.req_s:.0f} req/s" + (f", p99 {p99:.1f} ms" if p99 is not None else "")
        context.reporter.done(spec.duration_s, f"{self._study}: {way.name}, {what}: {text}")
        return sample

    def turns(self, number: int) -> list[Way]:
        """The ways in the order of a round: every second one goes backwards."""
        return self.ways if number % 2 == 0 else self.ways[::-1]
