"""Who is attached to a pool, which channels each holds, and when a channel is nobody's again."""

import os
import resource
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from molt_accel import __version__
from molt_accel.errors import MoltError, MoltIncompatible, Status, WorkerVanished, from_wire
from molt_accel.ipc import control
from molt_accel.ipc.frame import PREFIX_BYTES, VERSION, Item, encode
from molt_accel.ipc.messages import (
    PING,
    SHM_FROM_WORKER,
    Attach,
    Attached,
    CancelChannel,
    Detach,
    Draining,
    Grant,
    GrantBell,
    Hello,
    Lease,
    LeaseBell,
    Message,
    Recall,
    Refused,
    Request,
    Response,
    Return,
)
from molt_accel.ipc.shm.layout import NEVER
from molt_worker.runtime.loop import EventLoop
from molt_worker.runtime.metrics import Counters
from molt_worker.supervisor.shm import clients as clients_module
from molt_worker.supervisor.shm.bells import PER_CLIENT, Bells
from molt_worker.supervisor.shm.clients import Channels, Clients, max_clients
from tests.support.bells import small_arena
from tests.support.frames import message_of, message_saying
from tests.support.processes import exit_code, fork, wait_for_file, wait_until
from tests.support.scripted_forkserver import Logged

#: What a client has to know of the pool.
FACTS = {
    "max_frame_bytes": 50_000, "max_wait_ms": 60, "grace_ms": 70, "capacity": 80, "spin_ns": 90,
    "client_spinners": 2,
    "executors": 2,
    "queue_target_ms": 100,
}  # fmt: skip


class Peer:
    def __init__(self, path: str, turn: Callable[[], None] = lambda: None) -> None:
        self._turn = turn  # so that what was sent is heard
        self.sock = control.new_socket()
        self.sock.setblocking(False)
        try:
            self.sock.connect(path)
        except OSError:
            self.sock.close()
            raise

    def send(self, message: Message | Request) -> None:
        control.send(self.sock, message)
        self._turn()

    def ask(self, channels: int, version: str = __version__, *, observer: bool = False) -> None:
        self.send(Attach(version, observer, channels))

    def received(self) -> list[Item | str]:
        """What has come since, with what the descriptors stand for that came along; "the end" last."""
        found: list[Item | str] = []
        while True:
            try:
                message, fds = control.receive(self.sock, SHM_FROM_WORKER, max_fds=4)
            except BlockingIOError:
                return found
            except ConnectionResetError:
                message, fds = None, []
            if message is None:
                return [*found, "the end"]
            found.append(message)
            for fd in fds:
                found.append(os.readlink(f"/proc/self/fd/{fd}"))
                os.close(fd)

    def granted(self) -> list[int]:
        (grant,) = [each for each in self.received() if isinstance(each, Attached | Grant)]
        return grant.channels

    def close(self) -> None:
        self.sock.close()


