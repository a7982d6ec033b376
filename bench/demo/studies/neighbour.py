"""What heavy clients do to a light view beside them: its latency, alone and beside more and more of them.

Those that are refused either wait as long as Retry-After says or ask again at once. The heavy ones begin before the
light view is measured, so that their first burst, which is to pass, is not what is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from bench.core.plots import log_scale
from bench.core.tables import Table, number, with_range
from bench.demo.load.k6 import Clients, LoadSpec
from bench.demo.options import Options
from bench.demo.studies.cost import iterations_per_ms, url_of, warm
from bench.demo.studies.testbed import (
    POOL,
    RUN_OVERHEAD_S,
    SERVERS,
    VARIANT_COLOURS,
    Sample,
    Scale,
    Study,
    Testbed,
    Variant,
    cores,
    sample_ratio,
    summary,
)


class Size(NamedTuple):
    """What is measured: on which servers, beside how many heavy clients, and with what it is compared."""

    servers: tuple[str, ...]
    clients: tuple[int, ...]
    peers: tuple[str, ...]
    scale: Scale


SIZES = {
    "quick": Size(("gunicorn", "uvicorn"), (32,), (), Scale(1, 2.0)),
    "default": Size(("gunicorn",), (4, 32), ("baseline",), Scale(1, 2.0)),
    "full": Size(tuple(SERVERS), (4, 8, 32, 128), ("baseline", POOL), Scale(5, 4.0)),
}
#: Requests a second to the light view: enough for a p99, too few to load the server by themselves.
LIGHT_RATE = 50
#: Those that ask it. Enough for answers that take seconds.
LIGHT_CLIENTS = 300
HEAVY_MS = 100.0
#: Before the light view is measured.
LEAD_S = 1.0
#: How long a client waits for an answer. In a peer, the last of many heavy requests takes seconds.
TIMEOUT_S = 15.0
#: More heavy clients than this keep a peer computing after the run: in the first round only.
FEW_CLIENTS = 4
#: The light view is to be as quick as so many times alone, and so many milliseconds.
TIMES_ALONE, MORE_MS = 3.0, 5.0
#: From so many heavy clients on, the server is under pressure.
MANY_CLIENTS = 32
PERCENTILES = ("p50", "p99")
OFFLOAD, HAMMERED = "offload", "hammered"
TITLES = {OFFLOAD: "offload", HAMMERED: "offload, hammered"}


def variants_of(server: str, peers: Iterable[str]) -> tuple[Variant, ...]:
    """What is compared on a server. Two of them are the same server under other clients."""
    asgi = SERVERS[server]
    offload = (Variant(name, offload=True, asgi=asgi) for name in (OFFLOAD, HAMMERED))
    return (*offload, *(Variant(name, asgi=asgi, peer=name if name == POOL else "") for name in peers))


class Neighbour(Study):
    """A light view beside heavy ones, by server and by the number of heavy clients."""

    name = "neighbour"
    title = "A light view beside heavy clients"

    def variants(self, preset: str) -> tuple[Variant, ...]:
        size = SIZES[preset]
        return tuple(variant for server in size.servers for variant in variants_of(server, size.peers))

    def lasts_s(self, options: Options) -> float:
        size = SIZES[options.preset]
        rounds, seconds = size.scale.of(options)
        run_s = LEAD_S + seconds + RUN_OVERHEAD_S
        alone = rounds * len(size.servers) * (seconds + RUN_OVERHEAD_S)
        return alone + sum(
            # In a peer, the last requests are waited for.
            run_s + (clients * HEAVY_MS / 1000 if variant.is_peer else 0.0)
            for variant in self.variants(options.preset)
            for clients in size.clients
            for round_ in range(rounds)
            if _takes_part(variant, clients, round_)
        )

    def run(self, testbed: Testbed) -> dict[str, Any]:
        size = SIZES[testbed.options.preset]
        rounds, seconds = size.scale.of(testbed.options)
        per_ms = iterations_per_ms()
        for variant in self.variants(testbed.options.preset):
            warm(testbed, variant, per_ms)
        alone: dict[str, list[Sample]] = {server: [] for server in size.servers}
        found: dict[tuple[str, int], dict[str, dict[int, Sample]]] = {}

        def load(variant: Variant, heavy: int, what: str) -> Sample:
            url = url_of(testbed, variant, HEAVY_MS * per_ms)
            honours = variant.name != HAMMERED
            spec = LoadSpec(
                testbed.url(variant, "/light/"), "open", seconds, LIGHT_CLIENTS, rate=LIGHT_RATE, expect_key="status",
                timeout_s=TIMEOUT_S, others=(Clients("heavy", url, heavy, honours),) if heavy else (),
                lead_s=LEAD_S if heavy else 0.0,
            )  # fmt: skip
            return testbed.load(self, variant, spec, what, watched=bool(heavy))

        for round_ in range(rounds):
            for server in size.servers:
                variants = variants_of(server, size.peers)
                alone[server].append(load(variants[0], 0, f"{server}, light view alone, round {round_ + 1}"))
                for clients in size.clients:
                    for variant in testbed.turns(variants, round_):
                        if _takes_part(variant, clients, round_):
                            what = f"{server}, {clients} heavy clients, round {round_ + 1}"
                            cell = found.setdefault((server, clients), {})
                            cell.setdefault(variant.name, {})[round_] = load(variant, clients, what)
        executors = testbed.options.executor_count
        return {
            "title": self.title,
            "light_rate": LIGHT_RATE,
            "heavy_ms": HEAVY_MS,
            "servers": {
                server: {
                    "alone": summary(alone[server]),
                    "points": [
                        {
                            "clients": clients,
                            "runs": {
                                name: point(runs, alone[server], executors)
                                for name, runs in found[server, clients].items()
                            },
                        }
                        for clients in size.clients
                    ],
                }
                for server in size.servers
            },
            "ratio_p99": _ratios(found),
        }

    def tables(self, section: Mapping[str, Any]) -> Iterator[Table]:
        columns = (
            "server", "heavy clients", "heavy view", *(f"light {each} ms" for each in PERCENTILES),
            "p99 / allowed", "heavy answers/s", "refused/s", "executors busy", "server, cores", "workers, cores",
            "k6, cores", "errors",
        )  # fmt: skip
        rows = []
        for server, part in section["servers"].items():
            light = (with_range(part["alone"][f"{each}_ms"], 1) for each in PERCENTILES)
            rows.append((server, "0", "alone", *light, *("-" for _ in columns[5:])))
            for clients, name, run in _runs(part):
                rows.append(
                    (
                        server,
                        str(clients),
                        TITLES.get(name, name),
                        *(with_range(run[f"{each}_ms"], 1) for each in PERCENTILES),
                        with_range(run["over_allowed"], 2),
                        *(with_range(run[f"heavy_{what}_s"], 0) for what in ("ok", "refused")),
                        with_range(run["busy_share"], 2),
                        *(number(run[f"{part}_cores"]["median"], 2) for part in ("server", "worker", "k6")),
                        str(run["errors"] + run["heavy_failed"]),
                    )
                )
        what = (
            f"{section['light_rate']} light requests/s, heavy ones of {section['heavy_ms']:g} ms "
            f"(allowed: {TIMES_ALONE:g} x alone + {MORE_MS:g} ms; refused clients wait as Retry-After says, and ask "
            "again at once where it says hammered; a process pool's processes count as the server's)"
        )
        yield Table(f"{self.title}: {what}", columns, tuple(rows), left=3)

    def sentences(self, section: Mapping[str, Any]) -> Iterator[str]:
        for server, part in section["servers"].items():
            points = [(clients, name, run) for clients, name, run in _runs(part) if clients == _most(part)]
            told = ", ".join(
                f"{with_range(run['p99_ms'], 1)} ms ({TITLES.get(name, name)})" for _, name, run in points
            )
            yield (
                f"{server}: the light view's p99 is {with_range(part['alone']['p99_ms'], 1)} ms alone, and beside "
                f"{_most(part)} heavy clients {told}."
            )

    def plot(self, figure: Any, section: Mapping[str, Any]) -> None:
        servers = section["servers"]
        grid = figure.subplots(1, len(servers), squeeze=False, sharey=True)[0]
        for axes, (server, part) in zip(grid, servers.items(), strict=True):
            lines: dict[str, list[tuple[int, float]]] = {}
            for clients, name, run in _runs(part):
                if run["p99_ms"] is not None:
                    lines.setdefault(name, []).append((clients, run["p99_ms"]["median"]))
            for name, places in lines.items():
                style = {"marker": "o", "markersize": 3, "color": VARIANT_COLOURS[name]}
                axes.plot(*zip(*places, strict=True), label=TITLES.get(name, name), **style)
            if part["alone"]["p99_ms"] is not None:
                alone = part["alone"]["p99_ms"]["median"]
                axes.axhline(alone, color="black", linewidth=0.8, linestyle=":", label="alone")
                allowed = TIMES_ALONE * alone + MORE_MS
                axes.axhline(allowed, color="black", linewidth=0.8, linestyle="--", label="allowed")
            log_scale(axes, "x", "y")
            counts = [point["clients"] for point in part["points"]]
            axes.set_xticks(counts, [str(count) for count in counts])
            axes.set_xlabel("heavy clients")
            axes.set_title(server, fontsize=9)
            axes.grid()
        grid[0].set_ylabel("light view's p99, ms")
        handles, names = grid[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", fontsize=8, ncols=3)


def _takes_part(variant: Variant, clients: int, round_: int) -> bool:
    return not (variant.is_peer and round_ and clients > FEW_CLIENTS)


def _most(part: Mapping[str, Any]) -> int:
    return max(int(each["clients"]) for each in part["points"])


def _runs(part: Mapping[str, Any]) -> Iterator[tuple[int, str, Mapping[str, Any]]]:
    for each in part["points"]:
        for name, run in each["runs"].items():
            yield each["clients"], name, run


def point(runs: Mapping[int, Sample], alone: Sequence[Sample], executors: int) -> dict[str, Any]:
    """The figures of one variant beside so many heavy clients.

    Args:
        runs: By round.
        alone: The light view alone, in each round.
        executors: How many the worker has.
    """
    samples = list(runs.values())

    def heavy(count: Callable[[Any], int]) -> list[float]:
        return [count(each.load.others["heavy"]) / each.load.duration_s for each in samples]

    return summary(
        samples,
        over_allowed=[over_allowed(sample, alone[round_]) for round_, sample in runs.items()],
        heavy_ok_s=heavy(lambda counts: counts.ok),
        heavy_refused_s=heavy(lambda counts: counts.refused),
        busy_share=[each.busy_share for each in samples],
        worker_cpu_share=[
            each.usage.parts["worker"].cpu_seconds / (each.usage.elapsed_s * executors) for each in samples
        ],
        **cores(samples),
    ) | {"heavy_failed": sum(each.load.others["heavy"].failed for each in samples)}


def over_allowed(beside: Sample, alone: Sample) -> float | None:
    """The light view's p99 beside heavy clients over what is allowed; None: nothing was asked."""
    (here, there) = (sample.slowest_ms(TIMEOUT_S * 1000) for sample in (beside, alone))
    return None if here is None or there is None else here / (TIMES_ALONE * there + MORE_MS)


def _ratios(found: Mapping[tuple[str, int], Mapping[str, Mapping[int, Sample]]]) -> dict[str, Any]:
    """By server: how many times better p99 is beside few clients than in the baseline."""
    ratios = {}
    for (server, clients), runs in found.items():
        if clients == FEW_CLIENTS and "baseline" in runs:
            baseline, offload = (list(runs[name].values()) for name in ("baseline", OFFLOAD))
            ratios[server] = sample_ratio(baseline, offload, "p99_ms")
    return ratios


def worst(section: Mapping[str, Any], server: str, name: str, figure: str, *, least: bool = False) -> Any:
    """A figure beside many heavy clients, where it is greatest (or least); None if it was not measured."""
    if server not in section["servers"]:
        return None
    found = [
        run[figure]
        for clients, variant, run in _runs(section["servers"][server])
        if clients >= MANY_CLIENTS and variant == name and run[figure] is not None
    ]
    choose = min if least else max
    return choose(found, key=lambda spread: spread["median"], default=None)


STUDY = Neighbour()
