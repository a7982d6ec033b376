"""Goodput: one client that overflows, beside the first of one to three pools, under more load than one can bear."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.cluster.figures import Run
from bench.cluster.options import POOLS, Options
from bench.cluster.sites import PATIENCE_S, Site, free_ports
from bench.core.cpu import cpu_ns, spent_ns
from bench.core.processes import MARK_VARIABLE
from bench.micro.client_process import ClientProcess

WARMUP_S = 1.0
_COMMAND = (sys.executable, "-m", "bench.cluster.load")


class Goodput:
    """The pools, which stay up, and the bridges and the client of one run after the other.

    Args:
        directory: For logs and sockets.
    """

    def __init__(self, options: Options, directory: Path, mark: str) -> None:
        self._options = options
        self._site = Site(directory / "g", mark, "127.0.0.1", free_ports())
        self._mark = mark

    @contextmanager
    def up(self) -> Iterator[None]:
        """Has server and pools up. Raises Unavailable and PeerFailed."""
        with self._site:
            self._site.start_server()
            for number in range(max(POOLS)):
                self._site.start_pool(f"p{number}", self._options.executors)
            yield

    def run(self, pools: int, round_: int) -> Run:
        """One run with the bridges of so many pools. Raises PeerFailed."""
        bridges = [f"bridge-p{number}" for number in range(pools)]
        try:
            for number in range(pools):
                self._site.start_bridge(f"p{number}")
            return self._loaded(pools, round_, [self._site.pid(each) for each in ("server", *bridges)])
        finally:
            for each in bridges:
                self._site.stop(each)

    def _loaded(self, pools: int, round_: int, served_by: list[int]) -> Run:
        options, settings = self._options, self._site.environment("p0")
        seconds = options.defaults.goodput_s
        client = ClientProcess(
            self._site.folder / f"client-{pools}-{round_}.log",
            settings.pop(MARK_VARIABLE),
            _COMMAND,
            settings,
        )
        try:
            client.ask(
                "start",
                timeout_s=PATIENCE_S,
                client={"worker_name": "p0", "executors": options.executors, "nats_url": self._site.url},
            )
            before = cpu_ns(served_by)
            answer = client.ask(
                "run",
                timeout_s=WARMUP_S + seconds + PATIENCE_S,
                rate_s=options.rate_s,
                nap_ms=options.nap_ms,
                timeout_ms=options.timeout_ms,
                warmup_s=WARMUP_S,
                seconds=seconds,
                seed=options.seed + round_,
            )
            # The warm-up is under the same load.
            counted = seconds / (seconds + WARMUP_S)
            return Run(
                pools,
                round_,
                bridges_cpu_s=spent_ns(before, cpu_ns(served_by)) / 1e9 * counted,
                **answer,
            )
        finally:
            client.close()
