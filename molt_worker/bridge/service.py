"""Tells NATS of a bridge by its service API, so that ``nats micro`` shows pools, entrypoints and statistics.

The documents and the answering are nats-py's. Subscribing is not: a bridge takes requests only while its pool has room.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from nats.aio.client import Client
from nats.micro.service import EndpointInfo, EndpointStats, Service, ServiceConfig, ServiceInfo, ServiceStats

from molt_accel.cluster import wire
from molt_accel.version import __version__
from molt_worker.bridge.bridge import GROUP, Bridge


class PoolService(Service):
    """What NATS is told of a pool.

    Args:
        client: The connection.
        bridge: Whose statistics these are.
        pool: The pool's name.
        prefix: Of the subjects.
        facts: What else there is to tell: of the manifest, the host.
    """

    def __init__(
        self, client: Client, bridge: Bridge, pool: str, prefix: str, facts: Mapping[str, str]
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
        self._subjects = {entry: wire.subject_of(prefix, entry) for entry in bridge.served}

    def info(self) -> ServiceInfo:
        info = super().info()
        info.endpoints = [EndpointInfo(entry, subject, GROUP) for entry, subject in self._subjects.items()]
        return info

    def stats(self) -> ServiceStats:
        stats = super().stats()
        stats.endpoints = [
            EndpointStats(
                name=entry,
                subject=self._subjects[entry],
                queue_group=GROUP,
                num_requests=served.requests,
                num_errors=served.errors,
                processing_time=served.nanoseconds,
                average_processing_time=served.nanoseconds // max(1, served.requests),
                last_error=served.last_error or None,
                data={"busy": served.busy, "in_flight": self._bridge.in_flight},
            )
            for entry, served in self._bridge.served.items()
        ]
        return stats
