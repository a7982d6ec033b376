"""molt_accel.django.front.threads: which thread serves a request's sync parts."""

import asyncio
import threading
from collections.abc import Iterator

import pytest
from asgiref.sync import SyncToAsync, ThreadSensitiveContext, sync_to_async

from molt_accel.django.front import threads
from molt_accel.django.front.threads import one_thread
from tests.support.processes import exit_code, fork

needs_given_threads = pytest.mark.skipif(not threads._can_be_given, reason="asgiref before 3.13")


@pytest.fixture(autouse=True)
def _none_is_kept() -> Iterator[None]:
    _end_all()
    yield
    _end_all()


def _end_all() -> None:
    while threads._idle:
        threads._idle.pop().shutdown()


async def thread_inside() -> int:
    async with one_thread(), ThreadSensitiveContext():  # as Django's handler does
        first = await sync_to_async(threading.get_ident)()
        assert await sync_to_async(threading.get_ident)() == first
        return first


@needs_given_threads
def test_requests_one_after_the_other_have_the_same_thread() -> None:
    async def main() -> None:
        assert await thread_inside() == await thread_inside() != threading.get_ident()

    asyncio.run(main())
    assert asyncio.run(thread_inside()) == asyncio.run(thread_inside())


@needs_given_threads
def test_requests_at_once_have_a_thread_each_and_no_more_are_kept_than_agreed() -> None:
    number = threads.KEPT + 3
    barrier = threading.Barrier(number)

    async def meet() -> int:
        async with one_thread():
            await sync_to_async(barrier.wait)(60)
            return await sync_to_async(threading.get_ident)()

    async def main() -> None:
        assert len(set(await asyncio.gather(*(meet() for _ in range(number))))) == number

    asyncio.run(main())
    assert len(threads._idle) == threads.KEPT


@needs_given_threads
def test_a_thread_that_still_works_for_a_request_that_is_gone_is_not_given_to_the_next() -> None:
    began, go = threading.Event(), threading.Event()

    def work() -> None:
        began.set()
        assert go.wait(60)

    async def abandoned() -> None:
        async with one_thread():
            context = SyncToAsync.thread_sensitive_context.get()
            SyncToAsync.context_to_thread_executor[context].submit(work)  # nobody waits for it
            assert await asyncio.to_thread(began.wait, 60)

    async def main() -> None:
        await abandoned()
        assert not threads._idle
        assert await asyncio.wait_for(thread_inside(), 60)
        go.set()
        while len(threads._idle) < 2:
            await asyncio.sleep(0)

    asyncio.run(main())


def test_without_a_context_that_takes_one_django_s_own_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_can_be_given", False)

    async def main() -> None:
        assert await thread_inside() != threading.get_ident()

    asyncio.run(main())
    assert not threads._idle


@needs_given_threads
def test_a_forked_child_begins_without_any() -> None:
    asyncio.run(thread_inside())
    assert threads._idle

    def child() -> None:
        assert not threads._idle
        assert asyncio.run(asyncio.wait_for(thread_inside(), 60))

    assert exit_code(fork(child)) == 0
    assert threads._idle