class Desk(Logged):
    """The clients of a pool whose owner is the test."""

    def __init__(self, directory: str, channels: int = 12) -> None:
        self.path = os.path.join(directory, "desk")
        super().__init__()
        self.loop = EventLoop(self.sink)
        self.counters = Counters()
        self.channels = Channels(channels, lambda channel: channel not in self.in_use)
        self.arena_fd = os.memfd_create("the arena")
        listener = control.new_socket()
        listener.setblocking(False)
        listener.bind(self.path)
        self.bells = Bells(small_arena(), self.sink)
        self.clients = Clients(
            *(listener, self.arena_fd, self.channels, self.bells, FACTS),
            *(self.loop, self.sink, self.counters, self),
        )
        self.clients.greet()
        self.clients.listen()
        self.told: list[Any] = []
        self.in_use: set[int] = set()
        self.leaving = False
        self.reloading_ms = 0
        self.refuses: MoltError | None = None
        self.peers: list[Peer] = []
        self.on_change: Callable[[], object] = lambda: None

    # What `Clients` asks and tells.

    def make_way(self) -> bool:
        return self.leaving

    def reload_ms(self) -> int:
        return self.reloading_ms

    def refusal(self, message: Attach) -> MoltError | None:
        return self.refuses

    def on_cancel(self) -> None:
        self.told.append("cancel")

    def on_clients_changed(self) -> None:
        self.on_change()

    def pong(self, ping: Request) -> Response:
        return Response(ping.request_id, Status.OK, b"pong")

    # What the test does.

    @property
    def anybody_waits(self) -> bool:
        return any(client.refuse_ns for client in self.clients)

    def turn(self, turns: int = 30) -> None:
        for _ in range(turns):
            self.loop.at(1)
            self.loop.turn(self.clients.on_timers)

    def peer(self) -> Peer:
        peer = Peer(self.path, self.turn)
        self.peers.append(peer)
        self.turn(1)
        return peer

    def attached(self, channels: int, **told: Any) -> Peer:
        peer = self.peer()
        peer.ask(channels, **told)
        assert len(peer.granted()) == channels
        return peer

    def quarantined(self) -> dict[int, bool]:
        """Channels of clients that are gone, and whether that is certain."""
        return {channel: client.is_done_with(channel) for client, channel in self.clients.quarantined()}

    def lent(self) -> set[int]:
        """The bells that clients have."""
        return {bell for client in self.clients for bell in client.bells}

    def reclaim(self) -> None:
        for client, channel in self.clients.quarantined():
            if client.is_done_with(channel) and channel in client.channels:
                self.clients.take_back(client, channel)

    def close(self) -> None:
        for peer in self.peers:
            peer.close()
        self.clients.close()
        self.loop.close()
        self.bells.close()
        super().close()
        os.close(self.arena_fd)


MakeDesk = Callable[..., Desk]


@pytest.fixture
def make_desk() -> Iterator[MakeDesk]:
    desks: list[Desk] = []
    before = set(os.listdir("/proc/self/fd"))

    def make(**options: int) -> Desk:
        desks.append(Desk(os.environ["MOLT_RUNTIME_DIR"], **options))
        return desks[-1]

    yield make
    for desk in desks:
        assert "supervisor_bug" not in desk.log(), desk.log()
        desk.close()
    assert set(os.listdir("/proc/self/fd")) - before == set()


@pytest.fixture
def desk(make_desk: MakeDesk) -> Desk:
    return make_desk()


class ForkedPeer:
    """A client in a process of its own, which waits to be killed."""

    def __init__(
        self, desk: Desk, channels: int, tmp_path: Path, child: bool = False, bell: bool = False
    ) -> None:
        marker = tmp_path / f"forked{len(desk.peers)}"

        def work() -> None:
            peer = Peer(desk.path)
            peer.ask(channels)
            if bell:
                peer.send(LeaseBell())
            if child and (held := os.fork()) == 0:
                signal.pause()  # holds the socket, and nothing else
            marker.write_text(str(held) if child else "here")
            signal.pause()

        self.pid = fork(work)
        said = wait_for_file(marker)
        self.child = int(said) if child else 0
        wait_until(lambda: desk.turn(1) or desk.clients.count, 20)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        assert exit_code(self.pid) == -signal.SIGKILL


# -- channels ---------------------------------------------------------------------------------------------
def test_the_lowest_free_channels_are_taken_first() -> None:
    channels = Channels(6, lambda channel: True)
    assert channels.take(4) == [0, 1, 2, 3]
    for channel in (2, 0):
        channels.give_back(channel)
    assert channels.take(3) == [0, 2, 4]
    assert channels.take(9) == [5]
    assert channels.take(1) == []
    assert channels.take(2**64) == []


# -- attaching --------------------------------------------------------------------------------------------
def test_a_client_gets_channels_the_arena_and_a_greeting(desk: Desk) -> None:
    peer = desk.peer()
    assert (len(list(desk.clients)), desk.clients.count) == (1, 0)
    peer.ask(4)
    assert peer.received() == [Attached([0, 1, 2, 3], **FACTS), "/memfd:the arena (deleted)", Hello()]
    assert desk.clients.count == 1
    assert f"client_attached pid={os.getpid()} channels=4" in desk.log()


