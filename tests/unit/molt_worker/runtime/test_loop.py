"""The event loop: descriptors, the one timer bound, and errors that cost one event only."""

import os
import socket
import time
from collections.abc import Iterator

import pytest

from molt_worker.runtime.log import LogSink
from molt_worker.runtime.loop import READ, WRITE, EventLoop


@pytest.fixture
def log_pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for fd in ends:
        os.close(fd)


@pytest.fixture
def loop(log_pipe: tuple[int, int]) -> Iterator[EventLoop]:
    sink = LogSink(as_json=False, level="info", fd=log_pipe[1])
    loop = EventLoop(sink)
    yield loop
    loop.close()
    sink.close()


@pytest.fixture
def sockets() -> Iterator[list[tuple[socket.socket, socket.socket]]]:
    pairs = [socket.socketpair() for _ in range(3)]
    yield pairs
    for pair in pairs:
        for end in pair:
            end.close()


Pairs = list[tuple[socket.socket, socket.socket]]


def no_timers(now_ns: int) -> None:
    raise AssertionError("no timer was set")


def test_an_action_is_called_with_what_its_descriptor_is_ready_for(loop: EventLoop, sockets: Pairs) -> None:
    ours, theirs = sockets[0]
    seen: list[int] = []
    loop.watch(ours.fileno(), READ | WRITE, seen.append)
    theirs.send(b"x")
    loop.turn(no_timers)
    assert seen == [READ | WRITE]
    loop.watch(ours.fileno(), READ)  # the action stays
    loop.turn(no_timers)
    assert seen == [READ | WRITE, READ]


def test_what_is_no_longer_watched_isn_t_called_even_in_that_turn(loop: EventLoop, sockets: Pairs) -> None:
    called: list[int] = []

    def action(index: int) -> None:
        called.append(index)
        for ours, _ in sockets:
            loop.watch(ours.fileno(), 0)

    for index, (ours, theirs) in enumerate(sockets):
        loop.watch(ours.fileno(), READ, lambda _, index=index: action(index))
        theirs.send(b"x")
    loop.turn(no_timers)
    assert called == [0]


def test_a_stale_event_is_not_taken_for_one_of_the_next_descriptor(loop: EventLoop, sockets: Pairs) -> None:
    (first, first_peer), (second, second_peer), (third, third_peer) = sockets
    called: list[str] = []

    def replace(_: int) -> None:
        called.append("replace")
        first.recv(1)
        loop.watch(second.fileno(), 0)
        os.dup2(third.fileno(), second.fileno())  # the number lives on as another descriptor
        loop.watch(second.fileno(), READ, lambda _: called.append("new"))

    loop.watch(first.fileno(), READ, replace)
    loop.watch(second.fileno(), READ, lambda _: called.append("old"))
    first_peer.send(b"x")
    second_peer.send(b"x")
    loop.turn(no_timers)
    assert called == ["replace"]
    third_peer.send(b"x")
    loop.turn(no_timers)
    assert called == ["replace", "new"]


def test_a_failing_action_costs_one_event(loop: EventLoop, sockets: Pairs, log_pipe: tuple[int, int]) -> None:
    called: list[int] = []

    def broken(_: int) -> None:
        raise KeyError("lost")

    (first, first_peer), (second, second_peer), _ = sockets
    loop.watch(first.fileno(), READ, broken)
    loop.watch(second.fileno(), READ, called.append)
    first_peer.send(b"x")
    second_peer.send(b"x")
    loop.turn(no_timers)
    assert called == [READ]
    line = os.read(log_pipe[0], 65536).decode()
    at = f"test_loop.py:{broken.__code__.co_firstlineno + 1}"
    assert line[25:] == f"molt-worker error supervisor_bug error=\"KeyError: 'lost'\" at={at}\n"


def test_the_earliest_time_counts_and_is_given_once(loop: EventLoop) -> None:
    now_ns = time.monotonic_ns()
    assert loop.at(0) == 0
    assert loop.at(now_ns + 10**15) == now_ns + 10**15
    loop.at(now_ns + 1000)
    loop.at(now_ns + 10**12)
    fired: list[int] = []
    loop.turn(fired.append)
    assert len(fired) == 1
    assert fired[0] >= now_ns + 1000
    loop.at(1)
    loop.turn(fired.append)
    assert len(fired) == 2


@pytest.mark.parametrize("ahead_ns", [10**15, 2**62, 2**64])
def test_a_time_beyond_poll_s_limit_is_no_error(loop: EventLoop, sockets: Pairs, ahead_ns: int) -> None:
    ours, theirs = sockets[0]
    seen: list[int] = []
    loop.watch(ours.fileno(), READ, seen.append)
    theirs.send(b"x")
    loop.at(time.monotonic_ns() + ahead_ns)
    loop.turn(no_timers)
    assert seen == [READ]


def test_a_regular_file_is_always_ready(loop: EventLoop, tmp_path: os.PathLike[str]) -> None:
    path = os.path.join(tmp_path, "frames")
    with open(path, "wb") as file:
        file.write(b"x")
    seen: list[int] = []
    fd = os.open(path, os.O_RDONLY)
    try:
        loop.watch(fd, READ, seen.append)
        loop.turn(no_timers)
        loop.watch(fd, 0)
    finally:
        os.close(fd)
    assert seen == [READ]


def test_a_hang_up_is_reported_as_readable(loop: EventLoop, sockets: Pairs) -> None:
    ours, theirs = sockets[0]
    seen: list[int] = []
    loop.watch(ours.fileno(), READ, seen.append)
    theirs.close()
    loop.turn(no_timers)
    assert seen == [READ]
