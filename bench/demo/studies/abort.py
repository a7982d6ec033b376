"""Clients that hang up: is their work stopped, and how soon is the server there for others?"""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

from bench.core import BenchError
from bench.core.environment import ROOT
from bench.core.plots import bar, name_bars
from bench.core.processes import Family
from bench.core.statistics import spread_json
from bench.core.tables import Table, with_range
from bench.demo.load.servers import Server
from bench.demo.options import Options
from bench.demo.studies.cost import iterations_per_ms, path_of
from bench.demo.studies.testbed import (
    IDLE_S,
    IDLE_SHARE,
    LONGEST_S,
    VARIANT_COLOURS,
    Scale,
    Study,
    Testbed,
    Variant,
    family_cpu_s,
)

#: About so long a run takes, which has no load of k6's.
SCALES = {"quick": Scale(1, 4.0), "default": Scale(1, 4.0), "full": Scale(5, 4.0)}
#: Requests that are sent and then hung up on, and the processor time that each would take in Python.
CLIENTS = 12
COST_MS = 300.0
#: How long the clients wait before they hang up: long enough for some to run.
PATIENCE_S = 0.25
VARIANTS = (Variant("baseline", asgi=True), Variant("offload", offload=True, asgi=True))


class Abort(Study):
    """Hung-up requests, in the server and in executors."""

    name = "abort"
    title = "Clients that hang up"

    def variants(self, preset: str) -> tuple[Variant, ...]:
        return VARIANTS

    def lasts_s(self, options: Options) -> float:
        rounds, seconds = SCALES[options.preset].of(options)
        return rounds * len(VARIANTS) * seconds

    def run(self, testbed: Testbed) -> dict[str, Any]:
        rounds, seconds = SCALES[testbed.options.preset].of(testbed.options)
        iterations = round(COST_MS * iterations_per_ms())
        found: dict[str, list[dict[str, float]]] = {}
        testbed.settle()
        for number in range(rounds):
            for variant in testbed.turns(VARIANTS, number):
                what = f"{self.name}: {variant.name}, round {number + 1}"
                testbed.reporter.running(what)
                server = testbed.server(variant)
                path = path_of(variant)
                figures = hang_up(server.port, f"{path}?iterations={iterations}", path, server.family)
                if variant.offload:
                    figures |= _outcomes(server)
                found.setdefault(variant.name, []).append(figures)
                text = (
                    f"free after {figures['free_after_ms']:.0f} ms, {figures['cpu_ms_after']:.0f} ms of CPU"
                )
                testbed.reporter.done(seconds, f"{what}: {text}")
        return {
            "title": self.title,
            "clients": CLIENTS,
            "cost_ms": COST_MS,
            "runs": {
                name: {key: spread_json(row.get(key) for row in rows) for key in rows[-1]}
                for name, rows in found.items()
            },
        }

    def tables(self, section: Mapping[str, Any]) -> Iterator[Table]:
        columns = {
            "free_after_ms": "another request is answered after, ms",
            "cpu_ms_after": "CPU spent for nobody, ms",
            "idle_after_ms": "idle after, ms",
            "cancelled": "stopped, since the start",
        }
        rows = tuple(
            (name, *(with_range(run.get(figure), 0) for figure in columns))
            for name, run in section["runs"].items()
        )
        title = f"{self.title}: {section['clients']} requests of {section['cost_ms']:g} ms each"
        yield Table(title, ("variant", *columns.values()), rows)

    def sentences(self, section: Mapping[str, Any]) -> Iterator[str]:
        before, after = (section["runs"][name]["cpu_ms_after"]["median"] for name in ("baseline", "offload"))
        yield (
            f"After {section['clients']} clients hung up, the baseline spent {before:.0f} ms of processor time on "
            f"answers for nobody, offload {after:.0f} ms."
        )

    def plot(self, figure: Any, section: Mapping[str, Any]) -> None:
        axes = figure.subplots()
        figures = {
            "free_after_ms": "another request is answered after",
            "cpu_ms_after": "CPU spent for nobody",
        }
        for place, (name, run) in enumerate(section["runs"].items()):
            for index, figure in enumerate(figures):
                at, label = index + (place - 0.5) * 0.35, None if index else name
                bar(axes, at, run[figure], VARIANT_COLOURS[name], "%.0f", height=0.33, label=label)
        name_bars(axes, list(figures.values()), "ms (less is better)")
        axes.legend()


def hang_up(port: int, heavy: str, light: str, family: Family) -> dict[str, float]:
    """Sends requests, closes their connections, and sees what becomes of the server. Times in milliseconds.

    Raises BenchError if the server doesn't answer another request well, or doesn't come to rest.
    """
    clients = []
    for _ in range(CLIENTS):
        client = socket.create_connection(("127.0.0.1", port), timeout=LONGEST_S)
        client.sendall(f"GET {heavy} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        clients.append(client)
    time.sleep(PATIENCE_S)  # the clients' patience, not a wait for anything
    for client in clients:
        client.close()
    hung_up, before = time.monotonic(), family_cpu_s(family)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LONGEST_S)
    try:
        connection.request("GET", f"{light}?iterations=0")
        answer = connection.getresponse()
        answer.read()
    finally:
        connection.close()
    if answer.status != 200:
        raise BenchError(f"{light} answered {answer.status} after clients had hung up")
    free = time.monotonic()
    spent, since, idle = family_cpu_s(family), free, free
    while time.monotonic() - since < IDLE_S:
        time.sleep(0.05)
        now = family_cpu_s(family)
        if now - spent > IDLE_SHARE * IDLE_S:
            spent, since, idle = now, time.monotonic(), time.monotonic()
        if time.monotonic() - hung_up > LONGEST_S:
            raise BenchError(f"the server is not idle {LONGEST_S:g} s after clients have hung up")
    return {
        "free_after_ms": (free - hung_up) * 1000,
        "idle_after_ms": (idle - hung_up) * 1000,
        "cpu_ms_after": (family_cpu_s(family) - before) * 1000,
    }


def _outcomes(server: Server) -> dict[str, float]:
    """How many requests the pool of a server has stopped so far."""
    name = server.spec.env["MOLT_WORKER_NAME"]
    done = subprocess.run(
        [sys.executable, "-m", "molt_worker", "status", "--name", name, "--json"],
        cwd=ROOT,
        env={**os.environ, **server.spec.env},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:  # over stdio there is no pool to look at
        return {}
    return {"cancelled": float(json.loads(done.stdout)["outcomes"]["Cancelled"])}


STUDY = Abort()
