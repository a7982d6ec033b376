"""Forks of this process: what a child forgets first, and that no fork comes while a connection is made."""

import gc
import os
import socket
import threading
import weakref

import pytest

from molt_accel.transports import forks
from tests.support.processes import exit_code, fork, in_thread

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


def test_a_descriptor_that_another_thread_is_just_closing_is_closed_in_a_child() -> None:
    ours, theirs = socket.socketpair()
    descriptor = forks.Descriptor(ours.fileno())
    fd = ours.detach()  # as in a close that has not come to the system yet
    descriptor.close_in_child()
    assert theirs.recv(1) == b""
    descriptor.close_in_child()  # nothing is left to do
    with theirs, open(os.devnull) as other:
        assert other.fileno() == fd  # the number is another's now
        descriptor.close_in_child()
        assert os.fstat(fd)


def test_members_are_not_kept() -> None:
    forks.register(member := Member())
    reference = weakref.ref(member)
    del member
    gc.collect()
    assert reference() is None


def test_a_fork_waits_for_a_connection_that_is_being_made() -> None:
    begun, forked = threading.Event(), threading.Event()
    codes: list[int] = []

    def fork_one() -> None:
        begun.set()
        codes.append(exit_code(fork(lambda: None)))
        forked.set()

    thread = threading.Thread(target=fork_one)
    with forks.start_lock():
        thread.start()
        assert begun.wait(20)
        assert not forked.wait(0.05)
    thread.join(20)
    assert codes == [0]


def test_who_holds_the_lock_may_fork_and_the_child_has_one_of_its_own() -> None:
    """A signal handler may fork on the thread that makes a connection."""

    def take_it_on_another_thread() -> bool:
        taken: list[bool] = []
        thread = in_thread(lambda: taken.append(forks.start_lock().acquire(timeout=20)))
        thread.join()
        return taken == [True]

    with forks.start_lock():
        pid = fork(take_it_on_another_thread)
    assert exit_code(pid) == 0
