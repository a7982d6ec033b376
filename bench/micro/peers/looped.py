"""Callers that are tasks of one event loop."""

from __future__ import annotations

import asyncio
import time
from abc import abstractmethod

from bench.micro.peers.base import Peer, Setup
from bench.micro.timing import LEAST_CALLS


class Looped(Peer):
    """A peer that is called in an event loop, which runs only while something is asked of it."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self._runner = asyncio.Runner(loop_factory=self.new_loop)

    def new_loop(self) -> asyncio.AbstractEventLoop:
        """The loop that it runs on."""
        return asyncio.new_event_loop()

    @abstractmethod
    async def astart(self) -> None:
        """`start`, in the loop."""

    @abstractmethod
    async def acall(self, payload: object) -> object:
        """`call`, in the loop."""

    @abstractmethod
    async def astop(self) -> None:
        """`stop`, in the loop."""

    def start(self) -> None:
        self._runner.run(self.astart())

    def call(self, payload: object) -> object:
        return self._runner.run(self.acall(payload))

    def stop(self) -> None:
        self._runner.run(self.astop())
        self._runner.close()

    def latency(
        self, payload: object, *, calls: int, limit_s: float, pause_s: float, raw: bool = False
    ) -> list[int]:
        return self._runner.run(self._latency(payload, calls, limit_s, pause_s))

    async def _latency(self, payload: object, calls: int, limit_s: float, pause_s: float) -> list[int]:
        clock = time.perf_counter_ns
        samples: list[int] = []
        until = clock() + round(limit_s * 1e9)
        for _ in range(calls):
            begun = clock()
            await self.acall(payload)
            ended = clock()
            samples.append(ended - begun)
            if ended > until and len(samples) >= LEAST_CALLS:
                break
            if pause_s:
                await asyncio.sleep(pause_s)
        return samples

    def throughput(self, payload: object, *, callers: int, start_at_ns: int, window_s: float) -> int:
        return self._runner.run(self._throughput(payload, callers, start_at_ns, window_s))

    async def _throughput(self, payload: object, callers: int, start_at_ns: int, window_s: float) -> int:
        clock = time.monotonic_ns
        until = start_at_ns + round(window_s * 1e9)

        async def go_on() -> int:
            done = 0
            await asyncio.sleep(max(0, start_at_ns - clock()) / 1e9)
            while clock() < until:
                await self.acall(payload)
                done += clock() <= until
            return done

        return sum(await asyncio.gather(*(go_on() for _ in range(callers))))
