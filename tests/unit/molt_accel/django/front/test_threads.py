"""molt_accel.django.front.threads: which thread serves a request's sync parts."""

import asyncio
import threading
from collections.abc import Iterator

import pytest
from asgiref.sync import SyncToAsync, ThreadSensitiveContext, async_to_sync, sync_to_async

from molt_accel.django.front import threads
from molt_accel.django.front.threads import one_thread
from tests.support.processes import exit_code, fork


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


def test_requests_one_after_the_other_have_the_same_thread() -> None:
    async def main() -> None:
        assert await thread_inside() == await thread_inside() != threading.get_ident()

    asyncio.run(main())
    assert asyncio.run(thread_inside()) == asyncio.run(thread_inside())


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


def test_what_was_cancelled_behind_work_that_goes_on_does_not_free_the_thread() -> None:
    began, go = threading.Event(), threading.Event()

    def work() -> None:
        began.set()
        assert go.wait(60)

    async def abandoned() -> None:
        async with one_thread():
            executor = SyncToAsync.context_to_thread_executor[SyncToAsync.thread_sensitive_context.get()]
            executor.submit(work)
            assert executor.submit(work).cancel()
            assert await asyncio.to_thread(began.wait, 60)

    async def main() -> None:
        await abandoned()
        assert not threads._idle
        go.set()
        while not threads._idle:
            await asyncio.sleep(0)

    asyncio.run(main())


def test_a_task_that_outlives_its_request_can_still_do_sync_work() -> None:
    async def main() -> None:
        answered = asyncio.Event()

        async def later() -> int:
            await answered.wait()
            return await sync_to_async(threading.get_ident)()

        async with one_thread():
            thread = await sync_to_async(threading.get_ident)()
            task = asyncio.create_task(later())
        answered.set()
        assert await task not in (thread, threading.get_ident())  # the request's may be another's by now

    asyncio.run(main())


def test_a_caller_that_waits_in_async_to_sync_lends_its_own_thread() -> None:
    assert async_to_sync(thread_inside)() == threading.get_ident()


def test_a_context_around_is_kept() -> None:
    async def main() -> None:
        async with ThreadSensitiveContext():
            outside = await sync_to_async(threading.get_ident)()
            assert await thread_inside() == outside
        assert not threads._idle

    asyncio.run(main())


def test_a_forked_child_begins_without_any() -> None:
    asyncio.run(thread_inside())
    assert threads._idle

    def child() -> None:
        assert not threads._idle
        assert asyncio.run(asyncio.wait_for(thread_inside(), 60))

    assert exit_code(fork(child)) == 0
    assert threads._idle
