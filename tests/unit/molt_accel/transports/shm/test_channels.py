"""molt_accel.transports.shm.channels: which channels may be used, and when one that was given up is free again."""

import random
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from molt_accel.ipc.messages import Request
from molt_accel.ipc.shm.layout import ChannelState, Gauge
from molt_accel.transports.shm import channels as pools
from molt_accel.transports.shm.channels import ChannelPool
from tests.support.scripted_pool import FakePool

REQUEST = Request(1, "echo", b"payload")


def pool_of(fake: FakePool, *channels: int) -> ChannelPool:
    pool = ChannelPool(fake.arena, 10_000)
    pool.add(channels or range(8))
    return pool


def lease(pool: ChannelPool) -> Any:
    channel = pool.lease()
    assert channel is not None
    return channel


def test_the_channel_used_last_is_used_next(fake: FakePool) -> None:
    pool = pool_of(fake)
    first, second = lease(pool), lease(pool)
    assert (first.index, second.index) == (0, 1)
    pool.give_back(first)
    pool.give_back(second)
    assert [lease(pool).index for _ in range(3)] == [1, 0, 2]


def test_none_is_leased_twice_and_none_where_all_are_in_use(fake: FakePool) -> None:
    pool = pool_of(fake)
    leased = [lease(pool) for _ in range(8)]
    assert sorted(channel.index for channel in leased) == list(range(8))
    assert pool.lease() is None
    assert pool.in_calls == 8
    assert pool.wants_more
    assert not pool.free + pool.lingering
    pool.give_back(leased[3])
    assert not pool.wants_more
    assert lease(pool) is leased[3]


def test_a_client_leases_no_more_than_the_worker_allows_it(fake: FakePool) -> None:
    pool = pool_of(fake)
    fake.set(Gauge.CLIENT_LIMIT, 2)
    first, _ = lease(pool), lease(pool)
    assert pool.lease() is None
    assert not pool.wants_more  # there are free ones
    pool.give_back(first)
    assert lease(pool) is first
    fake.set(Gauge.CLIENT_LIMIT, 3)
    assert pool.lease() is not None


def test_a_channel_whose_request_runs_on_lingers_until_it_is_idle(fake: FakePool) -> None:
    pool = pool_of(fake, 0)
    channel = lease(pool)
    channel.publish(REQUEST, 4, 0)
    request = fake.claim()
    assert channel.give_up() == ChannelState.CLAIMED
    pool.give_back(channel)
    assert pool.in_calls == 0
    assert pool.free + pool.lingering
    assert pool.lease() is None
    assert pool.wants_more  # it may take a grace time, and there may be others
    assert fake.reply(request) is False
    assert lease(pool) is channel


@pytest.mark.parametrize("ended", ["done", "failed"])
def test_a_lingering_channel_whose_request_ended_after_all_is_free(fake: FakePool, ended: str) -> None:
    pool = pool_of(fake, 0)
    channel = lease(pool)
    channel.publish(REQUEST, 4, 0)
    request = fake.claim()
    pool.give_back(channel)
    assert pool.lease() is None
    if ended == "done":
        assert fake.reply(request)
    else:
        assert fake.slots[0].fail(1)
    assert lease(pool) is channel
    assert fake.arena.word(channel.index) & 0xFF == ChannelState.IDLE


def test_that_there_are_no_more_holds_for_a_while(fake: FakePool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "_REFUSED_S", 0.2)
    pool = ChannelPool(fake.arena, 10_000)
    assert pool.wants_more
    refused_s = time.monotonic()
    pool.add([])
    assert not pool.wants_more
    while not pool.wants_more:
        time.sleep(0.001)
    assert time.monotonic() - refused_s >= 0.2
    pool.refused()
    assert not pool.wants_more
    pool.add([3])
    assert lease(pool).index == 3


