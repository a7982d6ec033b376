"""molt_accel.transports.settling: futures that say that a wait is over."""

import asyncio
import threading
import time

from molt_accel.transports.settling import settle, settle_at, settle_from_afar

PATIENCE_S = 60


async def _new() -> "asyncio.Future[None]":
    return asyncio.get_running_loop().create_future()


def test_it_is_settled_once() -> None:
    async def work() -> None:
        ended, given_up = await _new(), await _new()
        given_up.cancel()
        for _ in range(2):
            settle(ended)
            settle(given_up)
        assert ended.done()
        assert given_up.cancelled()

    asyncio.run(work())


def test_another_thread_has_the_loop_settle_it() -> None:
    async def work() -> None:
        ended = await _new()
        thread = threading.Thread(target=settle_from_afar, args=(asyncio.get_running_loop(), ended))
        thread.start()
        await asyncio.wait_for(ended, PATIENCE_S)
        thread.join()

    asyncio.run(work())


def test_a_loop_that_is_gone_or_closed_is_not_told() -> None:
    loop = asyncio.new_event_loop()
    ended = loop.create_future()
    settle_from_afar(None, ended)
    loop.close()
    settle_from_afar(loop, ended)
    assert not ended.done()


def test_its_time_settles_it_and_whoever_is_first_takes_the_timer_away() -> None:
    async def work() -> None:
        loop = asyncio.get_running_loop()
        timers: list[asyncio.TimerHandle] = []
        late, early, never = await _new(), await _new(), await _new()
        real = loop.call_later

        def call_later(*args: object) -> asyncio.TimerHandle:
            timers.append(real(*args))  # type: ignore[arg-type]
            return timers[-1]

        loop.call_later = call_later  # type: ignore[method-assign,assignment]
        settle_at(loop, late, time.monotonic_ns() - 1)
        settle_at(loop, early, time.monotonic_ns() + 10**12)
        settle_at(loop, never, 0)
        settle(early)
        await late
        await asyncio.sleep(0)
        assert [timer.cancelled() for timer in timers] == [True, True]
        assert not never.done()

    asyncio.run(work())
