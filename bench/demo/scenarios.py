"""The table of scenarios: what is compared with what, one entry each.

A further scenario (another transport, another baseline) is one more entry of `SCENARIOS`. Scenarios of one group answer
a request with the same body, which the runner verifies before it measures.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from bench.core import BenchError
from bench.core.command import check_names
from bench.core.environment import available_cores
from bench.demo.options import Options

DIRTY_APP = "demo.django_app.dirty:Cores"

Role = Literal["baseline", "alternative", "offload"]
Runs = Literal["always", "full", "named"]


@dataclass(frozen=True, slots=True)
class Group:
    """Scenarios loaded with the same requests."""

    name: str
    title: str
    method: str
    queries: tuple[str, ...]
    expect_key: str


@dataclass(frozen=True, slots=True)
class Scenario:
    """One variant of serving a group's requests.

    Attributes:
        runs: Whether it runs with every preset, with --full only, or only when it is named.
        per_core: It has as many server processes as cores, instead of --server-processes.
        transport: Transport of the worker; None takes --transport, by default what fits best.
        compiled: It runs the handler's core as native code, in the worker or, for a baseline, in the server.
        headline: An offload that is compared with everything else; the other offloads are steps of the ablation.
        dirty_app: A dirty app that gunicorn runs beside the server, with as many workers as executors.
    """

    name: str
    title: str
    group: str
    role: Role
    path: str
    runs: Runs = "full"
    per_core: bool = False
    transport: str | None = None
    compiled: bool = False
    headline: bool = True
    dirty_app: str = ""
    env: Mapping[str, str] = field(default_factory=dict)


def _list_queries() -> tuple[str, ...]:
    """Searches, filters, sort orders and page sizes as a list endpoint sees them, always the same."""
    # Half of them misspelt, as searches are.
    searches = ("q=amber+table", "", "q=gardne+lamp", "q=silver+basket", "", "q=lihgt")
    filters = ("", "status=active", "tag=eco", "min_price=20&max_price=400", "status=active&status=sold_out")
    sorts = ("", "sort=price", "sort=-rating", "sort=-created")
    limits = ("limit=20", "limit=50", "limit=100")
    return tuple(
        "&".join(part for part in (searches[n % 6], filters[n % 5], sorts[n // 2 % 4], limits[n % 3]) if part)
        for n in range(60)
    )


GROUPS = {
    "list": Group("list", "list endpoint (GET)", "GET", _list_queries(), expect_key="items"),
    "data": Group("data", "data path (POST of a JSON table)", "POST", ("",), expect_key="groups"),
}

# fmt: off
SCENARIOS = (
    # name, title, group, role, path
    Scenario("baseline-threads", "baseline, threads", "list", "baseline", "/baseline/", "always"),
    Scenario("baseline-cores", "baseline, processes = cores", "list", "baseline", "/baseline/", "always",
             per_core=True),
    Scenario("baseline-threads-orjson", "baseline, threads, orjson", "list", "baseline", "/baseline-orjson/",
             "named"),
    Scenario("baseline-cores-orjson", "baseline, processes = cores, orjson", "list", "baseline",
             "/baseline-orjson/", per_core=True),
    Scenario("baseline-threads-compiled", "baseline, threads, orjson, compiled", "list", "baseline",
             "/baseline-orjson/", compiled=True),
    Scenario("baseline-cores-compiled", "baseline, processes = cores, orjson, compiled", "list", "baseline",
             "/baseline-orjson/", "always", per_core=True, compiled=True),
    Scenario("process-pool", "ProcessPoolExecutor in the view, orjson", "list", "alternative", "/process-pool/"),
    Scenario("dirty-app", "gunicorn's dirty app, orjson", "list", "alternative", "/dirty-app/",
             dirty_app=DIRTY_APP),
    Scenario("offload-stdio", "offload, stdio", "list", "offload", "/offload/",
             transport="stdio", headline=False),
    Scenario("offload-python", "offload, best transport", "list", "offload", "/offload/", "always",
             headline=False),
    Scenario("offload", "offload, best transport, compiled", "list", "offload", "/offload/", "always",
             compiled=True),
    Scenario("offload-cores", "offload, compiled, processes = cores", "list", "offload", "/offload/", "named",
             per_core=True, compiled=True),
    Scenario("data-baseline", "baseline, threads", "data", "baseline", "/data/baseline/"),
    Scenario("data-baseline-cores", "baseline, processes = cores", "data", "baseline", "/data/baseline/",
             per_core=True),
    Scenario("data-offload", "offload, compiled", "data", "offload", "/data/offload/", compiled=True),
    Scenario("data-offload-python", "offload", "data", "offload", "/data/offload/", "named", headline=False),
)
# fmt: on


@dataclass(frozen=True, slots=True)
class Layout:
    """Processes and threads of one scenario, as configured (what was seen stands in the usage figures)."""

    server_processes: int
    server_threads: int
    executors: int  # of one worker
    transport: str | None

    @property
    def workers(self) -> int | None:
        """How many workers there are: over stdio each server process has its own. None: not known yet."""
        if self.transport == "auto":
            return None
        return {"stdio": self.server_processes, "shm": 1}.get(self.transport or "", 0)

    def as_json(self) -> dict[str, Any]:
        """The JSON object of the results file."""
        return {
            "server_processes": self.server_processes,
            "server_threads": self.server_threads,
            "workers": self.workers,
            "executors": self.executors,
            "transport": self.transport,
        }


def layout(scenario: Scenario, options: Options) -> Layout:
    """How `scenario` is laid out under `options`."""
    processes = available_cores() if scenario.per_core else options.server_processes
    if scenario.role != "offload":
        return Layout(processes, options.server_threads, 0, None)
    transport = scenario.transport or options.transport
    return Layout(processes, options.server_threads, options.executor_count, transport)


def chosen(options: Options) -> tuple[Scenario, ...]:
    """The scenarios to run, in the table's order.

    Raises BenchError for an unknown name, and for a choice that leaves nothing to run.
    """
    wanted = ("always", "full") if options.preset == "full" else ("always",)
    if options.scenarios is not None:
        check_names("--scenarios", options.scenarios, [scenario.name for scenario in SCENARIOS])
    selection = tuple(
        scenario
        for scenario in SCENARIOS
        if (scenario.runs in wanted if options.scenarios is None else scenario.name in options.scenarios)
        and (options.data or scenario.group != "data")
    )
    if not selection:
        raise BenchError("no scenario is left to run: check --scenarios and --no-data")
    return selection
