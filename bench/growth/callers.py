"""Client processes that are attached to one pool, more and more of them, and what their calls cost."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench.core.statistics import percentile
from bench.growth.options import CHANNELS_OF_A_CLIENT, CLIENTS, EXECUTORS, PAYLOAD_BYTES
from bench.micro.client_process import ClientProcess, begin_window

_PATIENCE_S: Final = 60.0
_WARM_UP: Final = 100
_MOST_CALLS: Final = 100_000
_HEAD_START_NS: Final = 50_000_000  #: time for all callers to stand ready before a window begins
#: So that each client gets all the channels that it asks for, and nothing is refused for its wait.
SETTINGS: Final = {
    "MOLT_WORKER_MAX_QUEUE": str(CHANNELS_OF_A_CLIENT * CLIENTS[-1]),
    "MOLT_WORKER_ARENA_MB": "64",
    "MOLT_WORKER_QUEUE_TARGET_MS": "0",
}


@dataclass(frozen=True, slots=True)
class Turn:
    """One round with one number of clients: calls of one of them while the others are idle, then calls of all."""

    clients: int
    p50_us: float
    p99_us: float
    calls_s: float


class Callers:
    """Client processes of one pool. Ends them when the stack is closed."""

    def __init__(self, scratch: Path, mark: str, stack: ExitStack) -> None:
        self._scratch, self._mark, self._stack = scratch, mark, stack
        self._processes: list[ClientProcess] = []
        stack.callback(self._ask_to_stop)  # side by side, and after that each is waited for

    def grow(self, count: int) -> None:
        """Have so many attached. Raises PeerFailed or Unavailable."""
        while len(self._processes) < count:
            number = len(self._processes)
            client = ClientProcess(self._scratch / f"client{number}.log", self._mark, settings=SETTINGS)
            self._stack.callback(client.close)
            self._stack.callback(self._ask_to_stop)
            self._processes.append(client)
            client.ask(
                "start",
                peer="shm",
                scratch=str(self._scratch),
                workers=EXECUTORS,
                first=number == 0,
                timeout_s=_PATIENCE_S,
            )
            client.ask("warm_up", size=PAYLOAD_BYTES, calls=_WARM_UP, timeout_s=_PATIENCE_S)

    def turn(self, batch_s: float, window_s: float) -> Turn:
        """Measure with those that are attached. Raises PeerFailed."""
        one = self._processes[0].ask(
            "latency",
            size=PAYLOAD_BYTES,
            raw=False,
            warmup=_WARM_UP,
            calls=_MOST_CALLS,
            limit_s=batch_s,
            pause_s=0,
            timeout_s=batch_s + _PATIENCE_S,
        )
        begin_window(
            self._processes,
            size=PAYLOAD_BYTES,
            callers=1,
            window_s=window_s,
            head_start_ns=_HEAD_START_NS,
        )
        answers: list[dict[str, Any]] = [client.receive(window_s + _PATIENCE_S) for client in self._processes]
        ordered = one["ordered_ns"]
        return Turn(
            len(self._processes),
            percentile(ordered, 50) / 1000,
            percentile(ordered, 99) / 1000,
            sum(answer["calls"] for answer in answers) / window_s,
        )

    def _ask_to_stop(self) -> None:
        for client in self._processes:
            client.ask_to_stop()
