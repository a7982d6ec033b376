"""A client process: hosts one peer, and does what the runner asks in lines of JSON on stdin. It ends when stdin does.

Each peer has client processes of its own, so that no peer's threads and garbage disturb another peer's calls.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from bench.micro.payloads import payload_of
from bench.micro.peers.base import Peer, Setup, Unavailable
from bench.micro.peers.table import load
from bench.micro.timing import thinned
from bench.micro.usage import Usage

Request = Mapping[str, Any]
Answer = dict[str, Any]


class Served(Protocol):
    """What carries out requests in a client process."""

    def handle(self, request: Request) -> Answer:
        """The answer to one request."""

    def close(self) -> None:
        """Ends what requests have begun."""


class Host:
    """Carries out requests on one peer, which `load` makes by its name."""

    def __init__(self, load: Callable[[str, Setup], Peer] = load) -> None:
        self._load = load
        self._peer: Peer | None = None
        self._payloads: dict[int, object] = {}
        self._raw = False
        self._acts: dict[str, Callable[[Request], Answer]] = {
            "start": self._start,
            "warm_up": self._warm_up,
            "latency": self._latency,
            "throughput": self._throughput,
            "rest": self._rest,
            "wake": self._wake,
        }

    def handle(self, request: Request) -> Answer:
        """The answer to one request. A failure is an answer, too: `unavailable` or `error`, with the reason."""
        try:
            return self._acts[request["do"]](request)
        except Unavailable as error:
            return {"unavailable": str(error)}
        except Exception as error:
            # To the log: the runner shows its end where a peer failed.
            traceback.print_exc()
            return {"error": f"{type(error).__name__}: {error}"}

    @property
    def peer(self) -> Peer:
        """The peer that was started."""
        if self._peer is None:
            raise RuntimeError("no peer was started")
        return self._peer

    def close(self) -> None:
        """Stops the peer."""
        if self._peer is not None:
            self._peer.stop()

    def _payload(self, size: int) -> object:
        if size not in self._payloads:
            self._payloads[size] = payload_of(size)
        return self._payloads[size]

    def _carry(self, raw: bool) -> None:
        if raw != self._raw:
            self.peer.carry_raw(raw)
            self._raw = raw

    def _start(self, request: Request) -> Answer:
        setup = Setup(Path(request["scratch"]), request["workers"], request["first"], request.get("at", ""))
        self._peer = self._load(request["peer"], setup)
        self._peer.start()
        # What importing left behind is out of the way: a collection in the middle of a call need not look at it.
        gc.collect()
        gc.freeze()
        return {}

    def _warm_up(self, request: Request) -> Answer:
        self._carry(False)
        self.peer.warm_up(self._payload(request["size"]), request["calls"])
        return {}

    def _latency(self, request: Request) -> Answer:
        payload, raw = self._payload(request["size"]), request["raw"]
        self._carry(raw)
        self.peer.warm_up(payload, request["warmup"], raw=raw)
        with Usage(request.get("pids", ())) as usage:
            samples = self.peer.latency(
                payload,
                calls=request["calls"],
                limit_s=request["limit_s"],
                pause_s=request["pause_s"],
                raw=raw,
            )
        figures = {
            "calls": len(samples),
            "mean_ns": sum(samples) / len(samples),
            "ordered_ns": thinned(samples),
        }
        return figures | usage.taken

    def _throughput(self, request: Request) -> Answer:
        self._carry(False)
        done = self.peer.throughput(
            self._payload(request["size"]),
            callers=request["callers"],
            start_at_ns=request["start_at_ns"],
            window_s=request["window_s"],
        )
        return {"calls": done}

    def _rest(self, _request: Request) -> Answer:
        self.peer.rest()
        return {}

    def _wake(self, _request: Request) -> Answer:
        self.peer.wake()
        return {}


def serve(host: Served) -> None:
    """Has `host` handle requests until stdin ends."""
    # Nothing else may write between the answers, so stdout becomes stderr for this process and its children.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        for line in sys.stdin:
            print(json.dumps(host.handle(json.loads(line))), file=answers, flush=True)
    finally:
        host.close()
        with contextlib.suppress(OSError):
            answers.close()


if __name__ == "__main__":
    serve(Host())
