"""Stands between the clients of this process and their workers, as long as a test wants something of their calls.

Each client gets a `StagedTransport` for its own one. That asks the layers of this moment, the last one first, where a
request goes and whether its outcome is forced. What comes back is a response or an error like a worker's, and `call.py`
makes of it what it always does. Without a layer every client has its own transport again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from molt_accel import client as clients
from molt_accel.bulkheads import Passage
from molt_accel.call import Call, Reply, make_call
from molt_accel.config import Config
from molt_accel.errors import BusyReason, MoltBusy, MoltClientClosed, MoltError
from molt_accel.ipc.messages import RESERVED_PREFIX, Request
from molt_accel.options import CallOptions
from molt_accel.testing.staged_call import StagedCall
from molt_accel.transports.base import PendingCall, Transport
from molt_accel.transports.connected import SLACK_S
from molt_accel.transports.line import Line
from molt_accel.transports.opening import open_transport
from molt_accel.transports.overflow import Overflow


@dataclass(eq=False)
class RecordedCall:
    """A call that a client of this process has made.

    Attributes:
        pool: Its name in MOLT_POOLS; ``default`` also for clients that are of none of them.
        entry: The entrypoint's name.
        payload: The object that the caller gave, no copy of it.
        options: All options of the call, those of its client or decorator included.
        metadata: What travels with it; of a view that is the request's id, language and time zone.
        reply: How it ended, if it succeeded.
        error: What it raised, if it failed.
    """

    pool: str
    entry: str
    payload: Any
    options: CallOptions
    metadata: dict[str, Any]
    reply: Reply | None = None
    error: BaseException | None = None


class Layer:
    """What a test wants of calls. A subclass says what."""

    def transport_for(self, stage: StagedTransport) -> Transport | None:
        """Where a client's requests go; None: as without this layer."""

    def force(self, stage: StagedTransport, request: Request) -> tuple[PendingCall | None] | None:
        """What `submit` returns for a request, in a tuple; None: as without this layer. May raise as `submit` does."""

    def record(self, call: RecordedCall) -> bool:
        """Take note of a call that is about to begin; False: of none."""
        return False


class StagedTransport:
    """A client's `Transport` while there are layers.

    Args:
        config: The client's configuration.
        real: The client's own transport.
    """

    def __init__(self, config: Config, real: Transport) -> None:
        self.config: Final = config
        self.real: Final = real
        self.closed = False

    @property
    def pool(self) -> str:
        """The pool's name in MOLT_POOLS; ``default`` also for a client that is of none of them."""
        return self.config.pool or "default"

    @property
    def is_shared(self) -> bool:
        """Whether this is the client that `client_for` returns."""
        client = clients.shared_client(self.pool)
        return client is not None and client._transport is self

    @functools.cached_property
    def inline(self) -> Any:
        """The inline transport with this client's exports."""
        return open_transport(dataclasses.replace(self.config, transport="inline"))

    @property
    def target(self) -> Transport:
        """Where requests go now."""
        for layer in reversed(_layers):
            transport = layer.transport_for(self)
            if transport is not None:
                return transport
        return self.real

    @property
    def ready(self) -> bool:
        return not self.closed and self.target.ready

    @property
    def max_wait_ms(self) -> int:
        return self.target.max_wait_ms

    @property
    def line(self) -> Line:
        return self.target.line

    @property
    def overflow(self) -> Overflow | None:
        return self.target.overflow

    def refusal(self, entry: str, left_ns: int | None) -> MoltBusy | None:
        return self.target.refusal(entry, left_ns)

    def busy(self, reason: BusyReason, wait_ns: int) -> MoltBusy:
        return self.target.busy(reason, wait_ns)

    @property
    def patience_s(self) -> float:
        return max(self.target.patience_s, SLACK_S)  # of a forced outcome, too

    def start(self) -> None:
        self._check()
        self.target.start()

    def wait_ready(self, timeout_s: float) -> None:
        self._check()
        self.target.wait_ready(timeout_s)

    def submit(self, request: Request) -> PendingCall | None:
        self._check()
        if not request.entry.startswith(RESERVED_PREFIX):
            for layer in reversed(_layers):
                forced = layer.force(self, request)
                if forced is not None:
                    return forced[0]
        target = self.target
        pending = target.submit(request)
        return None if pending is None else StagedCall(request, target, pending)

    def abandon(self, pending: PendingCall, error: MoltError) -> bool:
        if isinstance(pending, StagedCall):
            return pending.abandon(error)
        return self.real.abandon(pending, error)  # it began before there was a layer

    def close(self) -> None:
        self.closed = True
        self.real.close()

    def _check(self) -> None:
        if self.closed:
            raise MoltClientClosed


_layers: tuple[Layer, ...] = ()  # never changed, only replaced: calls on other threads read it
_lock = threading.RLock()


@contextlib.contextmanager
def laid(layer: Layer) -> Iterator[None]:
    """Add a layer, for as long as the context lasts."""
    global _layers
    with _lock:
        if not _layers:
            _raise_the_curtain()
        _layers = (*_layers, layer)
    try:
        yield
    finally:
        with _lock:
            _layers = tuple(each for each in _layers if each is not layer)
            if not _layers:
                _lower_the_curtain()


def _raise_the_curtain() -> None:
    vars(clients).update(open_transport=_open, make_call=_make_call)
    for client in list(clients.living):
        stage = StagedTransport(client.config, client._transport)
        client._transport = stage
        if client._finalizer.detach() is None:
            stage.closed = True
        else:
            client._finalizer = weakref.finalize(client, stage.close)


def _lower_the_curtain() -> None:
    vars(clients).update(open_transport=open_transport, make_call=make_call)
    for client in list(clients.living):
        if isinstance(client._transport, StagedTransport):
            client._transport = client._transport.real


def _open(config: Config) -> Transport:
    return StagedTransport(config, open_transport(config))


def _make_call(
    transport: Transport,
    options: CallOptions,
    payload: object,
    cancel_check: Callable[[], bool] | None = None,
    metadata: Mapping[str, Any] | None = None,
    passage: Passage | None = None,
    *,
    blocks: bool = False,
    value_only: bool = False,
) -> Call:
    given = transport, options, payload, cancel_check, metadata, passage
    if isinstance(transport, StagedTransport) and not options.entry.startswith(RESERVED_PREFIX):
        record = RecordedCall(transport.pool, options.entry, payload, options, dict(metadata or {}))
        noted = [layer.record(record) for layer in _layers]
        if any(noted):
            return _noting_its_end(make_call(*given, blocks=blocks), record, value_only)
    return make_call(*given, blocks=blocks, value_only=value_only)


def _noting_its_end(call: Call, record: RecordedCall, value_only: bool) -> Call:
    try:
        reply: Reply = yield from call
    except BaseException as exc:
        record.error = exc
        raise
    record.reply = reply
    return reply.value if value_only else reply
