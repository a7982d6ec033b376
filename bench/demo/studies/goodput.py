"""What happens past saturation: answers in time, against what is asked for, under the defaults.

What is kept at twice and at five times the capacity is answers in time a second over the best that the same round saw
at any load. A refused request takes processor time of the server and of k6, which on one machine the executors lack
then. That share is worked out too (`lost_of`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from bench.core.environment import available_cores
from bench.core.statistics import spread_json
from bench.core.tables import Table, number, with_range
from bench.demo.load.k6 import LoadSpec
from bench.demo.options import Options
from bench.demo.studies.cost import iterations_per_ms, path_of, warm
from bench.demo.studies.testbed import (
    DIRTY,
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
    summary,
)


class Size(NamedTuple):
    """What is measured. `shares` are offered load over capacity."""

    servers: tuple[str, ...]
    costs_ms: tuple[float, ...]
    shares: tuple[float, ...]
    peers: bool
    scale: Scale


SIZES = {
    "quick": Size(("gunicorn", "uvicorn"), (20.0,), (1.0, 2.0, 5.0), False, Scale(1, 2.0)),
    "default": Size(("gunicorn",), (20.0,), (1.0, 2.0, 5.0), False, Scale(1, 2.0)),
    "full": Size(tuple(SERVERS), (5.0, 20.0, 60.0), (0.5, 1.0, 2.0, 5.0), True, Scale(5, 3.0)),
}
#: Past saturation from here on.
PAST = 2.0
#: An answer that comes later is of no use. A few times what the most expensive one takes in a server at rest.
SLO_MS = 250.0
#: Clients give up some time after that, as a proxy in front would.
TIMEOUT_S = 1.0
#: In the closed loop that measures the capacity: for each executor one request that runs and one that waits.
CLIENTS_PER_EXECUTOR = 2
#: In the open loop as many as are due in a second, in which the slowest request ends, within these bounds.
LEAST_CLIENTS, MOST_CLIENTS = 20, 400
#: About so long a peer works on what was asked of it past saturation.
RECOVERY_S = 5.0
OFFLOAD = "offload"


class Turn(NamedTuple):
    """One variant in one round: its capacity in requests a second, and a run for each share."""

    capacity: float
    samples: dict[float, Sample]


def variants_of(server: str, peers: bool) -> tuple[Variant, ...]:
    """What is compared on a server: offload, and without a worker what one would do else."""
    asgi = SERVERS[server]
    made = [Variant(OFFLOAD, offload=True, asgi=asgi)]
    if peers:
        made += [Variant("baseline", asgi=asgi), Variant(POOL, asgi=asgi, peer=POOL)]
        if not asgi:  # uvicorn has none
            made.append(Variant(DIRTY, peer=DIRTY))
    return tuple(made)


class Goodput(Study):
    """Answers in time against offered load, by server and by the handler's cost.

    Peers run in the first round only: past saturation they compute for seconds on what nobody waits for any more.
    """

    name = "goodput"
    title = "Past saturation: answers in time against offered load"

    def variants(self, preset: str) -> tuple[Variant, ...]:
        size = SIZES[preset]
        return tuple(variant for server in size.servers for variant in variants_of(server, size.peers))

    def lasts_s(self, options: Options) -> float:
        size = SIZES[options.preset]
        rounds, seconds = size.scale.of(options)
        run_s, past = seconds + RUN_OVERHEAD_S, sum(share >= PAST for share in size.shares)
        turns = sum(1 if variant.is_peer else rounds for variant in self.variants(options.preset))
        peers = sum(variant.is_peer for variant in self.variants(options.preset))
        each = turns * (1 + len(size.shares)) * run_s + peers * past * RECOVERY_S
        return len(size.costs_ms) * each

    def run(self, testbed: Testbed) -> dict[str, Any]:
        size = SIZES[testbed.options.preset]
        rounds, seconds = size.scale.of(testbed.options)
        per_ms = iterations_per_ms()
        for variant in testbed.able(self.variants(testbed.options.preset)):
            warm(testbed, variant, per_ms)
        found: dict[tuple[str, float], dict[str, list[Turn]]] = {}
        for round_ in range(rounds):
            for server in size.servers:
                for cost in size.costs_ms:
                    cell = found.setdefault((server, cost), {})
                    for variant in testbed.turns(variants_of(server, size.peers), round_):
                        if variant.is_peer and round_:
                            continue
                        what = f"{server}, {cost:g} ms, round {round_ + 1}"
                        turn = self._turn(testbed, variant, round(cost * per_ms), seconds, what)
                        cell.setdefault(variant.name, []).append(turn)
        return {
            "title": self.title,
            "slo_ms": SLO_MS,
            "timeout_s": TIMEOUT_S,
            "iterations_per_ms": per_ms,
            "cells": [
                {
                    "server": server,
                    "handler_ms": cost,
                    "variants": {name: entry_of(turns, seconds) for name, turns in cell.items()},
                }
                for (server, cost), cell in found.items()
            ],
        }

    def _turn(self, testbed: Testbed, variant: Variant, iterations: int, seconds: float, what: str) -> Turn:
        def load(mode: str, clients: int, how: str, **more: Any) -> Sample:
            spec = LoadSpec(
                testbed.url(variant, path_of(variant)), mode, seconds, clients,
                queries=(f"iterations={iterations}",), expect_key="total", **more,
            )  # fmt: skip
            return testbed.load(self, variant, spec, f"{what}, {how}")

        clients = CLIENTS_PER_EXECUTOR * testbed.options.executor_count
        capacity = max(1.0, load("closed", clients, "capacity").load.req_s)
        samples = {}
        for share in SIZES[testbed.options.preset].shares:
            rate = max(1, round(capacity * share))
            clients = min(MOST_CLIENTS, max(LEAST_CLIENTS, rate))
            samples[share] = load(
                "open", clients, f"{share:g} x capacity", rate=rate, slo_ms=SLO_MS, timeout_s=TIMEOUT_S
            )
        return Turn(capacity, samples)

    def tables(self, section: Mapping[str, Any]) -> Iterator[Table]:
        columns = (
            "server", "handler ms", "served by", "offered / capacity", "in time/s", "p99 ms", "refused",
            "server, cores", "workers, cores", "k6, cores", "kept", "lost to refusals", "both",
        )  # fmt: skip
        rows = []
        for cell, name, entry in _entries(section):
            for point in entry["points"]:
                run, share = point["run"], f"{point['share']:g}"
                rows.append(
                    (
                        cell["server"],
                        f"{cell['handler_ms']:g}",
                        name,
                        share,
                        with_range(run["goodput_req_s"], 0),
                        with_range(run["p99_ms"], 0),
                        with_range(run["refused_share"], 2),
                        *(number(run[f"{part}_cores"]["median"], 2) for part in ("server", "worker", "k6")),
                        *(
                            with_range(entry[what].get(share), 2)
                            for what in ("kept", "lost", "kept_and_lost")
                        ),
                    )
                )
        title = f"{self.title} (in time: within {section['slo_ms']:g} ms; a peer's processes count as the server's)"
        yield Table(title, columns, tuple(rows), left=3)

    def sentences(self, section: Mapping[str, Any]) -> Iterator[str]:
        for cell, name, entry in _entries(section):
            shares = " and ".join(
                f"{kept['median']:.0%} at {share} times" for share, kept in entry["kept"].items()
            )
            where = f"{cell['server']}, handler of {cell['handler_ms']:g} ms, {name}"
            yield f"{where}: of the best goodput, {shares} the capacity is kept."

    def plot(self, figure: Any, section: Mapping[str, Any]) -> None:
        servers = list(dict.fromkeys(cell["server"] for cell in section["cells"]))
        costs = list(dict.fromkeys(cell["handler_ms"] for cell in section["cells"]))
        grid = figure.subplots(len(servers), len(costs), squeeze=False, sharex=True, sharey=True)
        for cell in section["cells"]:
            axes = grid[servers.index(cell["server"])][costs.index(cell["handler_ms"])]
            for name, entry in cell["variants"].items():
                shares = [point["share"] for point in entry["points"]]
                found = [point["run"]["goodput_req_s"]["median"] for point in entry["points"]]
                best = max(found) or 1.0
                heights = [each / best for each in found]
                axes.plot(shares, heights, marker="o", markersize=3, label=name, color=VARIANT_COLOURS[name])
            axes.set_title(f"{cell['server']}, {cell['handler_ms']:g} ms", fontsize=9)
            axes.set_ylim(0, 1.05)
            axes.grid()
        for axes in grid[-1]:
            axes.set_xlabel("offered load / capacity")
        for axes in grid[:, 0]:
            axes.set_ylabel("in time / best")
        lines, names = grid[0][0].get_legend_handles_labels()
        figure.legend(lines, names, loc="outside lower center", fontsize=8, ncols=4)

    def plot_height(self, section: Mapping[str, Any]) -> float:
        return 1.2 + 2.2 * len({cell["server"] for cell in section["cells"]})


def entry_of(turns: Sequence[Turn], seconds: float) -> dict[str, Any]:
    """What is said of one variant on one server at one cost. Shares are keys as texts, as JSON has them."""
    shares = list(turns[0].samples)
    past = [share for share in shares if share >= PAST]
    kept = {f"{share:g}": [kept_of(turn, share) for turn in turns] for share in past}
    lost = {f"{share:g}": [lost_of(turn, share, seconds) for turn in turns] for share in past}
    both = {
        share: [one + other for one, other in zip(kept[share], lost[share], strict=True)] for share in kept
    }
    return {
        "capacity_req_s": spread_json(turn.capacity for turn in turns),
        "points": [
            {"share": share, "run": _point([turn.samples[share] for turn in turns], seconds)}
            for share in shares
        ],
        **{
            name: {share: spread_json(rows) for share, rows in table.items()}
            for name, table in (("kept", kept), ("lost", lost), ("kept_and_lost", both))
        },
    }


def kept_of(turn: Turn, share: float) -> float:
    """Answers in time at a share, over the best of any share."""
    best = max(sample.load.within_slo for sample in turn.samples.values())
    return turn.samples[share].load.within_slo / best if best else 0.0


def lost_of(turn: Turn, share: float, seconds: float) -> float:
    """The share of all processor time that server and k6 spent on refused requests.

    That is what they spent in the run less what they would have spent on its answers at the best load. Requests that
    failed otherwise, such as those that a client gave up on, have their part in it by their number.
    """
    best = max(turn.samples.values(), key=lambda sample: sample.load.within_slo)
    sample = turn.samples[share]
    if not best.load.ok or not sample.load.refused:
        return 0.0
    spent = sample.front_cpu_s - best.front_cpu_s / best.load.ok * sample.load.ok
    refused = sample.load.refused / sum(sample.load.failed.values())
    return max(0.0, spent) * refused / (seconds * available_cores())


def _point(samples: Sequence[Sample], seconds: float) -> dict[str, Any]:
    loads = [sample.load for sample in samples]
    return summary(
        samples,
        goodput_req_s=[load.within_slo / seconds for load in loads],
        refused_share=[load.refused_share for load in loads],
        **cores(samples),
    )


def _entries(section: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], str, Mapping[str, Any]]]:
    for cell in section["cells"]:
        for name, entry in cell["variants"].items():
            yield cell, name, entry


def worst_kept(section: Mapping[str, Any], server: str, share: str) -> Mapping[str, Any] | None:
    """What offload keeps on a server at a share, with what refusals took, at the cost where that is least.

    None if it was not measured.
    """
    found: Iterable[Mapping[str, Any]] = (
        entry["kept_and_lost"][share]
        for cell, name, entry in _entries(section)
        if cell["server"] == server and name == OFFLOAD and share in entry["kept_and_lost"]
    )
    return min(found, key=lambda spread: spread["median"], default=None)


STUDY = Goodput()
