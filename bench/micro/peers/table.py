"""The table of peers. A further peer is one more entry here and a class in a module of its own."""

from __future__ import annotations

from dataclasses import dataclass

from bench.micro.payloads import MIB
from bench.micro.peers.base import Peer, Setup, load_from


@dataclass(frozen=True, slots=True)
class PeerInfo:
    """What the runner has to know of a peer without importing it.

    Attributes:
        target: `module:class`, the module relative to this package.
        carries: How the payload is written for its way.
        waits: What the side that waits for the other does meanwhile.
        sized: Whether its cost depends on the payload; else only the smallest payload is measured.
        threaded: Whether several threads may call at once; only such peers take part in throughput.
        shared: Whether several client processes use one set of workers; else each client has its own.
        raw: Whether it can also carry bytes as they are; from `RAW_FROM` on that is measured as well.
        polls: Whether it takes a processor while nothing is asked of it, so that it has to rest in the turns of others.
    """

    name: str
    title: str
    target: str
    carries: str
    waits: str
    sized: bool = True
    threaded: bool = False
    shared: bool = False
    raw: bool = False
    polls: bool = False


PEERS = {
    info.name: info
    for info in (
        PeerInfo(
            "c-park", "C, park", "native:Park", "nothing", "parks (native core's doorbell)", sized=False
        ),
        PeerInfo("c-spin", "C, spin", "native:Spin", "nothing", "spins, yields", sized=False),
        PeerInfo("c-policy", "C, as here", "native:Policy", "nothing", "as clients and executors do", sized=False),
        PeerInfo("ring", "bare ring, Python", "ring:Ring", "msgpack", "spins, yields, then parks", raw=True),
        PeerInfo(
            "shm", "Client.call, shm", "molt:Shm", "msgpack", "spins, yields, then parks",
            threaded=True, shared=True, raw=True,
        ),
        PeerInfo(
            "stdio", "Client.call, stdio", "molt:Stdio", "msgpack", "sleeps in poll", threaded=True, raw=True
        ),
        PeerInfo(
            "pipe", "multiprocessing.Pipe, send_bytes", "pipe:BytesPipe", "msgpack", "sleeps in read",
            threaded=True, raw=True,
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
            threaded=True,
        ),
        PeerInfo(
            "pebble", "Pebble ProcessPool", "pebble_pool:Pebble", "pickle", "sleeps in poll, on locks",
            threaded=True,
        ),
        PeerInfo(
            "gunicorn", "gunicorn dirty app", "dirty.client:Dirty", "gunicorn's TLV",
            "sleeps in recv, asyncio", threaded=True, shared=True,
        ),
    )
}  # fmt: skip


REFERENCES = ("ring", "shm", "pipe")
"""The peers that the others are compared with."""
RAW_FROM = MIB
"""From this size on, peers that carry bytes are also asked to carry them as they are. Below, writing an object as bytes
is a part of what a call costs; above, copying costs nearly all."""
_RAW = "-raw"


def row(peer: str, raw: bool) -> str:
    """The name under which figures of a peer stand: bytes that travel as they are have a row of their own."""
    return peer + _RAW if raw else peer


def of_row(name: str) -> tuple[str, bool]:
    """The peer of a row, and whether its bytes travel as they are."""
    return name.removesuffix(_RAW), name.endswith(_RAW)


def load(name: str, setup: Setup) -> Peer:
    """The peer of that name, not started yet. Raises Unavailable with the reason where it can't run."""
    return load_from(__package__, PEERS[name].target, setup)
