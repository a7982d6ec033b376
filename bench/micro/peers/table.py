"""The table of peers. A further peer is one more entry here and a class in a module of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bench.micro.payloads import KIB
from bench.micro.peers.base import Peer, Setup, load_from


@dataclass(frozen=True, slots=True)
class PeerInfo:
    """What the runner has to know of a peer without importing it.

    Attributes:
        target: `module:class`, the module relative to this package.
        carries: How the payload is written for its way.
        waits: What the side that waits for the other does meanwhile.
        sized: Whether its cost depends on the payload; else only the smallest payload is measured.
        callers: What several callers in one client process are; only peers that can have them take part in throughput.
        shared: Whether several client processes use one set of workers; else each client has its own.
        raw: Whether it can also carry bytes as they are; from `RAW_FROM` on that is measured as well.
        polls: Whether it takes a processor while nothing is asked of it, so that it has to rest in the turns of others.
        judged: Whether criteria are about it: it is measured in each round and under each condition, beside the other
            judged ones. The others are there to compare with, and take part in every third round.
        own_session: Whether the process that answers is in a session of its own, and not in its caller's.
        when: The conditions under which it is called; None: all of them. Without any, only its idle processor time is
            watched.
    """

    name: str
    title: str
    target: str
    carries: str
    waits: str
    sized: bool = True
    callers: Literal["", "thread", "task"] = ""
    shared: bool = False
    raw: bool = False
    polls: bool = False
    judged: bool = False
    own_session: bool = False
    when: tuple[str, ...] | None = None

    def called_under(self, condition: str) -> bool:
        """Whether it is called under a condition."""
        return self.when is None or condition in self.when


PEERS = {
    info.name: info
    for info in (
        PeerInfo(
            "c-park", "C, park", "native:Park", "nothing", "parks (native core's doorbell)", sized=False
        ),
        PeerInfo("c-spin", "C, spin", "native:Spin", "nothing", "spins, yields", sized=False),
        PeerInfo("c-policy", "C, as here", "native:Policy", "nothing", "as clients and executors do", sized=False),
        PeerInfo(
            "ring", "bare ring, Python", "ring:Ring", "msgpack", "spins or gives way, then parks", raw=True, judged=True
        ),
        PeerInfo(
            "shm", "Client.call, shm", "molt:Shm", "msgpack", "spins or gives way, then parks",
            callers="thread", shared=True, raw=True, judged=True, own_session=True,
        ),
        PeerInfo(
            "shm-same", "Client.call, shm, worker in the caller's session", "molt:SameSession", "msgpack",
            "spins or gives way, then parks", sized=False, callers="thread", judged=True,
        ),
        PeerInfo(
            "shm-io", "Client.call, shm, beside five requests that wait", "waiting:Waiting", "msgpack",
            "spins or gives way, then parks", sized=False, judged=True, own_session=True, when=("one", "all"),
        ),
        PeerInfo(
            "shm-same-io", "the same, worker in the caller's session", "waiting:SameSessionWaiting", "msgpack",
            "spins or gives way, then parks", sized=False, judged=True, when=("one", "all"),
        ),
        PeerInfo(
            "shm-park", "Client.call, shm, never staying awake", "molt:Parks", "msgpack",
            "parks", sized=False, judged=True, own_session=True, when=("one", "all"),
        ),
        PeerInfo(
            "shm-same-park", "the same, worker in the caller's session", "molt:SameSessionParks", "msgpack",
            "parks", sized=False, judged=True, when=("one", "all"),
        ),
        PeerInfo(
            "shm-4", "Client.call, shm, four executors", "molt:FourExecutors", "msgpack",
            "spins or gives way, then parks", judged=True, own_session=True, when=(),
        ),
        PeerInfo(
            "shm-8", "Client.call, shm, eight executors", "molt:EightExecutors", "msgpack",
            "spins or gives way, then parks", judged=True, own_session=True, when=(),
        ),
        PeerInfo(
            "acall", "Client.acall, shm, asyncio", "molt:Acall", "msgpack", "sleeps in the loop's selector",
            sized=False, callers="task", judged=True, own_session=True,
        ),
        PeerInfo(
            "acall-uvloop", "Client.acall, shm, uvloop", "molt:UvloopAcall", "msgpack",
            "sleeps in the loop's selector", sized=False, callers="task", own_session=True,
        ),
        PeerInfo(
            "stdio", "Client.call, stdio", "molt:Stdio", "msgpack", "sleeps in poll",
            callers="thread", raw=True, own_session=True,
        ),
        PeerInfo(
            "pipe", "multiprocessing.Pipe, send_bytes", "pipe:BytesPipe", "msgpack", "sleeps in read",
            callers="thread", raw=True, judged=True,
        ),
        PeerInfo(
            "pipe-own", "the same, other side in a session of its own", "pipe:OwnPipe", "msgpack", "sleeps in read",
            sized=False, callers="thread", judged=True, own_session=True,
        ),
        PeerInfo("pipe-pickle", "multiprocessing.Pipe, send", "pipe:PicklePipe", "pickle", "sleeps in read"),
        PeerInfo(
            "socket", "Unix socket, framed", "unix_socket:UnixSocket", "msgpack", "sleeps in recv", raw=True
        ),
        PeerInfo(
            "zmq", "pyzmq REQ/REP, ipc", "zeromq:ReqRep", "msgpack", "sleeps in poll, I/O thread", raw=True
        ),
        PeerInfo(
            "iceoryx2", "iceoryx2 request-response, polled", "iceoryx.client:Polled", "msgpack", "polls without end",
            raw=True, polls=True,
        ),
        PeerInfo(
            "iceoryx2-event", "iceoryx2 request-response, events", "iceoryx.client:Evented", "msgpack",
            "sleeps in the event's wait", raw=True,
        ),
        PeerInfo(
            "executor", "ProcessPoolExecutor", "executors:Executor", "pickle", "sleeps in read, on locks",
            callers="thread", judged=True,
        ),
        PeerInfo(
            "pebble", "Pebble ProcessPool", "pebble_pool:Pebble", "pickle", "sleeps in poll, on locks",
            callers="thread",
        ),
        PeerInfo(
            "gunicorn", "gunicorn dirty app", "dirty.client:Dirty", "gunicorn's TLV",
            "sleeps in recv, asyncio", callers="thread", shared=True,
        ),
        PeerInfo(
            "view", "a Django request, empty view", "view:View", "nothing", "-",
            sized=False, judged=True, when=("idle",),
        ),
        PeerInfo(
            "view-pipe", "the same, and a byte by a pipe to a program in C and back", "view:PipedView", "nothing",
            "sleeps in read", sized=False, judged=True, when=("idle",), own_session=True,
        ),
        PeerInfo(
            "view-offload", "the same, offloaded over shm", "view:OffloadedView", "msgpack, JSON",
            "spins or gives way, then parks", sized=False, judged=True, when=("idle",), own_session=True,
        ),
    )
}  # fmt: skip


REFERENCES = ("ring", "shm", "pipe")
"""The peers that the others are compared with. For `shm` and `pipe` their kind in the other session stands in."""
VIEWS = ("view", "view-pipe", "view-offload")
"""What is no call but a request of Django: without a call, with a hop to another process, and with a call."""
_SAME_KIND = {"shm": ("shm-same", "shm"), "pipe": ("pipe", "pipe-own")}
"""Of such a reference: the peer whose other side is in the caller's session, and the one where it is in its own."""
RAW_FROM = 256 * KIB
"""From this size on, peers that carry bytes are also asked to carry them as they are. Below, writing an object as bytes
is a part of what a call costs; above, copying costs nearly all."""
_RAW = "-raw"


def row(peer: str, raw: bool) -> str:
    """The name under which figures of a peer stand: bytes that travel as they are have a row of their own."""
    return peer + _RAW if raw else peer


def of_row(name: str) -> tuple[str, bool]:
    """The peer of a row, and whether its bytes travel as they are."""
    return name.removesuffix(_RAW), name.endswith(_RAW)


def like(reference: str, peer: str) -> str:
    """The peer that stands for a reference beside another peer: with its other side in the same kind of session."""
    return _SAME_KIND[reference][PEERS[peer].own_session] if reference in _SAME_KIND else reference


def load(name: str, setup: Setup) -> Peer:
    """The peer of that name, not started yet. Raises Unavailable with the reason where it can't run."""
    return load_from(__package__, PEERS[name].target, setup)