def test_channels_are_in_use_before_their_client_knows_that_it_has_them(desk: Desk) -> None:
    """Executors look at channels in use only; a request on another one would wait for the next look."""
    seen = []

    def look() -> None:
        held = sorted(channel for client in desk.clients for channel in client.channels)
        seen.append((held, [each for peer in desk.peers for each in peer.received()]))

    peer = desk.peer()
    desk.on_change = look
    peer.ask(3)
    assert seen[0] == ([0, 1, 2], [])
    peer.received()
    seen.clear()
    peer.send(Lease(2))
    assert seen[0] == ([0, 1, 2, 3, 4], [])


def test_an_observer_gets_no_channels_and_does_not_count(desk: Desk) -> None:
    peer = desk.peer()
    peer.ask(4, observer=True)
    assert peer.granted() == []
    assert desk.clients.count == 0
    peer.send(Lease(4))
    assert peer.received() == ["the end"]
    assert "client_gone" not in desk.log()


@pytest.mark.parametrize(
    ("told", "refuses", "detail", "kind"),
    [
        (
            {"version": "0.0.1"},
            None,
            f"this pool runs version {__version__}, the client is 0.0.1; restart the worker, or give the new version "
            "another MOLT_WORKER_NAME",
            {"error": "MoltIncompatible", "code": "incompatible"},
        ),
        (
            {},
            WorkerVanished("the worker is stopping"),
            "the worker is stopping",
            {"error": "MoltWorkerUnavailable", "code": "stopping"},
        ),
    ],
)
def test_one_that_is_refused_is_told_why_and_holds_nothing(
    desk: Desk, told: dict[str, object], refuses: MoltError | None, detail: str, kind: dict[str, str]
) -> None:
    desk.refuses = refuses
    peer = desk.peer()
    peer.ask(4, **told)
    assert peer.received() == [Refused({"detail": detail, **kind})]
    assert (desk.clients.count, desk.channels.take(1)) == (0, [0])


def test_one_that_comes_to_a_worker_of_yesterday_is_sent_away(desk: Desk) -> None:
    desk.leaving = True
    observer, peer = desk.peer(), desk.peer()
    observer.ask(0, observer=True)
    peer.ask(4)
    assert observer.granted() == []  # it needs no successor
    assert peer.received() == ["the end"]


def test_one_that_comes_when_all_channels_are_held_gets_some_as_soon_as_there_are(desk: Desk) -> None:
    holder, late = desk.attached(12), desk.peer()
    late.ask(4)
    assert late.granted() == []
    assert holder.received() == [Recall(6)]
    holder.send(Return([11, 3, 4]))
    assert late.granted() == [3, 4, 11]


# -- more channels, and fewer -----------------------------------------------------------------------------
def test_more_channels_are_granted_while_there_are_some(desk: Desk) -> None:
    first, second = desk.attached(4), desk.attached(4)
    first.send(Lease(3))
    assert first.granted() == [8, 9, 10]
    second.send(Lease(3))
    assert second.granted() == [11]


@pytest.mark.parametrize("number", [0, 1, 2**32 - 1])
def test_one_that_holds_its_share_gets_no_more_than_are_free(desk: Desk, number: int) -> None:
    peer = desk.attached(12)
    peer.send(Lease(number))
    desk.clients.refuse_waiting(NEVER)
    assert peer.granted() == []


def test_who_holds_more_than_its_share_is_asked_to_give_some_back(desk: Desk) -> None:
    greedy, modest = desk.attached(10), desk.attached(2)
    modest.send(Lease(3))
    assert modest.received() == []
    assert greedy.received() == [Recall(4)]
    assert desk.anybody_waits
    greedy.send(Return([9, 8]))
    assert modest.granted() == [8, 9]
    assert not desk.anybody_waits


