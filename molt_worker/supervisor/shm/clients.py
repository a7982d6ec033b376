"""The clients of a pool: who is attached, and which channels each of them holds.

A client may write to its channels after its connection has ended, because one of its threads may still run. And it may
be dead before its connection ends, because a child that it forked may hold the socket. So a channel is granted to
another client only when its last one said that it is done with it, or when the process of that one is dead.
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
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final, Protocol

from molt_accel.durations import NS_PER_MS, NS_PER_S
from molt_accel.errors import MoltError, MoltIncompatible, to_wire
from molt_accel.ipc import control, messages
from molt_accel.ipc.failpoint import failpoint
from molt_accel.ipc.frame import Fault, FrameError, Item
from molt_accel.ipc.messages import Attach, Hello, Message, Request, Response
from molt_accel.version import __version__
from molt_worker.runtime.log import LogSink
from molt_worker.runtime.loop import READ, EventLoop
from molt_worker.runtime.metrics import Counters
from molt_worker.supervisor.shm.bells import PER_CLIENT, Bells

_MAX_CLIENTS: Final = 1024  #: more connections are not from servers, but from a program that leaks them
#: Descriptors left to the rest of the worker by connections, which take two each. Bells take a sixteenth of all.
_OTHER_FDS: Final = 256
#: How long clients may take to return channels that another client wants. They do so as soon as they get a processor.
_RECALL_NS: Final = NS_PER_S
_PAUSE_NS: Final = 100_000_000  #: how long no connection is accepted when descriptors or memory have run out
_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_BACKLOG: Final = 128
#: How many new connections are accepted before the loop serves existing ones again.
_ACCEPTED_AT_ONCE: Final = 16


def max_clients() -> int:
    """How many connections this process can afford."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    left = limit - _OTHER_FDS - limit // 16
    affordable = _MAX_CLIENTS if limit == resource.RLIM_INFINITY else left // 2
    return max(8, min(_MAX_CLIENTS, affordable))


def _other_version(client: str) -> MoltIncompatible:
    return MoltIncompatible(
        f"this pool runs version {__version__}, {client}; restart the worker, "
        "or give the new version another MOLT_WORKER_NAME"
    )


@dataclass(eq=False)
class Channels:
    """Which channels are free. The lowest are granted first, because the supervisor looks at all up to the highest."""

    count: int
    is_idle: Callable[[int], bool]  #: no request is on a channel, so that another client may have it

    def __post_init__(self) -> None:
        self._free = list(range(self.count))

    def take(self, count: int) -> list[int]:
        """Take up to `count` free channels. Those that somebody has scribbled over stay until they are repaired."""
        taken = list(itertools.islice(filter(self.is_idle, self._free), min(count, self.count)))
        self._free = sorted({*self._free}.difference(taken))
        return taken

    def give_back(self, channel: int) -> None:
        """Add a channel, which is IDLE, to the free ones."""
        bisect.insort(self._free, channel)


@dataclass(eq=False)
class Attachment:
    """One connection on the control socket, and the channels of the client that has made it."""

    sock: socket.socket
    pid: int
    channels: set[int] = field(default_factory=set)
    returned: set[int] = field(default_factory=set)  #: channels that it returned with something on them
    bells: set[int] = field(default_factory=set)
    asked: Attach | None = None  #: an `Attach` that was not answered
    answer_ns: int = 0  #: when it has to be answered at the latest
    attached: bool = False
    observer: bool = False
    nested: bool = False  #: it is an executor of another pool
    wanted: int = 0  #: channels that it gets as soon as there are some
    refuse_ns: int = 0  #: it waits for a grant, and gets an empty one at this time; 0: it waits for none
    recalled: bool = False  #: it was asked to return channels, and has not answered
    connected: bool = True
    has_left: bool = False  #: it can't touch the arena any more: it said so, or its process is dead
    pidfd: int = -1

    def __post_init__(self) -> None:
        # A process that is dead already or in another pid namespace has none. Then the end of the socket has to do.
        with contextlib.suppress(OSError):
            self.pidfd = os.pidfd_open(self.pid) if self.pid else -1

    def is_done_with(self, channel: int) -> bool:
        """Whether the client can't touch this channel of its own any more, or said that it won't."""
        return self.has_left or channel in self.returned

    @property
    def counts(self) -> bool:
        """Whether it is a client that may call."""
        return self.attached and self.connected and not self.observer


