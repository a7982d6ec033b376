"""What studies share: the servers of the variants they compare, loaded in turn, and the figures of the runs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic, sleep
from types import TracebackType
from typing import Any, NamedTuple

from bench.core import BenchError
from bench.core.cpu import cpu_seconds, pids_of
from bench.core.processes import Family
from bench.core.progress import Reporter
from bench.core.statistics import ratio, spread_json
from bench.core.tables import Table
from bench.demo.load.k6 import K6, Load, LoadResult, LoadSpec
from bench.demo.load.pool_watch import PoolWatch
from bench.demo.load.sampling import Sampler, Usage, disturbance
from bench.demo.load.servers import Server, ServerSpec, StopReport, has_dirty_apps
from bench.demo.options import Options
from bench.demo.scenarios import DIRTY_APP
from bench.demo.settings import server_settings

#: A server is at rest when its processes took less than this share of a core for so long.
IDLE_SHARE = 0.1
IDLE_S = 0.3
LONGEST_S = 60.0
RUN_OVERHEAD_S = 0.3
"""What a run costs beyond its own seconds: to start k6 and to read its summary."""
WSGI = "demo.django_app.wsgi:application"
ASGI = "demo.django_app.asgi:application"


@dataclass(frozen=True, slots=True)
class Variant:
    """One variant of serving that a study compares with others. Equal variants of several studies share a server.

    Attributes:
        name: What the study calls it; of no matter for what its server is.
        offload: It has a worker.
        compiled: Its worker takes the compiled handler cores.
        asgi: It is served by uvicorn, else by gunicorn.
        peer: What serves the handler in place of a worker: `process-pool` or `dirty-app`.
        env: Further settings, as pairs.
    """

    name: str
    offload: bool = False
    compiled: bool = False
    asgi: bool = False
    peer: str = ""
    env: tuple[tuple[str, str], ...] = ()

    @property
    def server(self) -> Variant:
        """The variant as far as its server is concerned. A process pool is made by whichever server is asked for it."""
        return replace(self, name="", peer=self.peer if self.peer == DIRTY else "")

    @property
    def is_peer(self) -> bool:
        """Whether it is there to compare with: no worker serves it."""
        return not self.offload


POOL, DIRTY = "process-pool", "dirty-app"
SERVERS = {"gunicorn": False, "uvicorn": True}
"""Which servers serve an event loop."""

VARIANT_COLOURS = {
    "baseline": "#7f8c9b", "alone": "#9aa5b1", "offload": "#d9622b", "compiled": "#d9622b", "python": "#e8a33d",
    POOL: "#4f8fc0", DIRTY: "#6aa36f", "hammered": "#e8a33d",
}  # fmt: skip


class Scale(NamedTuple):
    """How often a study repeats its runs, and how long each lasts."""

    rounds: int
    seconds: float

    def of(self, options: Options) -> Scale:
        """The same with the rounds that the options ask for."""
        return self if options.study_rounds is None else self._replace(rounds=options.study_rounds)


class Study(ABC):
    """One question. An instance has no state: what `run` finds is in the section of the document that it returns."""

    name: str
    title: str

    @abstractmethod
    def variants(self, preset: str) -> tuple[Variant, ...]:
        """What is compared. Those with a peer need what serves it."""

    @abstractmethod
    def lasts_s(self, options: Options) -> float:
        """About how many seconds its runs take."""

    @abstractmethod
    def run(self, testbed: Testbed) -> dict[str, Any]:
        """Loads its variants in interleaved rounds and returns the section, ready for JSON. Raises BenchError."""

    @abstractmethod
    def tables(self, section: Mapping[str, Any]) -> Iterator[Table]:
        """The tables of a section."""

    @abstractmethod
    def sentences(self, section: Mapping[str, Any]) -> Iterator[str]:
        """What the section says, in a sentence each."""

    @abstractmethod
    def plot(self, figure: Any, section: Mapping[str, Any]) -> None:
        """Draws the section's figures into a figure of matplotlib's."""

    def plot_height(self, section: Mapping[str, Any]) -> float:
        """The height of that figure in inches."""
        return 3.6


@dataclass(frozen=True, slots=True)
class Sample:
    """One run of one variant.

    Attributes:
        busy_share: The share of its executors that had a request, on average; None: not looked at.
    """

    load: LoadResult
    usage: Usage
    busy_share: float | None = None

    def slowest_ms(self, given_up_ms: float) -> float | None:
        """The p99 of all requests that were due; None: there were none.

        Those without a good answer count as answered when a client gives up. So refusals make no p99 better.
        """
        if not self.load.due:
            return None
        return given_up_ms if self.load.error_rate > 0.01 else self.figures()["p99_ms"]

    @property
    def front_cpu_s(self) -> float:
        """Processor seconds of what stands in front of the executors: the server, and k6."""
        return self.usage.parts["server"].cpu_seconds + self.usage.load_cpu_seconds

    def figures(self) -> dict[str, float | None]:
        """The run's figures by name, with the unit in the name."""
        latency = self.load.latency_ms or {}
        parts = {f"{name}_": part.cpu_seconds for name, part in self.usage.parts.items()}
        spent = {"": sum(parts.values())} | parts
        return {
            "req_s": self.load.req_s,
            **{f"{name}_ms": latency.get(name) for name in ("p50", "p95", "p99")},
            **{
                f"{name}cpu_ms_per_request": seconds * 1000 / self.load.ok if self.load.ok else None
                for name, seconds in spent.items()
            },
        }