def test_each_who_waits_for_channels_waits_as_long_as_the_others(desk: Desk) -> None:
    """And is told in time that there are none, also if nobody gives any back."""
    desk.attached(10)
    early, late = desk.attached(1), desk.attached(1)
    early.send(Lease(3))
    early_ns, patience_ns = time.monotonic_ns(), clients_module._RECALL_NS
    assert early_ns < desk.loop._timer_ns <= early_ns + patience_ns
    late.send(Lease(3))
    _, first, second = desk.clients
    second.refuse_ns = first.refuse_ns + 1  # it asked so much later
    early.send(Lease(3))  # who asks again waits no longer
    desk.clients.on_timers(first.refuse_ns - 1)
    assert (early.received(), late.received()) == ([], [])
    desk.clients.on_timers(first.refuse_ns)
    assert (early.received(), late.received()) == ([Grant([])], [])
    assert desk.loop._timer_ns <= second.refuse_ns
    desk.clients.on_timers(second.refuse_ns)
    assert late.received() == [Grant([])]
    assert not desk.anybody_waits


def test_of_channels_that_come_back_each_who_waits_gets_its_share(desk: Desk) -> None:
    holder, first, second = desk.attached(12), desk.attached(0), desk.attached(0)
    first.send(Lease(12))
    second.send(Lease(4))
    assert holder.received() == [Recall(8)]
    holder.send(Return(list(range(4, 12))))
    assert (first.granted(), second.granted()) == ([4, 5, 6, 7], [8, 9, 10, 11])


def test_while_too_few_come_back_for_all_who_wait_more_are_asked_for(desk: Desk) -> None:
    """Nobody was asked for the sake of who began to wait while others had been asked."""
    first, second = desk.attached(6), desk.attached(6)
    late = desk.attached(0), desk.attached(0)
    for peer in late:
        peer.send(Lease(4))
    assert (first.received(), second.received()) == ([Recall(3)], [Recall(3)])
    first.send(Return([5]))  # the others are in use
    assert (late[0].granted(), late[1].received()) == ([5], [])
    assert (first.received(), second.received()) == ([Recall(2)], [])
    first.send(Return([]))
    assert first.received() == []  # it has none to spare now
    second.send(Return([6, 7, 8]))
    assert late[1].granted() == [6, 7, 8]


def test_one_that_does_not_give_back_is_asked_once_and_not_flooded(desk: Desk) -> None:
    stopped, modest = desk.attached(10), desk.attached(2)
    for _ in range(1000):
        modest.send(Lease(3))
        desk.turn(2)
    desk.clients.refuse_waiting(NEVER)
    assert modest.received() == [Grant([])]
    assert stopped.received() == [Recall(4)]
    stopped.send(Return([]))  # it goes on, and has none to spare
    modest.send(Lease(3))
    assert stopped.received() == [Recall(4)]


def test_what_comes_back_late_is_granted_then(desk: Desk) -> None:
    slow, modest = desk.attached(10), desk.attached(2)
    modest.send(Lease(3))
    desk.clients.refuse_waiting(NEVER)
    assert modest.granted() == []
    slow.send(Return([9]))
    assert modest.granted() == [9]


def test_returned_channels_are_granted_once(desk: Desk) -> None:
    first, second = desk.attached(6), desk.attached(6)
    first.send(Return([0, 0, 6, 12, 2**32 - 1]))  # 6 is the other's
    for peer, expected in ((second, [0]), (first, [])):
        peer.send(Lease(9))
        desk.clients.refuse_waiting(NEVER)
        assert peer.granted() == expected


