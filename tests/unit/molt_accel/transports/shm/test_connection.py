"""molt_accel.transports.shm.connection: an attachment to a pool, from what was granted to its end."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from molt_accel import codec
from molt_accel.config import Config
from molt_accel.errors import (
    MoltBusy,
    MoltCancelled,
    MoltProtocolError,
    MoltWorkerUnavailable,
    Status,
)
from molt_accel.ipc import control
from molt_accel.ipc.frame import CANCEL, PING, Codec, Frame, Kind
from molt_accel.ipc.shm import arena as arenas
from molt_accel.ipc.shm.layout import Fact, SeatFact, State
from molt_accel.transports.shm import connection as links
from molt_accel.transports.shm.channels import BATCH
from molt_accel.transports.shm.connection import Link, copy_error
from tests.conftest import exit_code, fork, wait_until
from tests.support.scripted_pool import PATIENCE_S, FakePool

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="shared memory is served on Linux only"),
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]

MakePool = Callable[..., FakePool]
REQUEST = Frame(Kind.REQUEST, 1, "echo", b"payload")


@pytest.fixture
def fake(make_pool: MakePool) -> FakePool:
    return make_pool()


def ping(number: int = 7) -> Frame:
    return Frame(Kind.REQUEST, number, PING)


def pong(number: int = 7) -> Frame:
    return Frame(Kind.RESPONSE, number, status=Status.OK)


def busy(link: Link) -> Any:
    """A channel with a call on it."""
    channel = link.channels.lease()
    assert channel is not None
    channel.publish(REQUEST, 4, 0)
    return channel


def ended(link: Link) -> bool:
    """Whether it has ended, and all that was to be done for it."""
    return link.ended is not None and not link.monitor.is_alive()


# -- attached -----------------------------------------------------------------------------------------------


def test_what_the_worker_granted_is_what_the_link_goes_by(make_pool: MakePool) -> None:
    fake = make_pool(channels=5, places=3)
    fake.set(Fact.SPIN_NS, 1234)
    fake.set(Fact.CLIENT_SPINNERS, 2)
    fake.set(Fact.STARTED_NS, 5_000_000_000)
    link = fake.link(max_frame_bytes=50_000)
    assert (link.max_frame_bytes, link.max_wait_ms, link.grace_ms) == (50_000, 0, 50)
    assert (link.places, link.pool_started_s, link.generation) == (3, 5.0, 1)
    assert (link.arena.spin_ns, link.arena.client_spinners) == (1234, 2)
    assert sorted(link.channels.lease().index for _ in range(5)) == [0, 1, 2, 3, 4]  # type: ignore[union-attr]
    assert link.open
    assert not link.closing
    assert fake.link(max_frame_bytes=200_000).max_frame_bytes == 100_000
    assert fake.link(spin_us=0).arena.spin_ns == 0
    assert fake.link(spin_us=7).arena.spin_ns == 7000


def test_its_greeting_says_that_the_worker_is_ready(fake: FakePool) -> None:
    link = fake.link()
    assert not link.greeted.is_set()
    fake.greet()
    assert link.greeted.wait(PATIENCE_S)
    assert link.was_ready


def test_a_grant_of_nothing_at_first_is_no_refusal(fake: FakePool) -> None:
    fake.granted = []
    link = fake.link()
    assert link.channels.wants_more
    fake.grant(3)
    wait_until(lambda: link.channels.any_free)


def test_no_thread_for_it_is_an_unavailable_worker(fake: FakePool, monkeypatch: pytest.MonkeyPatch) -> None:
    near = fake.serve()
    with monkeypatch.context() as patch, near:
        patch.setattr(threading.Thread, "start", _refuse_thread)
        with pytest.raises(MoltWorkerUnavailable) as caught:
            Link(Config(transport="shm"), near, 1)
    assert caught.value.detail == "can't attend to a worker: can't start new thread"


def _refuse_thread(thread: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


# -- pings and cancels --------------------------------------------------------------------------------------


def test_a_ping_goes_by_the_socket_and_its_answer_resolves_it(fake: FakePool) -> None:
    link = fake.link()
    pending = link.ping(ping())
    assert pending is not None
    asked = fake.hear()
    assert asked is not None
    assert (asked.entry, asked.request_id) == (PING, 7)
    fake.tell(pong(8))  # of one that nobody waits for
    fake.tell(pong())
    assert pending.wait(PATIENCE_S)
    assert isinstance(pending.result, Frame)
    assert not link.forget_ping(pending)


def test_a_ping_that_is_forgotten_is_not_answered(fake: FakePool) -> None:
    link = fake.link()
    pending = link.ping(ping())
    assert pending is not None
    assert link.forget_ping(pending)
    assert not link.forget_ping(pending)
    fake.tell(pong())
    fake.greet()
    assert link.greeted.wait(PATIENCE_S)
    assert not pending.done


def test_pings_end_with_the_link_and_later_ones_are_not_sent(fake: FakePool) -> None:
    link = fake.link()
    pending = link.ping(ping())
    assert pending is not None
    fake.hang_up()
    assert pending.wait(PATIENCE_S)
    assert isinstance(pending.result, MoltWorkerUnavailable)
    assert link.ping(ping()) is None


def test_a_ping_to_a_worker_that_has_just_gone_is_not_sent(
    fake: FakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = fake.link()
    monkeypatch.setattr(control, "send", _raise(BrokenPipeError()))
    assert link.ping(ping()) is None
    assert not link.open


def _raise(error: BaseException) -> Callable[..., None]:
    def act(*_: object) -> None:
        raise error

    return act


def test_a_worker_that_reads_nothing_is_told_no_more(fake: FakePool) -> None:
    link = fake.link()
    with pytest.raises(MoltWorkerUnavailable, match=r"^the worker doesn't listen$"):
        _ping_for_ever(link)
    link.cancel(3, 1)  # lost, and that is all
    assert link.open


def _ping_for_ever(link: Link) -> None:
    for number in range(1, 100_000):
        assert link.ping(ping(number)) is not None


def test_a_cancel_names_channel_and_generation(fake: FakePool) -> None:
    fake.link().cancel(3, 9)
    heard = fake.hear()
    assert heard is not None
    assert (heard.entry, heard.request_id, heard.generation) == (CANCEL, 3, 9)


# -- channels -----------------------------------------------------------------------------------------------


def test_more_channels_are_asked_for_and_used(fake: FakePool) -> None:
    fake.granted = []
    link = fake.link()
    with ThreadPoolExecutor(3) as threads:
        asking = [threads.submit(link.lease_more) for _ in range(3)]
        asked = fake.hear()
        assert asked is not None
        assert (asked.entry, asked.request_id) == (control.LEASE, BATCH)
        fake.grant(4, 5)
        for each in asking:
            each.result(PATIENCE_S)
    assert link.channels.any_free
    link.close()
    assert fake.heard() == [control.DETACH]  # one has asked for all


def test_none_left_is_busy_and_not_asked_again_for_a_while(fake: FakePool) -> None:
    fake.granted = []
    link = fake.link()
    with ThreadPoolExecutor(1) as threads:
        asking = threads.submit(link.lease_more)
        fake.hear()
        fake.grant()
        with pytest.raises(MoltBusy, match=r"^the worker has no channel left for this client$"):
            asking.result(PATIENCE_S)
    assert not link.channels.wants_more
    link.lease_more()


def test_a_worker_that_doesn_t_answer_is_waited_for_for_a_time_only(
    fake: FakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(links, "ANSWER_S", 0.05)
    fake.granted = []
    link = fake.link()
    link.lease_more()
    assert not link.channels.wants_more


def test_spare_channels_are_given_back_when_asked_for(fake: FakePool) -> None:
    link = fake.link()
    assert link.channels.lease() is not None
    fake.say(control.RECALL, 3)
    returned = fake.hear()
    assert returned is not None
    assert returned.entry == control.RETURN
    assert codec.decode(Codec.MSGPACK, returned.payload) == [7, 6, 5]


# -- the worker's end ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("sign", ["none", "greeting", "serving", "an executor"])
def test_whether_a_request_may_have_run_is_whether_anything_could_run_it(fake: FakePool, sign: str) -> None:
    """Executors serve before the supervisor has told so."""
    link = fake.link()
    if sign == "greeting":
        fake.greet()
    elif sign == "serving":
        fake.set(Fact.SERVING, 1)
    elif sign == "an executor":
        fake.arena.set_seat_fact(2, SeatFact.READY_NS, 1)
    fake.hang_up()
    wait_until(lambda: ended(link))
    assert isinstance(link.ended, MoltWorkerUnavailable)
    assert link.ended.detail == "the worker is gone: its control socket was closed"
    assert link.ended.may_have_run is link.was_ready is (sign != "none")
    assert not link.open
    assert link.greeted.is_set()


def test_the_reason_why_a_worker_can_t_start_is_the_link_s_end(fake: FakePool) -> None:
    link = fake.link()
    fake.fail_start("no module named shop")
    fake.hang_up()
    wait_until(lambda: ended(link))
    assert link.ended is not None
    assert link.ended.detail == "the worker can't start: no module named shop"
    assert not link.was_ready


def test_what_a_worker_said_before_it_went_is_heard_though_it_did_not_read_everything(fake: FakePool) -> None:
    """The kernel tells of that first."""
    link = fake.link()
    link.cancel(0, 1)
    fake.fail_start("no module named shop")
    fake.hang_up()
    wait_until(lambda: ended(link))
    assert link.ended is not None
    assert link.ended.detail == "the worker can't start: no module named shop"


@pytest.mark.parametrize("message", [control.message("__what__"), Frame(Kind.REQUEST, 1, "echo")])
def test_a_message_that_nobody_expects_ends_the_link(
    fake: FakePool, message: Frame, caplog: pytest.LogCaptureFixture
) -> None:
    link = fake.link()
    fake.tell(message)
    wait_until(lambda: ended(link))
    assert isinstance(link.ended, MoltProtocolError)
    assert "unexpected" in caplog.text
    assert fake.hear() is None


def test_a_message_that_is_no_frame_ends_the_link(fake: FakePool) -> None:
    link = fake.link()
    assert fake.sock is not None
    fake.sock.send(b"\x04\x00\x00\x00what")
    wait_until(lambda: ended(link))
    assert isinstance(link.ended, MoltProtocolError)


def test_a_bug_of_its_own_ends_it_rather_than_leave_its_calls_waiting(
    fake: FakePool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    link = fake.link()
    monkeypatch.setattr(link.channels, "add", _raise(ZeroDivisionError()))
    fake.grant(1)
    wait_until(lambda: ended(link))
    assert link.ended is not None
    assert link.ended.detail == "the connection failed: ZeroDivisionError"
    assert "the monitor of a worker failed" in caplog.text


def test_a_drain_with_nothing_under_way_is_left_at_once(fake: FakePool) -> None:
    link = fake.link()
    fake.say(control.DRAINING)
    assert fake.heard() == [control.DETACH]
    wait_until(lambda: ended(link))
    assert (link.retired, link.open) == (True, False)


def test_a_drain_is_left_after_the_last_call_and_the_last_ping(fake: FakePool) -> None:
    link = fake.link()
    channel = busy(link)
    pending = link.ping(ping())
    assert pending is not None
    fake.hear()
    fake.say(control.DRAINING)
    wait_until(lambda: link.retired)
    assert not link.open
    fake.reply(fake.claim())
    assert isinstance(channel.take(), Frame)
    link.channels.give_back(channel)
    link.call_ended()
    assert not link.closing
    fake.tell(pong())
    assert fake.heard() == [control.DETACH]
    assert pending.wait(0)
    assert isinstance(pending.result, Frame)


def test_a_ping_that_is_forgotten_is_none_to_wait_for(fake: FakePool) -> None:
    link = fake.link()
    pending = link.ping(ping())
    assert pending is not None
    fake.hear()
    fake.say(control.DRAINING)
    wait_until(lambda: link.retired)
    assert link.forget_ping(pending)
    assert fake.heard() == [control.DETACH]


# -- this side's end ----------------------------------------------------------------------------------------


def test_close_tells_the_worker_that_it_has_done_with_its_channels(fake: FakePool) -> None:
    link = fake.link()
    link.close()
    assert fake.heard() == [control.DETACH]
    assert ended(link)
    assert isinstance(link.ended, MoltCancelled)
    assert link.channels.lease() is None
    link.close()


def test_close_waits_for_calls_that_are_about_to_end(fake: FakePool) -> None:
    link = fake.link()
    channel = busy(link)
    with ThreadPoolExecutor(1) as threads:
        closing = threads.submit(link.close)
        wait_until(lambda: link.closing)
        channel.give_up()
        link.channels.give_back(channel)
        link.call_ended()
        closing.result(PATIENCE_S)
    assert fake.heard() == [control.DETACH]


def test_close_does_not_say_so_while_a_thread_may_still_write(
    fake: FakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then only its death makes sure."""
    monkeypatch.setattr(links, "_QUIET_S", 0.05)
    link = fake.link()
    busy(link)
    link.close()
    assert fake.heard() == []


