"""The seam between a call and how its bytes travel; `open_transport` is the one place that chooses.

A transport takes a request frame (`submit`) and hands back a `Pending`, which ends exactly once: with the
response frame, or with the error that stands for it.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable
from typing import Final, Protocol

from molt_accel.config import Config
from molt_accel.errors import MoltError, MoltWorkerUnavailable
from molt_accel.ipc.frame import Frame

Result = Frame | MoltError


class Pending:
    """A call in flight. Its transport resolves it once; one thread or one task waits for it."""

    __slots__ = ("_callback", "_gate", "generation", "request_id", "result")

    def __init__(self, request_id: int, generation: int = 0) -> None:
        self.request_id = request_id
        self.generation = generation
        self.result: Result | None = None
        # A bare lock is the cheapest thing a thread can wait for with a timeout and still see signals.
        self._gate = threading.Lock()
        self._gate.acquire()
        self._callback: Callable[[], object] | None = None

    @property
    def done(self) -> bool:
        """Whether the outcome is there."""
        return self.result is not None

    def resolve(self, result: Result) -> None:
        """Set the outcome. Only who took this call out of the transport's table may do so."""
        self.result = result
        self._gate.release()
        if self._callback is not None:
            self._callback()

    def wait(self, timeout_s: float | None) -> bool:
        """Block until the outcome is there (True) or the time is over (False)."""
        if self.result is not None:
            return True
        timeout = -1 if timeout_s is None else min(max(timeout_s, 0), threading.TIMEOUT_MAX)
        if self._gate.acquire(timeout=timeout):
            self._gate.release()
        return self.result is not None

    def on_done(self, callback: Callable[[], object]) -> None:
        """Have `callback` called at the outcome, at once if it is there; it may be called twice."""
        self._callback = callback
        if self.result is not None:
            callback()


class Transport(Protocol):
    """What a call needs of its transport. All methods are thread-safe."""

    @property
    def ready(self) -> bool:
        """Whether `submit` can go ahead without `start`."""

    @property
    def patience_s(self) -> float:
        """How long after its deadline a call's answer may still come, by the worker's own promises."""

    def start(self) -> None:
        """Start or attach to a worker. May block; raises MoltWorkerUnavailable."""

    def submit(self, frame: Frame) -> Pending:
        """Send a request. Raises MoltWorkerUnavailable, MoltBusy, or FrameError; then nothing was sent."""

    def abandon(self, pending: Pending, error: MoltError) -> bool:
        """End a call from this side and tell the worker to stop it. False if it had ended already."""

    def wait_ready(self, timeout_s: float) -> None:
        """Block until the worker has imported its exports. Raises MoltWorkerUnavailable."""

    def close(self) -> None:
        """Stop what was started; calls in flight end as cancelled."""


def _open_stdio(config: Config) -> Transport:
    from molt_accel.stdio import StdioTransport

    return StdioTransport(config)


def _open_inline(config: Config) -> Transport:
    # By name and only here: the client library doesn't depend on the worker's, except to stand in for it.
    inline = importlib.import_module("molt_worker.inline")
    transport: Transport = inline.InlineTransport(config)
    return transport


def _open_shm(config: Config) -> Transport:
    raise MoltWorkerUnavailable("this version has no shared-memory transport")


_OPENERS: Final[dict[str, Callable[[Config], Transport]]] = {
    "shm": _open_shm,
    "stdio": _open_stdio,
    "inline": _open_inline,
}
#: What `auto` tries, best first.
_AUTO: Final = ("shm", "stdio")


def open_transport(config: Config) -> Transport:
    """The transport that the configuration asks for.

    Raises:
        MoltWorkerUnavailable: none fits; the text says what was tried and why it doesn't fit.
    """
    tried = []
    for name in _AUTO if config.transport == "auto" else (config.transport,):
        try:
            return _OPENERS[name](config)
        except MoltWorkerUnavailable as exc:
            tried.append(f"{name}: {exc.detail}")
    raise MoltWorkerUnavailable("no transport: " + "; ".join(tried))