def family_cpu_s(family: Family) -> float:
    """Processor seconds that the processes of a server have taken so far."""
    return sum(cpu_seconds(pid) or 0.0 for pid in pids_of(family))


def summary(samples: Sequence[Sample], **more: Sequence[float | None]) -> dict[str, Any]:
    """The figures of several rounds, each as a spread, and how many requests failed."""
    rows = [sample.figures() for sample in samples]
    found: dict[str, Sequence[float | None]] = {name: [row[name] for row in rows] for name in rows[0]}
    return {
        "rounds": len(samples),
        "errors": sum(sum(sample.load.failed.values()) + sample.load.dropped for sample in samples),
        **{name: spread_json(values) for name, values in {**found, **more}.items()},
    }


def sample_ratio(over: Sequence[Sample], under: Sequence[Sample], figure: str) -> dict[str, Any] | None:
    """Ratios of a figure within each round, as a spread."""
    found = ratio(
        *({n: each.figures()[figure] for n, each in enumerate(samples)} for samples in (over, under))
    )
    return None if found is None else found.as_json()


def cores(samples: Sequence[Sample]) -> dict[str, list[float]]:
    """How many processors the server, the worker and k6 kept busy in each run, by figures for `summary`."""
    spent: dict[str, Callable[[Usage], float]] = {
        "server_cores": lambda usage: usage.parts["server"].cpu_seconds,
        "worker_cores": lambda usage: usage.parts["worker"].cpu_seconds,
        "k6_cores": lambda usage: usage.load_cpu_seconds,
    }
    return {
        name: [
            seconds(each.usage) / each.usage.elapsed_s if each.usage.elapsed_s else 0.0 for each in samples
        ]
        for name, seconds in spent.items()
    }


def servers_of(studies: Sequence[Study], preset: str) -> list[Variant]:
    """The servers that studies need."""
    return list(dict.fromkeys(variant.server for study in studies for variant in study.variants(preset)))


