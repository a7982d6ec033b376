"""What all peers have in common, seen from the caller."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from bench.micro import timing


class Unavailable(Exception):
    """A peer can't run here; the text says why."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What a peer is told before it starts.

    Attributes:
        scratch: A directory for this peer's files, the same for all its client processes. Its path is short
            enough for Unix sockets.
        workers: How many processes answer.
        first: Whether this is the first client process, which starts what several of them share.
        at: Where the processes answer that were started for it; empty: it starts them itself.
    """

    scratch: Path
    workers: int = 1
    first: bool = True
    at: str = ""


class Peer(ABC):
    """One way to have an object carried to another process and back.

    The other process takes the object apart and puts it together again (unpack, pack), as any process that works with
    it has to. Peers that carry bytes can also be told to carry them as they are.
    """

    def __init__(self, setup: Setup) -> None:
        self.setup = setup

    def available(self) -> str | None:
        """Why this peer can't run here, or None if it can."""
        return None

    @abstractmethod
    def start(self) -> None:
        """Starts or attaches to the processes that answer, and waits until they do."""

    @abstractmethod
    def call(self, payload: object) -> object:
        """Sends the payload, waits for the answer, and returns it."""

    def call_raw(self, data: bytes) -> object:
        """Carries the bytes there and back as they are, and returns them in memory that the caller may keep.

        Only for peers with `raw` in the table, and after `carry_raw`.
        """
        raise NotImplementedError(f"{type(self).__name__} carries objects only")

    def carry_raw(self, raw: bool) -> None:  # noqa: B027  # most tell it with each call
        """Tells the other process whether `call_raw` or, as at the start, `call` comes next."""

    @abstractmethod
    def stop(self) -> None:
        """Ends what `start` began; may be called after a `start` that failed half-way."""

    def rest(self) -> None:  # noqa: B027  # most peers take nothing while nothing is asked of them
        """Takes no processor until `wake`."""

    def wake(self) -> None:  # noqa: B027
        """Is ready for calls again."""

    def warm_up(self, payload: object, calls: int, *, raw: bool = False) -> None:
        """Makes calls that are not timed. Raises ValueError if the last answer is not what was sent."""
        call, answer = self._call(raw), payload
        for _ in range(calls):
            answer = call(payload)
        if answer != payload:
            raise ValueError("the answer is not what was sent")

    def latency(
        self, payload: object, *, calls: int, limit_s: float, pause_s: float, raw: bool = False
    ) -> list[int]:
        """Times calls one after another, in nanoseconds each."""
        return timing.latency(self._call(raw), payload, calls=calls, limit_s=limit_s, pause_s=pause_s)

    def throughput(self, payload: object, *, callers: int, start_at_ns: int, window_s: float) -> int:
        """How many calls so many callers complete in a window."""
        return timing.throughput(
            self.call, payload, threads=callers, start_at_ns=start_at_ns, window_s=window_s
        )

    def _call(self, raw: bool) -> timing.Call:
        return cast(timing.Call, self.call_raw) if raw else self.call


def load_from(package: str, target: str, setup: Setup) -> Peer:
    """The peer that a table names as `module:class`, not started yet. Raises Unavailable with the reason."""
    module_name, _, class_name = target.partition(":")
    try:
        module = importlib.import_module(f"{package}.{module_name}")
    except ModuleNotFoundError as error:
        raise Unavailable(f"{error.name} isn't installed") from error
    except ImportError as error:
        raise Unavailable(str(error)) from error
    peer: Peer = getattr(module, class_name)(setup)
    reason = peer.available()
    if reason is not None:
        raise Unavailable(reason)
    return peer