def test_a_channel_that_is_returned_in_use_is_granted_when_nothing_is_on_it(desk: Desk) -> None:
    """It may be a lie, or a word that somebody else has scribbled over: then its client did no wrong."""
    peer, other = desk.attached(6), desk.attached(2)
    desk.in_use = {2}
    peer.send(Return([1, 2, 3]))
    assert desk.quarantined() == {2: True}
    other.send(Lease(12))
    assert other.granted() == [1, 3, 8, 9, 10, 11]
    desk.in_use = set()
    desk.reclaim()
    assert desk.quarantined() == {}
    peer.send(Lease(1))
    assert peer.granted() == [2]


# -- what is said ----------------------------------------------------------------------------------------
def test_cancels_of_its_own_channels_are_passed_on(desk: Desk) -> None:
    peer, other = desk.attached(2), desk.attached(2)
    sent = (
        (peer, 1, 1),
        (peer, 2, 1),
        (peer, 2**32 - 1, 1),
        (other, 2, 2),
    )  # the second one's is the other's
    for sender, channel, passed in sent:
        sender.send(CancelChannel(channel, 2**32 - 1))
        assert desk.told == ["cancel"] * passed
    assert (peer.received(), other.received()) == ([], [])


def test_pings_are_answered_whoever_asks(desk: Desk) -> None:
    peer = desk.peer()
    peer.send(Request(77, PING))
    assert peer.received() == [Response(77, Status.OK, b"pong")]


NOT_EXPECTED = "a bad message: not a message that is expected here: "
#: What no honest client says, and why it is wrong.
LIES = {
    "a byte": (b"\0", "a bad message: zero length"),
    "noise": (b"x" * 50, "a bad message: shorter than its header says"),
    "cut off": (encode(Lease(1))[:-1], "a bad message: shorter than its header says"),
    "too large": (encode(Lease(1)) + b"x" * 150_000, "a bad message: longer than its header says"),
    "unknown": (message_saying(type="NoSuchThing"), NOT_EXPECTED),
    "nothing": (message_of(b""), NOT_EXPECTED),
    "no msgpack": (message_of(b"\xc1"), NOT_EXPECTED),
    "no name": (message_saying(count=1), NOT_EXPECTED),
    "deep": (message_of(b"\x91" * 100_000), NOT_EXPECTED),
    "the worker's greeting": (encode(Hello()), NOT_EXPECTED),
    "the worker's grant": (encode(Grant([1])), NOT_EXPECTED),
    "the worker's recall": (encode(Recall(1)), NOT_EXPECTED),
    "a return of nothing": (message_saying(type="Return"), NOT_EXPECTED),
    "a return of a number": (message_saying(type="Return", channels=5), NOT_EXPECTED),
    "a return of a dict": (message_saying(type="Return", channels={1: 1}), NOT_EXPECTED),
    "a return of no numbers": (message_saying(type="Return", channels=[0, True]), NOT_EXPECTED),
    "a negative channel": (message_saying(type="Return", channels=[-1]), NOT_EXPECTED),
    "a channel of 64 bits": (message_saying(type="CancelChannel", channel=2**32, generation=1), NOT_EXPECTED),
    "a negative count": (message_saying(type="Lease", count=-1), NOT_EXPECTED),
    "a count of 64 bits": (message_saying(type="Lease", count=2**64 - 1), NOT_EXPECTED),
    "a request": (encode(Request(1, "echo", b"\x01")), "a Request that nobody expects here"),
    "a response": (encode(Response(1, Status.OK)), "a Response that nobody expects here"),
}


def test_a_client_of_another_protocol_version_is_refused(desk: Desk) -> None:
    peer = desk.peer()
    data = bytearray(encode(Attach("9.9", False, 1)))
    data[PREFIX_BYTES] += 1
    peer.sock.send(data)
    desk.turn()
    refused, end = peer.received()
    assert isinstance(refused, Refused)
    error = from_wire(Status.INTERNAL_ERROR, refused.error)
    assert type(error) is MoltIncompatible
    assert error.detail == (
        f"this pool runs version {__version__}, the client's is an unknown version: {VERSION + 1}, this side speaks "
        f"{VERSION}; restart the worker, or give the new version another MOLT_WORKER_NAME"
    )
    assert end == "the end"
    assert "client_refused" in desk.log()