class ClientsOwner(Protocol):
    """Keeps the pool that clients attach to."""

    def make_way(self) -> bool:
        """A client asks to attach. If the worker runs outdated code, reload it, or stop it if it has no clients.

        True if it stops.
        """

    def reload_ms(self) -> int:
        """How long a client that attaches now waits at most until no executor with older code takes a request.

        0: there is none.
        """

    def refusal(self, message: Attach) -> MoltError | None:
        """Why this client may not attach, or nobody just now."""

    def on_cancel(self) -> None:
        """A client gave up a request that an executor may have; the request's state word says which."""

    def on_clients_changed(self) -> None:
        """A client came, left, got or returned channels, or waits for some."""

    def pong(self, ping: Request) -> Response:
        """The answer to a ping."""


@dataclass(eq=False)
class Clients:
    """Accepts connections, and does what clients ask for."""

    listener: socket.socket  #: bound but not listening yet, non-blocking
    arena_fd: int  #: the descriptor that clients are given
    channels: Channels
    bells: Bells
    facts: dict[str, int]  #: what a client has to know of the pool: fields of `messages.Attached`
    loop: EventLoop
    log: LogSink
    counters: Counters
    owner: ClientsOwner  #: decides who may attach, and is told what happens

    def __post_init__(self) -> None:
        self._clients: list[Attachment] = []
        self._limit = max_clients()
        self._accept_ns = 0  #: when to accept again; 0: now
        self.greets = False  #: an executor was ready once, and clients are told so when they attach

    def __iter__(self) -> Iterator[Attachment]:
        return iter(list(self._clients))

    @property
    def count(self) -> int:
        """How many clients are attached and may call."""
        return sum(client.counts for client in self._clients)

    @property
    def keep(self) -> bool:
        """Whether one of them keeps the pool alive. Executors don't: two pools that call each other would, for ever."""
        return any(client.counts and not client.nested for client in self._clients)

    @property
    def asking(self) -> list[Attachment]:
        """Those that asked to attach, and wait for executors with newer code."""
        return [client for client in self._clients if client.connected and client.asked is not None]

    def listen(self) -> None:
        """Begin to accept connections."""
        self.listener.listen(_BACKLOG)
        self._watch_listener()

    def _watch_listener(self) -> None:
        self.loop.watch(self.listener.fileno(), READ, lambda _: self._accept())

    def on_timers(self, now_ns: int) -> None:
        """Accept connections again, and tell clients that there are no channels for them, if it is time for that."""
        self.refuse_waiting(now_ns)
        if self._accept_ns and now_ns >= self._accept_ns:
            self._accept_ns = 0
            if self.listener.fileno() >= 0:
                self._watch_listener()
        self.loop.at(self._accept_ns)

    def stop_listening(self) -> None:
        if self.listener.fileno() >= 0:
            self.loop.watch(self.listener.fileno(), 0)
            self.listener.close()

    def close(self) -> None:
        self.stop_listening()
        for client in self:
            client.sock.close()
            self._drop_pidfd(client)
        self._clients.clear()

    def tell_all(self, message: Message) -> None:
        """Send a message to all that are attached."""
        for client in self:
            if client.attached and client.connected:
                self.tell(client, message)

    def greet(self) -> None:
        """An executor is ready. If it is the first, tell all that are attached, and from now on each that attaches."""
        if not self.greets:
            self.greets = True
            self.tell_all(Hello())

    def tell(self, client: Attachment, message: Message | Response, fds: tuple[int, ...] = ()) -> None:
        """Send a message. A client that doesn't read is disconnected."""
        try:
            control.send(client.sock, message, fds)
        except BlockingIOError:
            self._disconnect(client, "it doesn't read")
        except ConnectionError:
            return  # what the client said before it closed the socket is still to be read
        except OSError as exc:
            self._disconnect(client, str(exc))

    def take_back(self, client: Attachment, channel: int) -> None:
        """Free a channel, which is IDLE, and which its client won't use again."""
        client.channels.discard(channel)
        client.returned.discard(channel)
        self.channels.give_back(channel)
        self._forget(client)

    # -- connections ------------------------------------------------------------------------------------

    def _accept(self) -> None:
        for _ in range(_ACCEPTED_AT_ONCE):
            try:
                sock, _ = self.listener.accept()
            except BlockingIOError:
                return
            except OSError as exc:
                self.log.log("warning", "client_refused", error=str(exc))
                if exc.errno in _EXHAUSTED:  # the socket stays readable, and must not keep the loop busy
                    self.loop.watch(self.listener.fileno(), 0)
                    self._accept_ns = self.loop.at(time.monotonic_ns() + _PAUSE_NS)
                return
            failpoint("supervisor.accepted")
            sock.setblocking(False)
            pid, uid = control.peer(sock)
            if len(self._clients) >= self._limit:
                self._make_room()
            if uid != os.getuid() or len(self._clients) >= self._limit:
                why = "too many connections" if uid == os.getuid() else f"user {uid} is not {os.getuid()}"
                self.log.log("warning", "client_refused", pid=pid, error=why)
                sock.close()
                continue
            client = Attachment(sock, pid)
            self._clients.append(client)
            self._watch(client)

    def _make_room(self) -> None:
        """Drop the oldest connection that has not attached. Clients attach as soon as they have connected."""
        silent = next((each for each in self if each.connected and not (each.attached or each.asked)), None)
        if silent is not None:
            self.log.log("warning", "client_refused", pid=silent.pid, error="it never attached")
            self._disconnect(silent, "")

    def _watch(self, client: Attachment) -> None:
        self.loop.watch(client.sock.fileno(), READ, lambda _: self._on_readable(client))
        if client.pidfd >= 0:
            self.loop.watch(client.pidfd, READ, lambda _: self._on_death(client))

    def _on_readable(self, client: Attachment) -> None:
        try:
            message, fds = control.receive(client.sock, messages.SHM_FROM_CLIENT)
        except BlockingIOError:
            return
        except FrameError as exc:
            self.counters.bad_frames += 1
            why = f"it sent a bad message: {exc.detail}"
            if exc.fault is Fault.VERSION and not client.attached:
                self.log.log("warning", "client_refused", pid=client.pid, error=why)
                # The client can't decode this either, but its version byte says that the worker is of another one.
                self.tell(
                    client, messages.Refused(to_wire(_other_version(f"the client's is an {exc.detail}")))
                )
            self._disconnect(client, why)
        except OSError as exc:
            self._disconnect(client, str(exc))
        else:
            control.close_all(fds)
            if message is None:
                self._disconnect(client, "")
            else:
                self._obey(client, message)

    def _obey(self, client: Attachment, message: Item) -> None:
        if isinstance(message, Request) and message.entry == messages.PING:
            self.tell(client, self.owner.pong(message))
        elif isinstance(message, Attach) and not client.attached and client.asked is None:
            self._attach(client, message)
        elif isinstance(message, messages.Lease) and client.attached and not client.observer:
            if not client.refuse_ns:
                client.refuse_ns = self.loop.at(time.monotonic_ns() + _RECALL_NS)
            self._want(client, message.count)
        elif isinstance(message, messages.Return):
            client.recalled = False
            returned = client.channels.intersection(message.channels)
            for channel in returned:
                if self.channels.is_idle(channel):
                    self.take_back(client, channel)
                else:  # the client lies, or another has scribbled over the state word
                    client.returned.add(channel)
            self.serve_waiting()
            if returned:  # else a client that has none to spare would be asked again and again
                self._recall_for_waiting()
            self.owner.on_clients_changed()
        elif isinstance(message, messages.LeaseBell) and client.attached and not client.observer:
            self._lend_bell(client)
        elif isinstance(message, messages.CancelChannel):
            if message.channel in client.channels:
                self.owner.on_cancel()
        elif isinstance(message, messages.Detach):
            client.has_left = True
            self._disconnect(client, "")
        else:
            self.counters.bad_frames += 1
            self._disconnect(client, f"it sent a {type(message).__name__} that nobody expects here")

    def _attach(self, client: Attachment, message: Attach) -> None:
        client.asked = message
        if not message.observer and self.owner.make_way():
            self._disconnect(client, "")  # the client finds the name free, and starts another worker
            return
        refusal = self.owner.refusal(message)
        if message.version != __version__:
            refusal = _other_version(f"the client is {message.version}")
        if refusal is not None:
            self.refuse(client, refusal)
        elif not message.observer and (reload_ms := self.owner.reload_ms()):
            client.answer_ns = time.monotonic_ns() + reload_ms * NS_PER_MS
            self.tell(client, messages.Reloading(reload_ms))
        else:
            self.admit(client)

    def refuse(self, client: Attachment, why: MoltError) -> None:
        """Answer a client that asked to attach: it can't. Does nothing if it was answered."""
        if client.asked is not None:
            client.asked = None
            self.tell(client, messages.Refused(to_wire(why)))

    def admit(self, client: Attachment) -> None:
        """Answer a client that asked to attach: give it its channels. Does nothing if it was answered."""
        message, client.asked = client.asked, None
        if message is None:
            return
        client.attached = True
        client.observer, client.nested = message.observer, message.nested
        granted = [] if client.observer else self.channels.take(message.channels)
        client.channels.update(granted)
        self.owner.on_clients_changed()  # before the client can publish: executors look at channels in use only
        failpoint("supervisor.granting")
        self.tell(client, messages.Attached(channels=granted, **self.facts), (self.arena_fd,))
        failpoint("supervisor.granted")
        self.log.log("debug", "client_attached", pid=client.pid, channels=len(granted))
        if self.greets:
            self.tell(client, Hello())
        if not granted and not client.observer:
            self._want(client, message.channels)  # the client's first call should not have to ask

    def _lend_bell(self, client: Attachment) -> None:
        lent = self.bells.lend() if len(client.bells) < PER_CLIENT else None
        if lent is None:
            self.tell(client, messages.GrantBell())
            return
        bell, reading_end = lent
        client.bells.add(bell)
        failpoint("supervisor.lending_bell")
        self.tell(client, messages.GrantBell(bell), (reading_end,))
        failpoint("supervisor.lent_bell")

    def _want(self, client: Attachment, count: int) -> None:
        client.wanted = min(count, self.channels.count)
        self.serve_waiting()
        if client.wanted:
            self._recall(client)
            self.owner.on_clients_changed()

    def serve_waiting(self) -> None:
        """Grant free channels to clients that want some. While several do, none gets more than its share."""
        waiting = [client for client in self if client.wanted]
        for client in waiting:
            count = client.wanted
            if len(waiting) > 1:
                count = min(count, max(1, self._share - len(client.channels)))
            if granted := self.channels.take(count):
                client.wanted = 0
                self._grant(client, granted)

    def _recall_for_waiting(self) -> None:
        """Ask for more channels: those that came back were too few for all who wait."""
        for client in self:
            if client.wanted:
                self._recall(client)

    @property
    def _share(self) -> int:
        return self.channels.count // max(1, self.count)

    def _grant(self, client: Attachment, granted: list[int]) -> None:
        client.refuse_ns = 0
        client.channels.update(granted)
        self.owner.on_clients_changed()
        self.tell(client, messages.Grant(granted))

    def _recall(self, wanting: Attachment) -> None:
        """No channel is free: ask clients that hold more than their share to return what they don't use.

        `refuse_waiting` tells the client that wants channels if none come in time. It gets those that come later.
        """
        share = self._share
        excess = [client for client in self if client.counts and len(client.channels) > share]
        if not excess or len(wanting.channels) >= share:
            wanting.wanted = 0
            if wanting.refuse_ns:
                self._grant(wanting, [])
            return
        for client in excess:
            if not client.recalled:  # a client that is stopped must not be flooded
                client.recalled = True
                self.tell(client, messages.Recall(len(client.channels) - share))

    def refuse_waiting(self, now_ns: int) -> None:
        """Tell clients that have waited long enough for channels that there are none."""
        for client in self:
            if 0 < client.refuse_ns <= now_ns:
                self._grant(client, [])
            self.loop.at(client.refuse_ns)

    # -- the end of a connection ------------------------------------------------------------------------

    def _on_death(self, client: Attachment) -> None:
        client.has_left = True
        self._drop_pidfd(client)
        if client.connected:  # a child that it forked holds the socket
            self._disconnect(client, "its process is gone")
        else:
            self.owner.on_clients_changed()
            self._forget(client)

    def _disconnect(self, client: Attachment, why: str) -> None:
        if not client.connected:
            return
        client.connected = False
        client.wanted = client.refuse_ns = 0
        self.loop.watch(client.sock.fileno(), 0)
        client.sock.close()
        if client.pidfd < 0:
            client.has_left = True
        if client.has_left:
            self._drop_pidfd(client)
        if client.attached and not client.observer:
            level, fields = ("info", {}) if not why else ("warning", {"error": why})
            self.log.log(level, "client_gone", pid=client.pid, channels=len(client.channels), **fields)
        self._forget(client)
        self.owner.on_clients_changed()

    def _forget(self, client: Attachment) -> None:
        if not client.connected and client.has_left:
            self.bells.take_back(client.bells)
            client.bells.clear()
        if not client.connected and not client.channels and not client.bells and client in self._clients:
            self._drop_pidfd(client)
            self._clients.remove(client)

    def _drop_pidfd(self, client: Attachment) -> None:
        if client.pidfd >= 0:
            self.loop.watch(client.pidfd, 0)
            os.close(client.pidfd)
            client.pidfd = -1

    def quarantined(self) -> list[tuple[Attachment, int]]:
        """Channels that clients have returned with something on them, and all channels of clients that are gone."""
        return [
            (client, channel)
            for client in self
            for channel in list(client.returned if client.connected else client.channels)
        ]
