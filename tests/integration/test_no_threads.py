"""Where this process may start no more threads, a caller gets an outcome or a MoltError, and no RuntimeError."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from molt_accel import Client, MoltCancelled, MoltWorkerUnavailable
from molt_accel import call as calls
from molt_accel.django.disconnect import SocketHangup
from molt_accel.hangup import HangupWatcher
from tests.support.pools import MakeClient


@contextlib.contextmanager
def no_threads() -> Iterator[None]:
    """Have the system refuse new threads: their stacks would not fit into any address space."""
    before = threading.stack_size(1 << 47)
    try:
        yield
    finally:
        threading.stack_size(before)


@pytest.fixture
def watcher(monkeypatch: pytest.MonkeyPatch) -> Iterator[HangupWatcher]:
    """A watcher of hang-ups whose thread doesn't run yet."""
    watcher = HangupWatcher()
    monkeypatch.setattr(calls, "hangups", watcher)
    yield watcher
    assert watcher._thread is None
    os.close(watcher._wake_r)
    os.close(watcher._wake_w)


def in_loop(client: Client, entry: str, payload: object, **options: object) -> object:
    return asyncio.run(client.acall(entry, payload, **options))


@pytest.mark.parametrize("options", [{}, {"timeout_ms": 20_000}], ids=["no deadline", "deadline"])
@pytest.mark.parametrize("call", [Client.call, in_loop], ids=["thread", "loop"])
def test_without_a_worker_it_is_unavailable(
    make_client: MakeClient, call: Callable[..., object], options: dict[str, object]
) -> None:
    client = make_client()
    with no_threads(), pytest.raises(MoltWorkerUnavailable, match="can't start new thread") as caught:
        call(client, "echo", 1, **options)
    assert not caught.value.may_have_run  # so a view may run its own body
    assert caught.value.request_id


def test_with_a_worker_a_thread_has_its_answer(client: Client) -> None:
    with no_threads():
        assert client.call("echo", 1, timeout_ms=20_000) == 1


def test_with_a_worker_a_loop_has_its_answer_or_is_told_that_the_request_may_have_run(
    client: Client, transport: str
) -> None:
    with no_threads():
        if transport == "shm":  # only there it takes a thread to wait for a loop's calls
            with pytest.raises(MoltWorkerUnavailable, match="can't start new thread") as caught:
                in_loop(client, "sleep", 60)
            assert caught.value.may_have_run
        else:
            assert in_loop(client, "sleep", 0.01) == "slept"
    assert in_loop(client, "echo", 2) == 2


def test_a_browser_s_hang_up_is_noticed_all_the_same(client: Client, watcher: HangupWatcher) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, no_threads():
        assert client.call("sleep", 0.1, cancel_check=SocketHangup(ours)) == "slept"
        theirs.close()
        with pytest.raises(MoltCancelled, match="the client went away"):
            client.call("sleep", 60, cancel_check=SocketHangup(ours))