@pytest.mark.parametrize("attached", [False, True])
@pytest.mark.parametrize(("data", "why"), LIES.values(), ids=LIES)
def test_who_says_what_can_t_be_is_sent_away_alone(desk: Desk, data: bytes, why: str, attached: bool) -> None:
    other = desk.attached(2)
    peer = desk.attached(2) if attached else desk.peer()
    peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    peer.sock.send(data)
    desk.turn()
    assert peer.received() == ["the end"]
    assert desk.counters.bad_frames == 1
    assert (f"it sent {why}" in desk.log()) == attached
    other.send(Lease(1))
    assert len(other.granted()) == 1


@pytest.mark.parametrize(
    "told",
    [
        {},
        {"version": __version__},
        {"version": __version__, "observer": 0},
        {"version": 1, "observer": False},
        {"version": __version__, "observer": False, "channels": -1},
    ],
)
def test_one_that_does_not_say_what_it_is_is_sent_away(desk: Desk, told: dict[str, object]) -> None:
    peer = desk.peer()
    peer.sock.send(message_saying(type="Attach", **{"channels": 2} | told))
    desk.turn()
    assert peer.received() == ["the end"]
    assert (desk.clients.count, list(desk.clients)) == (0, [])


def test_one_that_attaches_twice_or_leases_before_is_sent_away(desk: Desk) -> None:
    twice, early = desk.attached(2), desk.peer()
    twice.ask(2)
    early.send(Lease(2))
    assert (twice.received(), early.received()) == (["the end"], ["the end"])
    assert set(desk.quarantined()) == {0, 1}


def test_descriptors_that_are_sent_along_are_not_kept(desk: Desk) -> None:
    peer = desk.attached(2)
    before = set(os.listdir("/proc/self/fd"))
    for _ in range(20):
        control.send(peer.sock, Return([]), (0,) * 50)
        desk.turn(2)
    assert set(os.listdir("/proc/self/fd")) == before
    assert peer.received() == []


def test_one_that_asks_and_does_not_read_is_let_go_of(desk: Desk) -> None:
    peer, other = desk.attached(2), desk.attached(2)
    for _ in range(5000):
        try:
            control.send(peer.sock, Request(1, PING))
        except BrokenPipeError:
            break
        desk.turn(1)
    else:
        pytest.fail("it is still there")
    assert "it doesn't read" in desk.log()
    assert set(desk.quarantined()) == {0, 1}
    other.send(Request(1, PING))
    assert other.received() == [Response(1, Status.OK, b"pong")]


def test_everybody_who_is_attached_is_told_and_who_does_not_read_costs_nobody_else(desk: Desk) -> None:
    deaf, peer, stranger = desk.attached(2), desk.attached(2), desk.peer()
    for _ in range(5000):
        desk.clients.tell_all(Draining())
        peer.received()
        if "it doesn't read" in desk.log():
            break
    else:
        pytest.fail("it is still there")
    desk.clients.tell_all(Draining())
    assert peer.received() == [Draining()]
    assert stranger.received() == []
    assert "the end" in deaf.received()


# -- the end of a connection ------------------------------------------------------------------------------
def test_channels_of_one_that_said_it_is_done_are_free(desk: Desk) -> None:
    peer = desk.attached(2)
    peer.send(Detach())
    assert desk.quarantined() == {0: True, 1: True}
    desk.reclaim()
    assert (desk.quarantined(), list(desk.clients), desk.channels.take(3)) == ({}, [], [0, 1, 2])
    assert peer.received() == ["the end"]


def test_the_end_of_a_connection_is_not_the_end_of_its_process(desk: Desk) -> None:
    desk.attached(2).close()
    desk.turn()
    assert desk.quarantined() == {0: False, 1: False}
    desk.reclaim()
    assert desk.quarantined() == {0: False, 1: False}  # this process could still touch them
    assert desk.clients.count == 0
    assert desk.channels.take(9) == list(range(2, 11))


