"""The clients of a pool: who is attached, which channels each holds, and when a channel is nobody's again.

The end of a connection does not say that nobody writes to its channels any more: a thread of the client may still run.
And a client may be dead though its connection has not ended: a child that it forked holds the socket. So a channel is
granted again only when its last client said that it is done with it, or when its process is known to be dead.
"""

from __future__ import annotations

import bisect
import contextlib
import errno
import itertools
import os
import resource
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Final, Protocol

from molt_accel.errors import MoltError, MoltIncompatible, to_wire
from molt_accel.ipc import control
from molt_accel.ipc.failpoint import failpoint
from molt_accel.ipc.frame import FrameError, Item
from molt_accel.ipc.messages import (
    PING,
    SHM_FROM_CLIENT,
    Attach,
    Attached,
    CancelChannel,
    Detach,
    Grant,
    Hello,
    Lease,
    Message,
    Recall,
    Refused,
    Request,
    Response,
    Return,
)
from molt_accel.version import __version__
from molt_worker.runtime.log import LogSink
from molt_worker.runtime.loop import READ, EventLoop
from molt_worker.runtime.metrics import Counters

#: More connections than this are not from servers, but from a program that leaks them.
_MAX_CLIENTS: Final = 1024
#: Descriptors that connections, which take two each, leave to the rest of the worker.
_OTHER_FDS: Final = 256
#: How long nobody is accepted where there is no descriptor or memory for it.
_PAUSE_NS: Final = 100_000_000
_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_BACKLOG: Final = 128
#: How many connections are accepted before others are served.
_ACCEPTED_AT_ONCE: Final = 16


def max_clients() -> int:
    """How many connections this process can afford."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return _MAX_CLIENTS
    return max(8, min(_MAX_CLIENTS, (limit - _OTHER_FDS) // 2))


class Channels:
    """Which channels are free. The lowest are granted first, so that few have to be looked at.

    Args:
        is_idle: Whether no request is on a channel, so that it can be another client's.
    """

    def __init__(self, count: int, is_idle: Callable[[int], bool]) -> None:
        self.count: Final = count
        self.is_idle: Final = is_idle
        self._free = list(range(count))

    def take(self, count: int) -> list[int]:
        """Up to so many free channels; not those that somebody has scribbled over, until they are repaired."""
        taken = list(itertools.islice(filter(self.is_idle, self._free), min(count, self.count)))
        self._free = sorted({*self._free}.difference(taken))
        return taken

    def give_back(self, channel: int) -> None:
        """A channel is IDLE, and nobody's."""
        bisect.insort(self._free, channel)


class Attachment:
    """One connection on the control socket."""

    def __init__(self, sock: socket.socket, pid: int) -> None:
        self.sock: Final = sock
        self.pid: Final = pid
        self.channels: set[int] = set()
        self.returned: set[int] = set()  #: those of them that it returned with something on them
        self.attached = False
        self.observer = False
        self.wanted = 0  #: channels that it gets as soon as there are some
        self.awaits_grant = False  #: it waits for an answer, be it that there are none
        self.recalled = False  #: was asked for channels, and has not answered
        self.connected = True
        self.has_left = False  #: it can't touch the arena any more: it said so, or its process is dead
        self.pidfd = -1
        # It may be dead already, or of another pid namespace: then the socket's end has to do.
        with contextlib.suppress(OSError):
            self.pidfd = os.pidfd_open(pid) if pid else -1

    def is_done_with(self, channel: int) -> bool:
        """Whether it can't touch a channel any more, or said that it doesn't."""
        return self.has_left or channel in self.returned

    @property
    def counts(self) -> bool:
        """Whether it is a client that calls are expected from."""
        return self.attached and self.connected and not self.observer


class ClientsOwner(Protocol):
    """Who keeps the pool that clients attach to."""

    def make_way(self) -> bool:
        """A client asks to attach. Stop the worker if it runs outdated code and has no clients; True if so."""

    def refusal(self, message: Attach) -> MoltError | None:
        """Why this client may not attach, or nobody just now."""

    def on_cancel(self) -> None:
        """A client gave up a request that an executor may have; its state word says which."""

    def on_clients_changed(self) -> None:
        """There are more or fewer, channels change hands, or somebody waits for some."""

    def pong(self, ping: Request) -> Response:
        """The answer to a ping."""


