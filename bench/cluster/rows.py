"""The table of rows: what is called, where the other side is, and what the row is held against."""

from __future__ import annotations

from dataclasses import dataclass

from bench.micro.peers.base import Peer, Setup, load_from

PLACES = {
    "local": "the same host, without a network",
    "loopback": "the same host, over loopback",
    "namespaces": "another network namespace, behind a cable with a delay",
}


@dataclass(frozen=True, slots=True)
class Row:
    """What the runner has to know of a row without importing what it needs.

    Attributes:
        place: One of `PLACES`.
        target: `module:class`, the module relative to `bench.cluster.peers`.
        how: How the other side is run, and with which settings that are not its defaults.
        bare: The row that it is held against.
        served: What of the place it needs: `pool`, `responder`, `responder-uvloop`; empty: it starts its own.
        resident: Whether it stays up while others are measured. What has daemons that never rest does not.
        callers: How many may call at once.
    """

    name: str
    title: str
    place: str
    target: str
    how: str
    bare: str = "nats"
    served: str = ""
    resident: bool = True
    callers: int = 16


_BRIDGED = "nats-server, bridge and pool of one executor, a process each"
_RESPONDER = "nats-py, a callback that responds with what came; bytes as they are; as many tasks as callers"
ROWS = {
    row.name: row
    for row in (
        Row(
            "shm", "Client.call, shared memory", "local", "molt:Shm", "a pool of one executor; threads call"
        ),
        Row("nats", "bare NATS request", "loopback", "bare:Nats", _RESPONDER, served="responder"),
        Row(
            "nats-uvloop", "bare NATS request, uvloop", "loopback", "bare:NatsOnUvloop",
            "the same, with uvloop on both sides, as clients and bridges of this project have it where it is installed",
            served="responder-uvloop",
        ),
        Row("call", "Client.call, NATS", "loopback", "molt:Call", f"{_BRIDGED}; threads call", served="pool"),
        Row("acall", "Client.acall, NATS", "loopback", "molt:Acall", f"{_BRIDGED}; tasks call", served="pool"),
        Row(
            "ray", "Ray actor", "loopback", "ray_actor:RayActor",
            "ray.get(actor.echo.remote(x)), one actor on this host; no dashboard, no driver log; threads call",
            resident=False,
        ),
        Row(
            "celery", "Celery, Redis", "loopback", "celery_task:CeleryTask",
            "task.delay(x).get(), broker and results in Redis without persistence; one worker, pool solo, "
            "without gossip, mingle and heartbeat; threads call",
        ),
        Row(
            "far-link", "TCP echo, the cable itself", "namespaces", "bare:Link", "one byte, a thread that answers",
            "far-nats", "responder", callers=1,
        ),
        Row(
            "far-nats", "bare NATS request", "namespaces", "bare:Nats", _RESPONDER, "far-nats", "responder"
        ),
        Row(
            "far-call", "Client.call, NATS", "namespaces", "molt:Call", f"{_BRIDGED}; threads call", "far-nats",
            "pool",
        ),
        Row(
            "far-acall", "Client.acall, NATS", "namespaces", "molt:Acall", f"{_BRIDGED}; tasks call", "far-nats",
            "pool",
        ),
    )
}  # fmt: skip


def load(name: str, setup: Setup) -> Peer:
    """The peer of a row, not started yet. Raises Unavailable with the reason where it can't run."""
    return load_from("bench.cluster.peers", ROWS[name].target, setup)