def test_a_process_that_dies_can_touch_nothing_any_more(desk: Desk, tmp_path: Path) -> None:
    ForkedPeer(desk, 3, tmp_path).kill()
    wait_until(lambda: desk.turn(1) or desk.quarantined() == dict.fromkeys(range(3), True))
    desk.reclaim()
    assert list(desk.clients) == []


def test_a_process_that_closed_its_connection_is_certain_when_it_dies(desk: Desk, tmp_path: Path) -> None:
    marker, gate = tmp_path / "marker", tmp_path / "gate"

    def work() -> None:
        peer = Peer(desk.path)
        peer.ask(2)
        wait_for_file(gate)
        peer.close()
        marker.write_text("closed")
        signal.pause()

    pid = fork(work)
    wait_until(lambda: desk.turn(1) or desk.clients.count)
    gate.write_text("close it")
    wait_for_file(marker)
    wait_until(lambda: desk.turn(1) or desk.quarantined())
    assert desk.quarantined() == {0: False, 1: False}
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: desk.turn(1) or desk.quarantined() == {0: True, 1: True})
    assert exit_code(pid) == -signal.SIGKILL


def test_a_child_that_holds_the_connection_does_not_stand_for_its_parent(desk: Desk, tmp_path: Path) -> None:
    peer = ForkedPeer(desk, 2, tmp_path, child=True)
    peer.kill()
    try:
        wait_until(lambda: desk.turn(1) or desk.quarantined() == {0: True, 1: True})
        assert "its process is gone" in desk.log()
    finally:
        os.kill(peer.child, signal.SIGKILL)


def test_where_no_process_can_be_watched_its_socket_does(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(pid: int, flags: int = 0) -> int:
        raise ProcessLookupError

    monkeypatch.setattr(os, "pidfd_open", refuse)
    desk.attached(2).close()
    desk.turn()
    assert desk.quarantined() == {0: True, 1: True}


def test_freed_channels_go_to_who_waits(desk: Desk) -> None:
    leaving, waiting = desk.attached(8), desk.attached(4)
    waiting.send(Lease(3))
    leaving.send(Detach())
    client, channels = next(iter(desk.clients)), [0, 1, 2, 3, 4, 5, 6, 7]
    assert [channel for _, channel in desk.clients.quarantined()] == channels
    desk.clients.take_back(client, 5)
    desk.clients.serve_waiting()
    assert waiting.granted() == [5]
    assert set(desk.quarantined()) == {0, 1, 2, 3, 4, 6, 7}


def test_one_that_waits_and_goes_is_not_waited_for(desk: Desk) -> None:
    holder, waiting = desk.attached(10), desk.attached(2)
    waiting.send(Lease(3))
    assert desk.anybody_waits
    waiting.close()
    desk.turn()
    assert not desk.anybody_waits
    holder.send(Return([9]))
    assert desk.channels.take(9) == [9]


# -- bells ------------------------------------------------------------------------------------------------
def test_a_client_is_lent_bells_up_to_a_number(desk: Desk) -> None:
    peer, other = desk.attached(1), desk.attached(1)
    lent = []
    for _ in range(PER_CLIENT):
        peer.send(LeaseBell())
        answer, pipe = peer.received()
        assert isinstance(answer, GrantBell)
        assert str(pipe).startswith("pipe:")
        lent.append(answer.bell)
    assert lent == list(range(PER_CLIENT))
    peer.send(LeaseBell())
    assert peer.received() == [GrantBell(None)]
    other.send(LeaseBell())
    assert other.received()[0] == GrantBell(PER_CLIENT)


def test_when_all_are_lent_clients_are_told(desk: Desk) -> None:
    peer = desk.attached(1)
    while desk.bells.lend() is not None:
        pass
    peer.send(LeaseBell())
    assert peer.received() == [GrantBell(None)]


def test_a_bell_is_another_s_when_its_client_has_left(desk: Desk) -> None:
    leaving, other = desk.attached(1), desk.attached(1)
    leaving.send(LeaseBell())
    leaving.send(Detach())
    other.send(LeaseBell())
    assert other.received()[0] == GrantBell(0)


def test_a_bell_stays_with_a_client_that_lives_on_and_is_free_when_it_is_dead(
    desk: Desk, tmp_path: Path
) -> None:
    alive, other = desk.attached(1), desk.attached(1)
    alive.send(LeaseBell())
    desk.turn()
    alive.close()
    desk.turn()
    dead = ForkedPeer(desk, 2, tmp_path, bell=True)
    wait_until(lambda: desk.turn(1) or desk.lent() == {0, 1})
    dead.kill()
    wait_until(lambda: desk.turn(1) or desk.lent() == {0})
    other.send(LeaseBell())
    assert other.received()[0] == GrantBell(1)


@pytest.mark.parametrize("observer", [True, False])
def test_who_may_not_call_gets_none(desk: Desk, observer: bool) -> None:
    peer = desk.peer()
    if observer:
        peer.ask(0, observer=True)
        peer.received()
    peer.send(LeaseBell())
    assert peer.received() == ["the end"]


# -- how many ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("limit", "expected"),
    [(64, 8), (1024, 352), (2458, 1024), (1_000_000, 1024), (resource.RLIM_INFINITY, 1024)],
)
def test_max_clients_leaves_descriptors(limit: int, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (limit, limit))
    assert max_clients() == expected


