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

from bench.harness.errors import BenchError
from bench.harness.options import Options
from bench.harness.processes import Family
from bench.harness.studies.study import (
    IDLE_S,
    IDLE_SHARE,
    LONGEST_S,
    Bed,
    Context,
    Study,
    Way,
    as_spread,
    cpu_seconds,
    shown,
)
from bench.harness.studies.sweep import iterations_per_ms
from bench.harness.table import Table

ROUNDS = {"quick": 1, "default": 2, "full": 5}
#: Requests that are sent and then hung up on, and the processor time that each would take in Python.
CLIENTS = 12
COST_MS = 300.0
#: How long the clients wait before they hang up: long enough for some to run.
PATIENCE_S = 0.25
WAYS = (
    Way("baseline", asgi=True),
    Way("offload", offload=True, asgi=True, env={"MOLT_WORKER_NAME": "bench-abort"}),
)


class Abort:
    """Hung-up requests, in the server and in executors."""

    name = "abort"
    title = "Clients that hang up"

    def load_seconds(self, options: Options) -> float:
        return ROUNDS[options.preset] * len(WAYS) * 4.0

    def run(self, context: Context) -> dict[str, Any]:
        iterations = round(COST_MS * iterations_per_ms())
        found: dict[str, list[dict[str, float]]] = {}
        with Bed(context, self.name, WAYS) as bed:
            for number in range(ROUNDS[context.options.preset]):
                for way in bed.turns(number):
                    context.reporter.running(f"{self.name}: {way.name}, round {number + 1}")
                    server = bed.server(way)
                    path = "/cost/offload-async/" if way.offload else "/cost/baseline/"
                    figures = hang_up(server.port, f"{path}?iterations={iterations}", path, server.family)
                    if way.offload:
                        figures |= _outcomes(context)
                    found.setdefault(way.name, []).append(figures)
                    text = f"free after {figures['free_after_ms']:.0f} ms, {figures['cpu_ms_after']:.0f} ms of CPU"
                    context.reporter.done(4.0, f"{self.name}: {way.name}, round {number + 1}: {text}")
        return {
            "title": self.title,
            "clients": CLIENTS,
            "cost_ms": COST_MS,
            "runs": {
                name: {key: as_spread([row.get(key) for row in rows]) for key in rows[-1]}
                for name, rows in found.items()
            },
        }

    def tables(self, section: Mapping[str, Any]) -> Iterator[Table]:
        rows = tuple(
            (
                name,
                shown(run["free_after_ms"], 0),
                shown(run["cpu_ms_after"], 0),
                shown(run["idle_after_ms"], 0),
                shown(run.get("cancelled"), 0),
            )
            for name, run in section["runs"].items()
        )
        columns = (
            "way", "another request is answered after, ms", "CPU spent for nobody, ms", "idle after, ms",
            "stopped, since the start",
        )  # fmt: skip
        title = f"{self.title}: {section['clients']} requests of {section['cost_ms']:g} ms each"
        yield Table(title, columns, rows)

    def sentences(self, section: Mapping[str, Any]) -> Iterator[str]:
        before, after = (section["runs"][name]["cpu_ms_after"]["median"] for name in ("baseline", "offload"))
        yield (
            f"After {section['clients']} clients hung up, the baseline spent {before:.0f} ms of processor time on "
            f"answers for nobody, offload {after:.0f} ms."
        )


def hang_up(port: int, heavy: str, light: str, family: Family) -> dict[str, float]:
    """Send requests, close their connections, and see what becomes of the server. Times in milliseconds."""
    clients = []
    for _ in range(CLIENTS):
        client = socket.create_connection(("127.0.0.1", port), timeout=LONGEST_S)
        client.sendall(f"GET {heavy} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        clients.append(client)
    time.sleep(PATIENCE_S)  # the clients' patience, not a wait for anything
    for client in clients:
        client.close()
    hung_up, before = time.monotonic(), cpu_seconds(family)
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
    spent, since, idle = cpu_seconds(family), free, free
    while time.monotonic() - since < IDLE_S:
        time.sleep(0.05)
        now = cpu_seconds(family)
        if now - spent > IDLE_SHARE * IDLE_S:
            spent, since, idle = now, time.monotonic(), time.monotonic()
        if time.monotonic() - hung_up > LONGEST_S:
            raise BenchError(f"the server is not idle {LONGEST_S:g} s after clients have hung up")
    return {
        "free_after_ms": (free - hung_up) * 1000,
        "idle_after_ms": (idle - hung_up) * 1000,
        "cpu_ms_after": (cpu_seconds(family) - before) * 1000,
    }


def _outcomes(context: Context) -> dict[str, float]:
    """How many requests the pool has stopped so far."""
    done = subprocess.run(
        [sys.executable, "-m", "molt_worker", "status", "--name", "bench-abort", "--json"],
        cwd=context.root,
        env={**os.environ, "MOLT_RUNTIME_DIR": str(context.directory / "pools")},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:  # over stdio there is no pool to look at
        return {}
    return {"cancelled": float(json.loads(done.stdout)["outcomes"]["Cancelled"])}


STUDY: Study = Abort()
