"""molt_accel.hangup: hang-ups are noticed, once, of the right descriptor, and by nobody after a fork."""

import contextlib
import logging
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from molt_accel.hangup import HangupWatcher, hangups
from tests.support.processes import asleep, exit_code, fork, in_thread, wait_until


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, peer = socket.socketpair()
    with ours, peer:
        yield ours, peer


def _close(peer: socket.socket) -> None:
    peer.close()


def _shut_down(peer: socket.socket) -> None:
    peer.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize("hang_up", [_close, _shut_down])
def test_a_hang_up_is_reported_once_from_the_watcher_s_thread(
    pair: tuple[socket.socket, socket.socket], hang_up: Callable[[socket.socket], None]
) -> None:
    ours, peer = pair
    called = threading.Event()
    threads: list[str] = []

    def callback() -> None:
        threads.append(threading.current_thread().name)
        called.set()

    with hangups.watching(ours.fileno(), callback):
        assert not called.is_set()
        hang_up(peer)
        assert called.wait(60)
        _wait_for_a_turn_of_the_watcher()
    assert threads == ["molt-hangup-watcher"]


def _wait_for_a_turn_of_the_watcher() -> None:
    """Return when the watcher has looked at everything it watches."""
    ours, peer = socket.socketpair()
    called = threading.Event()
    with ours, peer, hangups.watching(ours.fileno(), called.set):
        peer.close()
        assert called.wait(60)


def test_a_hang_up_before_the_watch_is_reported_too(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, peer = pair
    peer.close()
    called = threading.Event()
    with hangups.watching(ours.fileno(), called.set):
        assert called.wait(60)


def test_a_descriptor_that_is_closed_already_counts_as_hung_up() -> None:
    called = threading.Event()
    with hangups.watching(-1, called.set):
        assert called.is_set()


def test_data_is_no_hang_up_and_does_not_hide_one(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, peer = pair
    called = threading.Event()
    with hangups.watching(ours.fileno(), called.set):
        peer.sendall(b"pipelined request")
        _wait_for_a_turn_of_the_watcher()
        assert not called.is_set()
        peer.close()
        assert called.wait(60)


def test_nothing_is_reported_after_the_watch(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, peer = pair
    called = threading.Event()
    with hangups.watching(ours.fileno(), called.set):
        pass
    peer.close()
    _wait_for_a_turn_of_the_watcher()
    assert not called.is_set()


def test_the_watched_descriptor_may_be_closed_by_its_owner(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, peer = pair
    called = threading.Event()
    with hangups.watching(ours.fileno(), called.set):
        ours.close()
        peer.close()
        assert called.wait(60)


def test_a_failing_callback_is_logged_and_the_watcher_goes_on(
    pair: tuple[socket.socket, socket.socket], caplog: pytest.LogCaptureFixture
) -> None:
    ours, peer = pair

    def fail() -> None:
        raise RuntimeError("from the callback")

    with caplog.at_level(logging.ERROR, "molt_accel"), hangups.watching(ours.fileno(), fail):
        peer.close()
        _wait_for_a_turn_of_the_watcher()
        _wait_for_a_turn_of_the_watcher()
    (record,) = caplog.records
    assert record.getMessage() == "a hang-up callback failed"
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == "from the callback"


def test_one_thread_watches_for_all() -> None:
    count = 50
    called = [threading.Event() for _ in range(count)]
    with contextlib.ExitStack() as stack:
        pairs = [socket.socketpair() for _ in range(count)]
        for end in [end for ends in pairs for end in ends]:
            stack.enter_context(end)
        for (ours, _), event in zip(pairs, called, strict=True):
            stack.enter_context(hangups.watching(ours.fileno(), event.set))
        for _, peer in pairs[::2]:
            peer.close()
        assert all(event.wait(60) for event in called[::2])
        assert not any(event.is_set() for event in called[1::2])
        watchers = [thread for thread in threading.enumerate() if thread.name == "molt-hangup-watcher"]
        assert len(watchers) == 1


def test_a_watch_for_no_events_waits_past_the_half_close_for_the_reset(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    ours, peer = pair
    half, gone = threading.Event(), threading.Event()
    with hangups.watching(ours.fileno(), half.set), hangups.watching(ours.fileno(), gone.set, 0):
        peer.shutdown(socket.SHUT_WR)
        assert half.wait(60)
        assert not gone.is_set()
        peer.close()
        assert gone.wait(60)


def test_an_event_of_a_descriptor_whose_number_was_reused_is_not_taken_for_the_new_one() -> None:
    """The poll says that number n hung up; by then n is closed, and another watch has the number n."""
    watcher = HangupWatcher()
    called: list[str] = []
    old, new = (lambda: called.append("old")), (lambda: called.append("new"))
    watcher._watched[1000] = new, 0
    watcher._hung_up(1000, old)
    assert called == []
    watcher._hung_up(1000, new)
    assert called == ["new"]
    assert watcher._watched == {}


def test_watches_that_come_and_go_while_others_hang_up_lose_nothing() -> None:
    errors: list[object] = []

    def run(hang_up: bool) -> None:
        for _ in range(100):
            ours, peer = socket.socketpair()
            called = threading.Event()
            with ours, peer, hangups.watching(ours.fileno(), called.set):
                if hang_up:
                    peer.close()
                    if not called.wait(60):
                        errors.append("a hang-up was missed")
            if called.is_set() and not hang_up:
                errors.append("a hang-up was invented")

    threads = [in_thread(run, number % 2 == 0) for number in range(6)]
    for thread in threads:
        thread.join(120)
    assert errors == []


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")
def test_a_forked_child_watches_for_itself_with_its_own(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, peer = pair
    called = threading.Event()

    def child() -> bool:
        mine, theirs = socket.socketpair()
        seen = threading.Event()
        inherited = not hangups._watched
        with hangups.watching(mine.fileno(), seen.set):
            theirs.close()
            return inherited and seen.wait(60) and not called.is_set()

    with hangups.watching(ours.fileno(), called.set):
        assert exit_code(fork(child)) == 0
        assert not called.is_set()
        peer.close()
        assert called.wait(60)


def test_what_was_watched_ends_when_its_owner_closes_it(pair: tuple[socket.socket, socket.socket]) -> None:
    """Nothing of the watcher may keep it open: a browser that reads until the end would hang."""
    served, browser = pair
    browser.settimeout(20)
    called = threading.Event()
    with hangups.watching(served.fileno(), called.set):
        watcher = hangups._thread
        assert watcher is not None
        wait_until(lambda: asleep(watcher))
    served.close()
    assert browser.recv(1) == b""
    assert not called.is_set()


def test_watching_many_connections_calls_back_for_the_right_one() -> None:
    pairs = [socket.socketpair() for _ in range(20)]
    called = [threading.Event() for _ in pairs]
    try:
        with hangups.watching(pairs[0][0].fileno(), called[0].set):
            with hangups.watching(pairs[1][0].fileno(), called[1].set):
                pairs[1][1].close()
                assert called[1].wait(20)
            assert not called[0].is_set()
            pairs[0][1].close()
            assert called[0].wait(20)
    finally:
        for ends in pairs:
            for end in ends:
                end.close()
