"""molt_worker.supervisor.shm.bells: pipes by which executors wake event loops, and who is lent which."""

import errno
import fcntl
import os
import resource
from collections.abc import Iterator
from typing import Any

import pytest

from molt_worker.supervisor.shm import bells as bells_module
from molt_worker.supervisor.shm.bells import Bells, affordable
from tests.support.bells import small_arena
from tests.support.scripted_forkserver import Logged


@pytest.fixture
def logged() -> Iterator[Logged]:
    logged = Logged()
    yield logged
    logged.close()


@pytest.fixture
def bells(logged: Logged, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bells]:
    monkeypatch.setattr(bells_module, "affordable", lambda limit: 3)
    bells = Bells(small_arena(), logged.sink)
    yield bells
    bells.close()


@pytest.mark.parametrize(
    ("limit", "expected"), [(31, 0), (256, 8), (1024, 32), (10**6, 64), (resource.RLIM_INFINITY, 64)]
)
def test_they_are_a_share_of_the_descriptors(limit: int, expected: int) -> None:
    assert affordable(limit) == expected


def test_each_is_lent_once_the_lowest_first(bells: Bells) -> None:
    lent = [bells.lend() for _ in range(4)]
    assert lent[3] is None
    known = [each for each in lent if each is not None]
    assert [bell for bell, _ in known] == [0, 1, 2]
    assert len({fd for _, fd in known}) == 3
    bells.take_back({2, 1})
    again = bells.lend()
    assert again == known[1]


def test_whoever_writes_wakes_who_reads_and_nobody_waits(bells: Bells) -> None:
    lent = bells.lend()
    assert lent is not None
    bell, reading = lent
    writing = bells.writing_ends[bell]
    os.write(writing, b"x")
    assert os.read(reading, 10) == b"x"
    with pytest.raises(BlockingIOError):
        os.read(reading, 1)
    with pytest.raises(BlockingIOError):
        os.write(writing, bytes(1 << 20)) and os.write(writing, b"x")


def test_what_a_client_does_to_its_end_is_not_the_executors(bells: Bells) -> None:
    lent = bells.lend()
    assert lent is not None
    os.set_blocking(lent[1], True)
    assert not os.get_blocking(bells.writing_ends[lent[0]])


def test_what_was_rung_for_the_last_client_is_gone(bells: Bells) -> None:
    lent = bells.lend()
    assert lent is not None
    bell, reading = lent
    bells.arena.arm(bell)
    os.write(bells.writing_ends[bell], b"xyz")
    bells.take_back([bell])
    assert bells.lend() == lent
    assert not bells.arena.armed(bell)
    with pytest.raises(BlockingIOError):
        os.read(reading, 1)


def test_they_have_numbers_that_a_fork_server_leaves_alone_and_programs_don_t_inherit_them(
    bells: Bells,
) -> None:
    for end in bells.writing_ends:
        assert end >= 10
        assert fcntl.fcntl(end, fcntl.F_GETFD) & fcntl.FD_CLOEXEC


@pytest.mark.parametrize("fails_at", [0, 1, 2, 5])
def test_with_too_few_descriptors_there_are_fewer(
    fails_at: int, logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bells_module, "affordable", lambda limit: 3)
    before = set(os.listdir("/proc/self/fd"))
    count = 0
    real = fcntl.fcntl

    def duplicate(fd: int, command: int, *args: Any) -> int:
        nonlocal count
        if command == fcntl.F_DUPFD_CLOEXEC:
            if count == fails_at:
                raise OSError(errno.EMFILE, "too many")
            count += 1
        result: int = real(fd, command, *args)
        return result

    monkeypatch.setattr(fcntl, "fcntl", duplicate)
    bells = Bells(small_arena(), logged.sink)
    assert len(bells.writing_ends) == fails_at // 2
    assert "bells_limited" in logged.log()
    bells.close()
    assert set(os.listdir("/proc/self/fd")) == before


def test_closing_leaves_nothing(bells: Bells) -> None:
    bells.close()
    assert bells.writing_ends == ()
    assert bells.lend() is None