class Testbed(AbstractContextManager["Testbed"]):
    """The servers of all variants of some studies, started side by side; all stay up while one at a time is loaded.

    Attributes:
        stopped: How the servers stopped, once the context is left.
    """

    def __init__(
        self,
        options: Options,
        k6: K6,
        reporter: Reporter,
        directory: Path,
        builds: Path | None,
        studies: Sequence[Study],
    ) -> None:
        self.options = options
        self.reporter = reporter
        self.directory = directory
        self.stopped: list[StopReport] = []
        self._usages: dict[str, list[Usage]] = {}
        self._k6 = k6
        self._builds = builds
        self._count = 0
        self._all_answered = True
        wanted = self.able(servers_of(studies, options.preset))
        self._servers = {variant: self._server(variant, number) for number, variant in enumerate(wanted)}

    def __enter__(self) -> Testbed:
        try:
            for server in self._servers.values():
                server.start()
            for server in self._servers.values():
                server.wait_ready()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for server in self._servers.values():
            server.ask_to_stop()
        self.stopped.extend(server.stop() for server in self._servers.values())

    def _server(self, variant: Variant, number: int) -> Server:
        env = {
            **server_settings(self.directory, builds=self._builds, compiled=variant.compiled),
            "MOLT_LOG_LEVEL": "error",
            "MOLT_WORKER_EXECUTORS": str(self.options.executor_count),
            **dict(variant.env),
            **self.options.extra_env,
        }
        spec = ServerSpec(
            name=f"study-{number}",
            app=ASGI if variant.asgi else WSGI,
            processes=1,
            threads=self.options.server_threads,
            ready_path="/healthz" if variant.offload else "/light/",
            env=env,
            asgi=variant.asgi,
            dirty_app=DIRTY_APP if variant.peer == DIRTY else "",
            dirty_workers=self.options.executor_count,
        )
        return Server(spec, self.directory)

    def warnings(self) -> list[str]:
        """What makes the figures of the studies doubtful, a sentence for each."""
        told = {name: disturbance(usages) for name, usages in self._usages.items()}
        return [f"{name}: {sentence}" for name, sentence in told.items() if sentence is not None]

    def able(self, variants: Sequence[Variant]) -> list[Variant]:
        """The variants that can run here: compiled ones need compiled handler cores, and a dirty app its gunicorn."""
        return [
            variant
            for variant in variants
            if (self._builds is not None or not variant.compiled)
            and (variant.peer != DIRTY or has_dirty_apps())
        ]

    def turns(self, variants: Sequence[Variant], number: int) -> list[Variant]:
        """The variants that can run, in the order of a round: every second round goes backwards."""
        return self.able(variants)[:: 1 if number % 2 == 0 else -1]

    def server(self, variant: Variant) -> Server:
        """The server of a variant."""
        return self._servers[variant.server]

    def url(self, variant: Variant, path: str) -> str:
        """A path on the server of a variant."""
        return f"http://127.0.0.1:{self.server(variant).port}{path}"

    def settle(self) -> None:
        """Waits until no server computes any more: some work for seconds on what their clients have given up.

        Raises BenchError if one doesn't come to rest.
        """
        families = [server.family for server in self._servers.values()]
        until = monotonic() + LONGEST_S
        before = sum(map(family_cpu_s, families))
        while monotonic() < until:
            sleep(IDLE_S)
            now = sum(map(family_cpu_s, families))
            if now - before < IDLE_SHARE * IDLE_S:
                return
            before = now
        raise BenchError(f"a server still computes {LONGEST_S:g} s after its load")

    def load(
        self, study: Study, variant: Variant, spec: LoadSpec, what: str, *, watched: bool = False
    ) -> Sample:
        """Loads a variant once, with all servers at rest before, and returns what came of it.

        Servers are at rest where the run before left no request unanswered; else they are waited for. The executors of
        a worker are looked at meanwhile if `watched`.
        """
        if not self._all_answered:
            self.settle()
        what = f"{study.name}: {variant.name}, {what}"
        self.reporter.running(what)
        self._count += 1
        server = self.server(variant)
        watch = PoolWatch(server.spec.env)
        with (
            watch if watched and variant.offload else nullcontext(),
            Sampler(server.family, interval_s=self.options.sample_interval_s) as sampler,
            Load(self._k6, spec, self.directory, f"study-{self._count}") as load,
        ):
            result = load.wait()
        self._all_answered = result.all_answered
        sample = Sample(result, sampler.usage, watch.busy_share)
        self._usages.setdefault(study.name, []).append(sampler.usage)
        p99 = sample.figures()["p99_ms"]
        text = f"{what}: {result.req_s:.0f} req/s" + (f", p99 {p99:.1f} ms" if p99 is not None else "")
        self.reporter.done(spec.lasts_s + RUN_OVERHEAD_S, text)
        return sample
