"""Asks NATS for the statistics of all bridges of a subject, and adds their loads up: what autoscalers go by.

Any one bridge can be asked, so whoever scales the pools needs to know none of them by name.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterable
from typing import Any, Final

from molt_accel.cluster import wire
from molt_accel.cluster.engine import Engine, EngineError, Incoming
from molt_accel.ipc.messages import PING

#: Where the service API is asked for statistics of all services.
SUBJECT: Final = "$SRV.STATS"
#: How long answers are waited for, in s. How many there will be nobody knows.
WAIT_S: Final = 0.5
#: So old, in s, an answer may be: many who ask at once cost one question.
FRESH_S: Final = 1.0
#: So many answers are read at most, and no figure is larger than that.
MOST: Final = 10_000
_MAX: Final = 2.0**53


class Survey:
    """The loads of all pools of a subject.

    Args:
        engine: The messaging system, connected.
        prefix: Of the subjects.
    """

    def __init__(self, engine: Engine, prefix: str) -> None:
        self._engine = engine
        self._subject = wire.subject_of(prefix, PING)
        self._lock = asyncio.Lock()
        self._last: dict[str, float] = {}
        self._until_s = 0.0

    async def total(self) -> dict[str, float]:
        """Ask, and return the sum: pools, queue_depth, running, executors, in_flight, and the mean busy_share.

        Raises EngineError: NATS can't be asked, or no pool is told of. An autoscaler must not take that for no load.
        """
        async with self._lock:
            if time.monotonic() >= self._until_s:
                total = total_of(await self._ask(), self._subject)
                if not total["pools"]:
                    raise EngineError(f"no bridge has told of its pool; may this one publish to {SUBJECT}?")
                self._last = total
                self._until_s = time.monotonic() + FRESH_S
            return self._last

    async def _ask(self) -> list[bytes]:
        answers: list[bytes] = []

        def take(message: Incoming) -> None:
            if not message.unheard and len(answers) < MOST:
                answers.append(message.data)

        inbox = self._engine.new_inbox()
        subscription = await self._engine.subscribe(inbox, take)
        try:
            await self._engine.publish(SUBJECT, b"", inbox)
            await asyncio.sleep(WAIT_S)
        finally:
            await subscription.drain()
        return answers


def total_of(answers: Iterable[bytes], subject: str) -> dict[str, float]:
    """Add up what bridges of pools answered; other services on the same NATS are left out.

    Args:
        answers: JSON documents of the service API.
        subject: Where these pools' pings go.
    """
    total = {"pools": 0.0, "queue_depth": 0.0, "running": 0.0, "executors": 0.0, "in_flight": 0.0}
    busy = 0.0
    for answer in answers:
        data = _data_of(answer, subject)
        if data is None:
            continue
        total["pools"] += 1
        for name in total.keys() & data.keys():
            total[name] += data[name]
        busy += data.get("busy_share", 0.0) * data.get("executors", 0.0)
    counts: dict[str, float] = {name: int(value) for name, value in total.items()}
    return {**counts, "busy_share": round(busy / max(1, total["executors"]), 4)}


def _data_of(answer: bytes, subject: str) -> dict[str, float] | None:
    """A pool's figures; None: it is no pool's answer. Anybody on this NATS may have sent it."""
    try:
        endpoints: Any = json.loads(answer)["endpoints"]
        for each in endpoints:
            if each["subject"] == subject and isinstance(each["data"], dict):
                data = {name: float(value) for name, value in each["data"].items()}
                return data if all(0 <= value <= _MAX for value in data.values()) else None
    except (ValueError, LookupError, TypeError, OverflowError, RecursionError):
        pass
    return None
