"""The client process of goodput: calls at random times, at a rate that does not wait for answers (an open loop).

Does what the runner asks in lines of JSON on stdin, as `bench.micro.caller` does.
"""

from __future__ import annotations

import asyncio
import random
import time
import traceback
from collections import Counter
from typing import Any

from bench.cluster.names import EXPORTS
from bench.micro.caller import Answer, Request, serve
from bench.micro.timing import thinned
from molt_accel import Client, MoltBusy, MoltError

LEARNING_CALLS = 20
"""Before anything else, one after another: what the entrypoint takes is known then, and which pool is the own one."""


class Load:
    """Carries out requests on one client."""

    def __init__(self) -> None:
        self._client: Client | None = None

    def handle(self, request: Request) -> Answer:
        """The answer to one request; a failure is one, too."""
        try:
            if request["do"] == "start":
                return self._start(**request["client"])
            return asyncio.run(self._run(request))
        except Exception as error:
            traceback.print_exc()
            return {"error": f"{type(error).__name__}: {error}"}

    def close(self) -> None:
        """Leaves the pools."""
        if self._client is not None:
            self._client.close()

    def _start(self, **settings: Any) -> Answer:
        self._client = Client(transport="shm", exports=EXPORTS, overflow="nats", **settings)
        self._client.start()
        return {}

    async def _run(self, request: Request) -> Answer:
        client = self._client
        assert client is not None
        nap_ms, timeout_ms = request["nap_ms"], request["timeout_ms"]
        for _ in range(LEARNING_CALLS):
            own = await client.acall("nap", nap_ms, timeout_ms=10_000)
        until_counted_s, whole_s = request["warmup_s"], request["warmup_s"] + request["seconds"]
        outcomes: Counter[str] = Counter()
        by_pool: Counter[str] = Counter()
        took_ns: list[int] = []
        behind_s = 0.0

        async def one(due_s: float, counts: bool) -> None:
            begun_ns = time.monotonic_ns()
            left_ms = max(1, round(timeout_ms - (begun_ns / 1e9 - due_s) * 1000))
            try:
                pool = await client.acall("nap", nap_ms, timeout_ms=left_ms)
            except MoltBusy:
                outcome = "busy"
            except MoltError as error:
                outcome = type(error).__name__
            else:
                ended_ns = time.monotonic_ns()
                in_time = ended_ns / 1e9 - due_s <= timeout_ms / 1000
                outcome = "in_time" if in_time else "late"
                if counts and in_time:
                    by_pool[str(pool)] += 1
                    took_ns.append(round(ended_ns - due_s * 1e9))
            if counts:
                outcomes[outcome] += 1

        chance = random.Random(request["seed"])
        begun_s = time.monotonic()
        cpu_s = None
        tasks: set[asyncio.Task[None]] = set()
        due_s = begun_s
        while (due_s := due_s + chance.expovariate(request["rate_s"])) < begun_s + whole_s:
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))
            counts = due_s >= begun_s + until_counted_s
            if counts and cpu_s is None:
                cpu_s = time.process_time()
            if counts:
                behind_s = max(behind_s, time.monotonic() - due_s)
            task = asyncio.create_task(one(due_s, counts))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        spent_s = time.process_time() - (cpu_s or 0.0)
        await asyncio.gather(*tasks)
        return {
            "seconds": request["seconds"],
            "outcomes": dict(outcomes),
            "own": by_pool.pop(str(own), 0),
            "others": sorted(by_pool.values(), reverse=True),
            "ordered_ns": thinned(took_ns),
            "behind_ms": behind_s * 1000,
            "client_cpu_s": spent_s,
        }


if __name__ == "__main__":
    serve(Load())
