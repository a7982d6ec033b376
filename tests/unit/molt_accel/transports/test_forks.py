"""Forks of this process: what a child forgets first, and that no fork comes while a connection is made."""

import gc
import threading
import weakref
from collections.abc import Callable

import pytest

from molt_accel.transports import forks
from tests.support.processes import exit_code, fork, in_thread

GetLock = Callable[[], threading.RLock]
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")


class Member:
    """Counts how often it was told to forget."""

    forgot = 0

    def after_fork_in_child(self) -> None:
        self.forgot += 1


def test_a_child_s_members_forget_and_the_parent_s_don_t() -> None:
    members = [Member(), Member()]
    for member in members:
        forks.register(member)
    assert exit_code(fork(lambda: [member.forgot for member in members] == [1, 1])) == 0
    assert [member.forgot for member in members] == [0, 0]


def test_members_are_not_kept() -> None:
    forks.register(member := Member())
    reference = weakref.ref(member)
    del member
    gc.collect()
    assert reference() is None


each_lock = pytest.mark.parametrize("lock", [forks.start_lock, forks.close_lock])


@each_lock
def test_a_fork_waits_for_a_connection_that_is_being_made_or_closed(lock: GetLock) -> None:
    begun, forked = threading.Event(), threading.Event()
    codes: list[int] = []

    def fork_one() -> None:
        begun.set()
        codes.append(exit_code(fork(lambda: None)))
        forked.set()

    thread = threading.Thread(target=fork_one)
    with lock():
        thread.start()
        assert begun.wait(20)
        assert not forked.wait(0.05)
    thread.join(20)
    assert codes == [0]


@each_lock
def test_who_holds_the_lock_may_fork_and_the_child_has_one_of_its_own(lock: GetLock) -> None:
    """A signal handler may fork on the thread that makes or closes a connection."""

    def take_it_on_another_thread() -> bool:
        taken: list[bool] = []
        thread = in_thread(lambda: taken.append(lock().acquire(timeout=20)))
        thread.join()
        return taken == [True]

    with lock():
        pid = fork(take_it_on_another_thread)
    assert exit_code(pid) == 0