def test_close_does_not_say_so_while_a_thread_listens_to_a_channel_s_bell(
    fake: FakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(links, "_QUIET_S", 0.05)
    link = fake.link()

    class Stuck:
        def __init__(self) -> None:
            self.channel = busy(link)
            self.over = False

        def poll(self) -> int:
            return 0 if self.over else 2**63

    stuck = Stuck()
    link.reaper.add(stuck)
    stuck.channel.give_up()
    link.channels.give_back(stuck.channel)
    link.close()
    assert fake.heard() == []
    stuck.over = True
    link.reaper.wake()
    assert link.reaper.quiet(PATIENCE_S)


@pytest.mark.parametrize("end", ["closed", "hung up"])
def test_threads_that_wait_are_woken_by_the_end(fake: FakePool, end: str) -> None:
    link = fake.link()
    channel = busy(link)
    with ThreadPoolExecutor(2) as threads:
        waiting = threads.submit(channel.wait, 2**63)
        ending = threads.submit(link.close if end == "closed" else fake.hang_up)
        assert waiting.result(PATIENCE_S) == arenas.native().CLOSED
        channel.give_up()
        link.channels.give_back(channel)
        link.call_ended()
        ending.result(PATIENCE_S)


def test_the_reaper_of_a_link_ends_with_it(fake: FakePool) -> None:
    link = fake.link()
    reaper = link.reaper
    assert link.reaper is reaper
    fake.hang_up()
    wait_until(lambda: ended(link))
    assert reaper._stopping
    late = fake.link()
    fake.hang_up()
    wait_until(lambda: ended(late))
    assert late.reaper._stopping


def test_a_link_whose_memory_can_t_be_trusted_says_that_it_is_done_when_its_last_call_has_ended(
    fake: FakePool, caplog: pytest.LogCaptureFixture
) -> None:
    """Otherwise its channels were kept for as long as the process lives."""
    link = fake.link()
    channel = link.channels.lease()
    assert channel is not None
    link.fail(MoltProtocolError("channel 3 is in a state that can't be"))
    assert not link.open
    assert link.ended is None
    link.channels.give_back(channel)
    link.call_ended()
    wait_until(lambda: ended(link))
    assert fake.heard() == [control.DETACH]
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


def test_a_forked_child_lets_go_without_a_word_and_its_copies_touch_nothing(fake: FakePool) -> None:
    link = fake.link()
    queued, running = busy(link), busy(link)
    fake.claim()

    def child() -> bool:
        link.forget()
        for channel in (queued, running):
            channel.give_up()
            channel.clear()
            channel.ring()
        link.channels.wake_all()
        link.close()
        return link.forgotten and not link.open

    assert exit_code(fork(child)) == 0
    assert sorted(fake.states()) == [State.READY, State.CLAIMED]
    assert link.open
    for channel in (queued, running):
        channel.give_up()
        link.channels.give_back(channel)
    link.close()
    assert fake.heard() == [control.DETACH]


def test_everybody_raises_an_error_object_of_his_own() -> None:
    error = MoltWorkerUnavailable("gone", facts={"may_have_run": 1})
    copy = copy_error(error)
    assert copy is not error
    assert (type(copy), copy.detail, copy.facts) == (MoltWorkerUnavailable, "gone", {"may_have_run": 1})
    assert copy.facts is not error.facts


def test_a_pool_that_lives_long_was_started_when_it_says(fake: FakePool) -> None:
    now_ns = time.monotonic_ns()
    fake.set(Fact.STARTED_NS, now_ns)
    assert fake.link().pool_started_s == now_ns / 1e9