def test_too_many_connections_end_idle_ones(make_desk: MakeDesk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients_module, "max_clients", lambda: 5)
    desk = make_desk()
    served = desk.attached(2)
    others = [desk.peer() for _ in range(20)]
    desk.turn()
    ends = [other.received() == ["the end"] for other in others]
    assert ends == [True] * 16 + [False] * 4
    assert desk.log().count("it never attached") == 16
    served.send(Lease(1))
    assert served.granted() == [2]
    attached = [desk.attached(1) for _ in range(4)]  # in the place of those that say nothing
    assert [len(each.received()) for each in attached] == [0] * 4
    late = desk.peer()
    desk.turn()
    assert late.received() == ["the end"]
    assert desk.log().count("too many connections") == 1


def test_who_belongs_to_another_user_is_refused(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    user = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: user + 1)
    peer = desk.peer()
    desk.turn()
    assert peer.received() == ["the end"]
    assert f"user {user} is not {user + 1}" in desk.log()


def test_without_a_descriptor_for_another_connection_it_pauses_and_goes_on(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    pause_ns = 3600 * 10**9
    monkeypatch.setattr(clients_module, "_PAUSE_NS", pause_ns)
    served = desk.attached(2)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    peer = Peer(desk.path, desk.turn)
    desk.peers.append(peer)
    lowest = os.dup(0)  # the one that the next connection would get
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, before[1]))
    looks = []
    try:
        for _ in range(4):
            desk.turn(20)
            looks.append(desk.log().count("client_refused"))
            desk.clients.on_timers(time.monotonic_ns() + pause_ns)
        served.send(Lease(1))
        assert served.granted() == [2]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert looks == [1, 2, 3, 4]  # once each time, and not in each of the turns
    assert "Too many open files" in desk.log()
    desk.clients.on_timers(time.monotonic_ns() + pause_ns)
    desk.turn()
    assert len(list(desk.clients)) == 2
    peer.ask(1)
    assert peer.granted() == [3]


def test_when_it_stops_listening_nobody_is_accepted_and_who_is_there_is_served(desk: Desk) -> None:
    peer = desk.attached(2)
    desk.clients.stop_listening()
    desk.clients.stop_listening()
    with pytest.raises(ConnectionRefusedError):
        Peer(desk.path)
    desk.clients.on_timers(time.monotonic_ns())
    peer.send(Lease(1))
    assert peer.granted() == [2]
