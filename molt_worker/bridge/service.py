"""Tells NATS of a bridge by its service API, so that ``nats micro`` shows pools, entrypoints and statistics.

The documents and the answering are nats-py's. Subscribing is not: a bridge takes requests only while its pool has room.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from nats.aio.client import Client
from nats.micro.service import EndpointInfo, EndpointStats, Service, ServiceConfig, ServiceInfo, ServiceStats

from molt_accel.cluster import wire
from molt_accel.ipc.messages import PING
from molt_accel.version import __version__
from molt_worker.bridge.bridge import GROUP, Bridge
from molt_worker.bridge.load import LoadMeter


class PoolService(Service):
    """What NATS is told of a pool.

    Args:
        client: The connection.
        bridge: Whose statistics these are.
        pool: The pool's name.
        meter: Of the pool's load, which is told as data of the entrypoint ``__ping__``.
        prefix: Of the subjects.
        facts: What else there is to tell: of the manifest, the host.
    """

    def __init__(
        self,
        client: Client,
        bridge: Bridge,
        pool: str,
        meter: LoadMeter,
        prefix: str,
        facts: Mapping[str, str],
    ) -> None:
        name = re.sub(r"[^A-Za-z0-9_-]", "-", pool)
        super().__init__(
            client,
            ServiceConfig(
                name=name,
                version=__version__,
                description=f"the pool {pool} of molt-worker",
                metadata=dict(facts),
                queue_group=GROUP,
            ),
        )
        self._bridge = bridge
        self._meter = meter
        self._prefix_of_entries = prefix

    def tell(self, name: str, fact: str) -> None:
        """Tell another fact from now on."""
        self._metadata[name] = fact

    def info(self) -> ServiceInfo:
        info = super().info()
        info.endpoints = [
            EndpointInfo(entry, self._subject_of(entry), GROUP) for entry in self._bridge.entries
        ]
        return info

    def stats(self) -> ServiceStats:
        stats = super().stats()
        stats.endpoints = [
            EndpointStats(
                name=entry,
                subject=self._subject_of(entry),
                queue_group=GROUP,
                num_requests=served.requests,
                num_errors=served.errors,
                processing_time=served.nanoseconds,
                average_processing_time=served.nanoseconds // max(1, served.requests),
                last_error=served.last_error or None,
                data=self._data_of(entry),
            )
            for entry, served in self._bridge.served.items()
        ]
        return stats

    def _data_of(self, entry: str) -> dict[str, Any]:
        """What NATS has no field for."""
        data = {"busy": self._bridge.served[entry].busy, "in_flight": self._bridge.in_flight}
        return {**data, **self._meter.load._asdict()} if entry == PING else data

    def _subject_of(self, entry: str) -> str:
        return wire.subject_of(self._prefix_of_entries, entry)
