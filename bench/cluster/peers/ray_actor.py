"""A Ray actor on this host."""

from __future__ import annotations

import logging
import os
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # before the import, which reads it

import ray

from bench.micro.peers.base import Peer, Setup

_STORE_BYTES = 80_000_000  # little more than Ray's least


class Echo:
    """What the actor is made of."""

    def echo(self, value: object) -> object:
        """Returns what it is given."""
        return value


class RayActor(Peer):
    """`ray.get` of one call at a time."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self._actor: Any = None

    def start(self) -> None:
        ray.init(
            num_cpus=1,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=_STORE_BYTES,
            _temp_dir=str(self.setup.scratch),
        )
        self._actor = ray.remote(Echo).remote()

    def call(self, payload: object) -> object:
        return ray.get(self._actor.echo.remote(payload))

    def stop(self) -> None:
        ray.shutdown()
