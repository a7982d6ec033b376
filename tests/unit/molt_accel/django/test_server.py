"""molt_accel.django.server: how many threads a server has, from the stack of the request that it serves."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any

import pytest
from django.core.signals import request_started

from molt_accel.django import server
from molt_accel.overload.server_threads import SERVER_THREADS


@pytest.fixture(autouse=True)
def _nothing_known() -> Iterator[None]:
    SERVER_THREADS.count = 0
    server.watch()
    yield
    SERVER_THREADS.count = 0
    server.watch()


def method_of(module: str) -> Callable[[object, Callable[[], Any]], Any]:
    """A method whose function belongs to a module of this name."""
    names: dict[str, Any] = {"__name__": module}
    exec("def handle(self, work):\n    return work()", names)
    handle: Callable[[object, Callable[[], Any]], Any] = names["handle"]
    return handle


QUEUE: SimpleQueue[int] = SimpleQueue()
WORKER = SimpleNamespace(cfg=SimpleNamespace(threads=8), tpool=SimpleNamespace(_work_queue=QUEUE))
WAITING: deque[int] = deque()
DISPATCHER = SimpleNamespace(queue=WAITING)
SERVER = SimpleNamespace(adj=SimpleNamespace(threads=4), task_dispatcher=DISPATCHER)
TASK = SimpleNamespace(channel=SimpleNamespace(server=SERVER))
GTHREAD = "gunicorn.workers.gthread"


def start(**environ: str) -> None:
    request_started.send(sender=None, environ=environ)


@pytest.mark.parametrize(
    ("module", "owner", "threads"),
    [
        (GTHREAD, WORKER, 8), ("waitress.task", TASK, 4), ("gunicorn.workers.sync", WORKER, 0),
        (GTHREAD, SimpleNamespace(cfg=None), 0), (GTHREAD, None, 0),
    ],
)  # fmt: skip
def test_the_server_on_the_stack_says_how_many_it_has(module: str, owner: object, threads: int) -> None:
    assert method_of(module)(owner, lambda: (lambda: server.threads_of_server())()).number == threads


def test_the_servers_own_words_are_those_of_its_release() -> None:
    """`handle_request` is a method of the worker, and in that module."""
    from gunicorn.workers.gthread import ThreadWorker

    assert ThreadWorker.handle_request.__globals__["__name__"] == GTHREAD
    assert ThreadWorker.handle_request.__code__.co_varnames[0] == "self"
    with ThreadPoolExecutor(1) as pool:  # as `get_thread_pool` makes it
        assert pool._work_queue.qsize() == 0


def test_how_many_requests_wait_for_a_thread_is_asked_anew_each_time() -> None:
    method_of(GTHREAD)(WORKER, lambda: start(SERVER_SOFTWARE="gunicorn/27"))
    assert SERVER_THREADS.waiting() == 0
    QUEUE.put(1)
    assert SERVER_THREADS.waiting() == 1
    QUEUE.get()
    (waitress,) = (method_of("waitress.task")(TASK, lambda: server.threads_of_server()),)
    WAITING.append(1)
    assert waitress.waiting() == 1


def test_the_first_request_of_a_server_tells_and_later_ones_cost_nothing() -> None:
    method_of(GTHREAD)(WORKER, lambda: start(SERVER_SOFTWARE="gunicorn/27"))
    assert SERVER_THREADS.count == 8
    assert not request_started.disconnect(dispatch_uid=server._UID)


def test_a_request_of_the_test_client_says_nothing_of_the_server() -> None:
    start()
    method_of(GTHREAD)(WORKER, lambda: start(SERVER_SOFTWARE="gunicorn/27"))
    assert SERVER_THREADS.count == 8


def test_servers_that_are_not_known_and_event_loops_are_asked_once() -> None:
    start(SERVER_SOFTWARE="WSGIServer/0.2")
    assert not request_started.disconnect(dispatch_uid=server._UID)
    server.watch()
    request_started.send(sender=None, scope={"type": "http"})
    assert not request_started.disconnect(dispatch_uid=server._UID)
    assert SERVER_THREADS.count == 0