def test_spare_parts_with_the_coldest_channels_and_keeps_one(fake: FakePool) -> None:
    pool = pool_of(fake)
    busy = lease(pool)
    assert pool.spare(2) == [7, 6]
    assert pool.spare(100) == [5, 4, 3, 2]
    assert pool.spare(1) == []
    assert (lease(pool).index, pool.lease(), pool.in_calls) == (1, None, 2)
    pool.give_back(busy)
    assert pool.spare(1) == []


def test_a_channel_that_is_set_aside_counts_for_no_call(fake: FakePool) -> None:
    pool = pool_of(fake, 0, 1)
    aside = pool.set_aside()
    assert aside is not None
    assert (pool.in_calls, pool.lease() is aside, pool.in_calls) == (0, False, 1)
    assert pool.set_aside() is None


def test_when_it_is_shut_nothing_is_leased_and_what_is_given_back_counts(fake: FakePool) -> None:
    pool = pool_of(fake)
    idle, running = lease(pool), lease(pool)
    running.publish(REQUEST, 4, 0)
    fake.claim()
    pool.shut()
    assert pool.lease() is None
    assert pool.in_calls == 2
    pool.give_back(idle)
    assert pool.in_calls == 1
    pool.give_back(running)  # it lingers
    assert pool.in_calls == 0


def test_what_lingers_when_it_is_shut_is_not_touched_any_more(fake: FakePool) -> None:
    """The worker may have granted it to somebody else, whose answer it holds."""
    pool = pool_of(fake, 0, 1)
    channel = lease(pool)
    channel.publish(REQUEST, 4, 0)
    request = fake.claim()
    channel.give_up()
    pool.give_back(channel)
    pool.shut()
    fake.reply(request)
    channel.publish(REQUEST, 4, 0)
    fake.reply(fake.claim())
    assert pool.lease() is None
    assert fake.states() == [ChannelState.DONE]


@pytest.mark.parametrize("given_up", [False, True])
def test_what_is_given_back_after_the_end_is_not_leased_any_more(fake: FakePool, given_up: bool) -> None:
    """The worker may have granted it to somebody else, whose answer it holds."""
    pool = pool_of(fake, 0)
    channel = lease(pool)
    if given_up:
        channel.publish(REQUEST, 4, 0)
        request = fake.claim()
        channel.give_up()
    pool.shut()
    pool.give_back(channel)
    assert pool.in_calls == 0
    if given_up:
        fake.reply(request)
    channel.publish(REQUEST, 4, 0)
    fake.reply(fake.claim())
    assert pool.lease() is None
    assert fake.states() == [ChannelState.DONE]


def test_whatever_races_with_what_each_channel_is_counted_once(fake: FakePool) -> None:
    """Calls that come and go, channels asked back and granted again, and the end: nothing raises, nothing is lost."""
    chance = random.Random(3)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(40):
            pool = pool_of(fake)
            stop = threading.Event()

            def calls(pool: ChannelPool = pool, stop: threading.Event = stop) -> None:
                while not stop.is_set():
                    channel = pool.lease()
                    if channel is not None:
                        pool.give_back(channel)

            def recalls(pool: ChannelPool = pool, stop: threading.Event = stop) -> None:
                while not stop.is_set():
                    given = pool.spare(7)
                    if given:
                        pool.add(given)

            with ThreadPoolExecutor(4) as threads:
                jobs = [threads.submit(work) for work in (calls, calls, recalls)]
                time.sleep(chance.random() / 100)
                threads.submit(pool.shut).result()
                stop.set()
                for job in jobs:
                    job.result()
            assert pool.in_calls == 0
    finally:
        sys.setswitchinterval(interval)


def test_waking_all_rings_each_doorbell(fake: FakePool) -> None:
    pool = pool_of(fake, 0, 1, 2)
    channels = [lease(pool) for _ in range(3)]
    heard = [channel.listen(0, 0) for channel in channels]
    pool.wake_all()
    assert [channel.listen(0, 0) for channel in channels] == [count + 1 for count in heard]
