"""Frames larger than their ring stream through it, whatever happens to the process at the other end meanwhile."""

import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from molt_accel import Client, MoltTimeout, MoltWorkerCrashed
from molt_accel.ipc.frame import HEADER_BYTES, PREFIX_BYTES
from molt_accel.ipc.shm import arena as arenas
from molt_accel.ipc.shm.layout import ChannelState, SlotGauge
from tests.support.errors import raised
from tests.support.peer import PATIENCE_S, Gone, MakePeer, Peer, pattern
from tests.support.pools import Gate, Look, Share, Window, health, idle, with_worker
from tests.support.processes import in_thread, wait_for_file, wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="there are no shared pools")


#: More than any ring.
LARGE = 5_000_000
RANDOM = pattern(1_000_000)


def ring_of(client: Client) -> int:
    """Bytes of a ring of its pool."""
    client.start()
    return int(client._transport._connection.arena.ring_bytes)  # type: ignore[attr-defined]


def sizes(ring: int) -> st.SearchStrategy[int]:
    """Sizes of payloads: any, and those whose frames end about where a ring, its half or a page does."""
    head = PREFIX_BYTES + HEADER_BYTES + len("echo_raw")
    edges = [ring // 2, ring, ring + ring // 2, 2 * ring, 3 * ring, 4096, ring - 4096]
    around = st.tuples(st.sampled_from(edges), st.integers(-70, 70), st.sampled_from([0, head]))
    return around.map(lambda each: max(0, each[0] + each[1] - each[2])) | st.integers(0, 5 * ring)


@pytest.mark.sample(1)
@pytest.mark.parametrize("arena_mb", [1, 16])
def test_frames_of_any_size_pass_both_ways(share: Share, arena_mb: int) -> None:
    client = share(arena_mb=arena_mb)
    ring = ring_of(client)

    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(there=sizes(ring), back=sizes(ring), start=st.integers(0, len(RANDOM)))
    def check(there: int, back: int, start: int) -> None:
        payload = (RANDOM[start:] + RANDOM)[:there]
        assert client.call("echo_raw", payload, codec="raw") == payload
        assert client.call("big", back) == b"x" * back

    check()


def test_rings_are_as_large_as_the_memory_allows(share: Share) -> None:
    assert ring_of(share(worker_name="small", arena_mb=1)) < ring_of(share(worker_name="large", arena_mb=64))


def test_a_frame_of_the_default_limit_passes_both_ways(share: Share) -> None:
    client = share()
    size = client.config.max_frame_bytes - HEADER_BYTES - len("echo_raw")
    payload = (RANDOM * (size // len(RANDOM) + 1))[:size]
    assert client.call("echo_raw", payload, codec="raw", timeout_ms=PATIENCE_S * 1000) == payload


@pytest.mark.parametrize("spin_us", [0, None])
def test_threads_with_frames_of_mixed_sizes_each_get_their_own(share: Share, spin_us: int | None) -> None:
    client = with_worker(share(max_queue=100, spin_us=spin_us))

    def work(thread: int) -> int:
        chance = Random(thread)
        for _ in range(40):
            payload = chance.randbytes(chance.choice([0, 1, 100, 5000, 70_000, 300_000, 1_000_000]))
            assert client.call("echo_raw", payload, codec="raw", timeout_ms=PATIENCE_S * 1000) == payload
        return 40

    with ThreadPoolExecutor(16) as threads:
        assert sum(threads.map(work, range(16))) == 640


# -- a client that is stopped or killed in the middle -------------------------------------------------------
class Transfer:
    """A call of a peer's that moves much, and how to bring it to its middle with the peer stopped."""

    def __init__(self, way: str, client: Client, peer: Peer, view: Window, folder: Path) -> None:
        self._way, self._client, self._peer, self._view = way, client, peer, view
        self._folder = folder

    def begin_and_stop_in_the_middle(self) -> None:
        if self._way == "payload":
            gate = Gate(self._client, self._folder, executors=2)
            self.call = self._peer.start("echo_bytes", size=LARGE, options={"timeout_ms": 120_000})
            # Its ring is full.
            self._view.wait(ChannelState.CLAIMED, ChannelState.CLAIMED, ChannelState.READY)
            self._peer.stop()
            gate.open()
        else:
            path = self._folder / "gate"
            order = {"path": str(path), "size": LARGE}
            self.call = self._peer.start("big_reply", order=order)
            wait_for_file(f"{path}.running")
            self._peer.stop()
            path.touch()
        self._view.wait(ChannelState.CLAIMED)


@pytest.fixture(params=["payload", "reply"])
def transfer(
    request: pytest.FixtureRequest, share: Share, make_peer: MakePeer, window: Look, tmp_path: Path
) -> tuple[Transfer, Client, Peer, Window]:
    client, peer = share(grace_ms=20_000), make_peer(grace_ms=20_000)
    idle(client)
    peer.do("start")
    view = window()
    return Transfer(request.param, client, peer, view, tmp_path), client, peer, view


def test_a_client_stopped_in_the_middle_holds_nobody_else_and_goes_on(
    transfer: tuple[Transfer, Client, Peer, Window],
) -> None:
    large, client, peer, view = transfer
    large.begin_and_stop_in_the_middle()
    for number in range(20):
        assert client.call("echo", number) == number
    assert view.states() == {ChannelState.CLAIMED: 1}
    peer.resume()
    assert large.call.result(PATIENCE_S) is True
    assert idle(client)["executor_deaths"] == 0
    view.wait()


@pytest.mark.sample(1)
def test_a_client_stopped_for_long_in_the_middle_loses_its_executor_to_others(
    transfer: tuple[Transfer, Client, Peer, Window],
) -> None:
    large, client, peer, view = transfer
    large.begin_and_stop_in_the_middle()
    pids = set(health(client)["executors"]["pids"])
    wait_until(lambda: health(client)["executors"]["idle"] == 2, PATIENCE_S)
    assert view.states() == {ChannelState.FAILED: 1}  # for the client to read when it goes on
    assert set(health(client)["executors"]["pids"]) == pids
    peer.resume()
    error = raised(MoltTimeout, large.call.result, PATIENCE_S)
    assert error.phase == "transport"
    assert error.detail == "the payload or the result was not moved on for 5 s"
    assert peer.do("echo_bytes", size=LARGE)
    view.wait()


def test_a_client_killed_in_the_middle_leaves_channel_and_executor_as_they_were(
    transfer: tuple[Transfer, Client, Peer, Window],
) -> None:
    large, client, peer, view = transfer
    pids = set(health(client)["executors"]["pids"])
    large.begin_and_stop_in_the_middle()
    peer.kill()
    with pytest.raises(Gone):
        large.call.result(PATIENCE_S)
    view.wait()
    report = idle(client)
    assert set(report["executors"]["pids"]) == pids
    assert (report["executor_deaths"], report["clients"]) == (0, 1)
    assert client.call("echo_raw", RANDOM, codec="raw") == RANDOM


def test_an_executor_killed_midway_is_told_of(transfer: tuple[Transfer, Client, Peer, Window]) -> None:
    large, client, peer, view = transfer
    large.begin_and_stop_in_the_middle()
    (busy,) = [pid for slot in range(view.view.slots) if (pid := _busy_pid(view, slot)) is not None]
    os.kill(busy, signal.SIGKILL)
    view.wait(ChannelState.FAILED)
    peer.resume()
    assert raised(MoltWorkerCrashed, large.call.result, PATIENCE_S).signal == 9
    assert peer.do("echo_bytes", size=LARGE)
    assert idle(client)["executor_deaths"] == 1
    view.wait()


def _busy_pid(view: Window, slot: int) -> int | None:
    if view.view.slot_state(slot) != arenas.native().SLOT_BUSY:
        return None
    return view.view.slot_gauge(slot, SlotGauge.PID)


def test_a_call_given_up_in_the_middle_frees_its_channel(share: Share, window: Look, tmp_path: Path) -> None:
    """By its deadline, with the payload half sent."""
    client = with_worker(share(executors=1))
    gate = Gate(client, tmp_path)
    payload = RANDOM * 5
    errors: list[MoltTimeout] = []

    def call() -> None:
        try:
            client.call("echo_raw", payload, codec="raw", timeout_ms=300)
        except MoltTimeout as exc:
            errors.append(exc)

    threads = [in_thread(call) for _ in range(4)]
    for thread in threads:
        thread.join(PATIENCE_S)
    assert [error.phase for error in errors] == ["queue"] * 4
    window().wait(ChannelState.CLAIMED)
    gate.open()
    assert client.call("echo_raw", payload, codec="raw") == payload