class Clients:
    """Accepts connections and serves what is asked on them.

    Args:
        listener: Bound but not listening yet, non-blocking.
        arena_fd: The descriptor that clients are given.
        facts: What a client has to know of the pool.
        owner: Decides, and is told.
    """

    def __init__(
        self,
        listener: socket.socket,
        arena_fd: int,
        channels: Channels,
        facts: dict[str, int],
        loop: EventLoop,
        log: LogSink,
        counters: Counters,
        owner: ClientsOwner,
    ) -> None:
        self._listener = listener
        self._arena_fd = arena_fd
        self._channels = channels
        self._facts = facts
        self._loop = loop
        self._log = log
        self._counters = counters
        self._owner = owner
        self._clients: list[Attachment] = []
        self._limit = max_clients()
        self._accept_ns = 0  #: when to accept again; 0: it does
        self.greets = False  #: an executor was ready once, and those who attach are told so

    def __iter__(self) -> Iterator[Attachment]:
        return iter(list(self._clients))

    @property
    def count(self) -> int:
        """How many are attached and may call."""
        return sum(client.counts for client in self._clients)

    def listen(self) -> None:
        """Begin to accept."""
        self._listener.listen(_BACKLOG)
        self._loop.watch(self._listener.fileno(), READ, lambda _: self._accept())

    def on_timers(self, now_ns: int) -> None:
        """Look at what has a time."""
        if self._accept_ns and now_ns >= self._accept_ns:
            self._accept_ns = 0
            if self._listener.fileno() >= 0:
                self._loop.watch(self._listener.fileno(), READ, lambda _: self._accept())
        self._loop.at(self._accept_ns)

    def stop_listening(self) -> None:
        """Accept nobody any more."""
        if self._listener.fileno() >= 0:
            self._loop.watch(self._listener.fileno(), 0)
            self._listener.close()

    def close(self) -> None:
        """Close every connection."""
        self.stop_listening()
        for client in self:
            client.sock.close()
            self._drop_pidfd(client)
        self._clients.clear()

    def tell_all(self, message: Message) -> None:
        """Send a message to everybody who is attached."""
        for client in self:
            if client.attached and client.connected:
                self.tell(client, message)

    def greet(self) -> None:
        """The first executor is ready: tell everybody who is attached, and who attaches from now on."""
        if not self.greets:
            self.greets = True
            self.tell_all(Hello())

    def tell(self, client: Attachment, message: Message | Response, fds: tuple[int, ...] = ()) -> None:
        """Send a message; a client that doesn't read is let go of."""
        try:
            control.send(client.sock, message, fds)
        except BlockingIOError:
            self._disconnect(client, "it doesn't read")
        except ConnectionError:
            return  # it has closed the socket. What it said before that, and its end, are still to be read
        except OSError as exc:
            self._disconnect(client, str(exc))

    def take_back(self, client: Attachment, channel: int) -> None:
        """A channel that its client won't use again is IDLE: it is free."""
        client.channels.discard(channel)
        client.returned.discard(channel)
        self._channels.give_back(channel)
        self._forget(client)

    # -- connections ------------------------------------------------------------------------------------

    def _accept(self) -> None:
        for _ in range(_ACCEPTED_AT_ONCE):  # the rest in the next turn: others have something to say, too
            try:
                sock, _ = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as exc:
                self._log.log("warning", "client_refused", error=str(exc))
                if exc.errno in _EXHAUSTED:  # it stays readable, and must not keep the loop busy
                    self._loop.watch(self._listener.fileno(), 0)
                    self._accept_ns = self._loop.at(time.monotonic_ns() + _PAUSE_NS)
                return
            failpoint("supervisor.accepted")
            sock.setblocking(False)
            pid, uid = control.peer(sock)
            if len(self._clients) >= self._limit:
                self._make_room()
            if uid != os.getuid() or len(self._clients) >= self._limit:
                why = "too many connections" if uid == os.getuid() else f"user {uid} is not {os.getuid()}"
                self._log.log("warning", "client_refused", pid=pid, error=why)
                sock.close()
                continue
            client = Attachment(sock, pid)
            self._clients.append(client)
            self._watch(client)

    def _make_room(self) -> None:
        """Drop the oldest connection that has not asked to attach; a client does so as soon as it has connected."""
        silent = next((client for client in self._clients if client.connected and not client.attached), None)
        if silent is not None:
            self._log.log("warning", "client_refused", pid=silent.pid, error="it never attached")
            self._disconnect(silent, "")

    def _watch(self, client: Attachment) -> None:
        self._loop.watch(client.sock.fileno(), READ, lambda _: self._on_readable(client))
        if client.pidfd >= 0:
            self._loop.watch(client.pidfd, READ, lambda _: self._on_death(client))

    def _on_readable(self, client: Attachment) -> None:
        try:
            message, fds = control.receive(client.sock, SHM_FROM_CLIENT)
        except BlockingIOError:
            return
        except FrameError as exc:
            self._counters.bad_frames += 1
            self._disconnect(client, f"it sent a bad message: {exc.detail}")
            return
        except OSError as exc:
            self._disconnect(client, str(exc))
            return
        control.close_all(fds)
        if message is None:
            self._disconnect(client, "")
            return
        self._obey(client, message)

    def _obey(self, client: Attachment, message: Item) -> None:
        if isinstance(message, Request) and message.entry == PING:
            self.tell(client, self._owner.pong(message))
        elif isinstance(message, Attach) and not client.attached:
            self._attach(client, message)
        elif isinstance(message, Lease) and client.attached and not client.observer:
            client.awaits_grant = True
            self._want(client, message.count)
        elif isinstance(message, Return):
            client.recalled = False
            for channel in message.channels:
                if channel in client.channels:
                    if self._channels.is_idle(channel):
                        client.channels.discard(channel)
                        self._channels.give_back(channel)
                    else:  # it lies, or somebody else has scribbled over the word
                        client.returned.add(channel)
            self.serve_waiting()
            self._owner.on_clients_changed()
        elif isinstance(message, CancelChannel):
            if message.channel in client.channels:
                self._owner.on_cancel()
        elif isinstance(message, Detach):
            client.has_left = True
            self._disconnect(client, "")
        else:
            self._counters.bad_frames += 1
            self._disconnect(client, f"it sent a {type(message).__name__} that nobody expects here")

    def _attach(self, client: Attachment, message: Attach) -> None:
        if not message.observer and self._owner.make_way():
            self._disconnect(client, "")  # it finds the name free, and starts a successor
            return
        refusal = self._owner.refusal(message)
        if message.version != __version__:
            refusal = MoltIncompatible(
                f"this pool runs version {__version__}, the client is {message.version}; restart the worker, "
                "or give the new version another MOLT_WORKER_NAME"
            )
        if refusal is not None:
            self.tell(client, Refused(to_wire(refusal)))
            return
        client.attached = True
        client.observer = message.observer
        granted = [] if client.observer else self._channels.take(message.channels)
        client.channels.update(granted)
        self._owner.on_clients_changed()  # before it can publish: executors look at channels in use only
        failpoint("supervisor.granting")
        self.tell(client, Attached(channels=granted, **self._facts), (self._arena_fd,))
        failpoint("supervisor.granted")
        self._log.log("debug", "client_attached", pid=client.pid, channels=len(granted))
        if self.greets:
            self.tell(client, Hello())
        if not granted and not client.observer:
            self._want(client, message.channels)  # its first call should not have to ask

    def _want(self, client: Attachment, count: int) -> None:
        client.wanted = min(count, self._channels.count)
        self.serve_waiting()
        if client.wanted:
            self._recall(client)
            self._owner.on_clients_changed()

    def serve_waiting(self) -> None:
        """Grant free channels to those who want some."""
        for client in self:
            if client.wanted and client.connected and (granted := self._channels.take(client.wanted)):
                client.wanted = 0
                self._grant(client, granted)

    def _grant(self, client: Attachment, granted: list[int]) -> None:
        client.awaits_grant = False
        client.channels.update(granted)
        self._owner.on_clients_changed()
        self.tell(client, Grant(granted))

    def _recall(self, wanting: Attachment) -> None:
        """No channel is free: ask clients that hold more than their share to return what they don't use.

        A client that gets nothing from that in time is told so by `refuse_waiting`; what comes later is granted then.
        """
        share = self._channels.count // max(1, self.count)
        excess = [client for client in self if client.counts and len(client.channels) > share]
        if not excess or len(wanting.channels) >= share:
            wanting.wanted = 0
            if wanting.awaits_grant:
                self._grant(wanting, [])
            return
        for client in excess:
            if not client.recalled:  # else it may be stopped, and would be flooded
                client.recalled = True
                self.tell(client, Recall(len(client.channels) - share))

    @property
    def anybody_waits(self) -> bool:
        """Whether a client waits to be granted channels, or told that there are none."""
        return any(client.awaits_grant for client in self._clients)

    def refuse_waiting(self) -> None:
        """Tell those who still wait for channels that there are none."""
        for client in self:
            if client.awaits_grant:
                self._grant(client, [])

    # -- the end of a connection ------------------------------------------------------------------------

    def _on_death(self, client: Attachment) -> None:
        client.has_left = True
        self._drop_pidfd(client)
        if client.connected:  # a child that it forked holds the socket
            self._disconnect(client, "its process is gone")
        else:
            self._owner.on_clients_changed()
            self._forget(client)

    def _disconnect(self, client: Attachment, why: str) -> None:
        if not client.connected:
            return
        client.connected = False
        client.wanted, client.awaits_grant = 0, False
        self._loop.watch(client.sock.fileno(), 0)
        client.sock.close()
        if client.pidfd < 0:
            client.has_left = True
        if client.has_left:
            self._drop_pidfd(client)
        if client.attached and not client.observer:
            level, fields = ("info", {}) if not why else ("warning", {"error": why})
            self._log.log(level, "client_gone", pid=client.pid, channels=len(client.channels), **fields)
        self._forget(client)
        self._owner.on_clients_changed()

    def _forget(self, client: Attachment) -> None:
        if not client.connected and not client.channels and client in self._clients:
            self._drop_pidfd(client)
            self._clients.remove(client)

    def _drop_pidfd(self, client: Attachment) -> None:
        if client.pidfd >= 0:
            self._loop.watch(client.pidfd, 0)
            os.close(client.pidfd)
            client.pidfd = -1

    def orphaned(self) -> Iterable[tuple[Attachment, int]]:
        """Channels that clients returned with something on them, and all those of clients that are gone."""
        return [
            (client, channel)
            for client in self
            for channel in list(client.returned if client.connected else client.channels)
        ]
