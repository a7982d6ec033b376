"""molt_accel.transports.base: the choice of a transport, and a call in flight."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import molt_accel.ipc.shm
from molt_accel.config import Config
from molt_accel.errors import MoltTimeout, MoltWorkerUnavailable, Status
from molt_accel.ipc.frame import Frame, Kind
from molt_accel.ipc.shm import arena as arenas
from molt_accel.transports.auto import AutoTransport
from molt_accel.transports.base import Pending, open_transport
from molt_accel.transports.stdio import StdioTransport
from molt_worker.inline import InlineTransport

if sys.platform == "linux":
    from molt_accel.transports.shm.transport import ShmTransport

ANSWER = Frame(Kind.RESPONSE, 7, status=Status.OK)

# -- the seam -------------------------------------------------------------------------------------------


#: What each setting opens where shared memory can be used.
CLASSES = {
    "stdio": StdioTransport,
    "inline": InlineTransport,
    **({"shm": ShmTransport, "auto": AutoTransport} if sys.platform == "linux" else {"auto": StdioTransport}),
}


@pytest.mark.parametrize(("name", "cls"), CLASSES.items())
def test_each_name_opens_its_transport_and_starts_nothing(name: str, cls: type, tmp_path: Path) -> None:
    opened = open_transport(
        Config(transport=name, worker_cmd="/no/such/worker", runtime_dir=str(tmp_path / "pools"))
    )
    assert type(opened) is cls
    assert not opened.ready
    opened.close()
    assert not (tmp_path / "pools").exists()


@pytest.fixture(params=["another system", "free-threaded", "no native core"])
def no_shared_memory(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A machine that can't serve shared memory, for each reason there is; what it is told."""
    with monkeypatch.context() as patch:
        if request.param == "another system":
            patch.setattr(arenas.sys, "platform", "darwin")
            told = "shared memory is served on Linux only"
        elif request.param == "free-threaded":
            patch.setattr(arenas.sysconfig, "get_config_var", lambda name: 1)
            told = "the shared-memory transport has not been proved on free-threaded Python"
        else:
            patch.setitem(sys.modules, "molt_accel.ipc.shm._native", None)
            patch.delattr(molt_accel.ipc.shm, "_native", raising=False)
            told = "the native core is missing ("
        arenas.native.cache_clear()
        yield told
    arenas.native.cache_clear()


def test_auto_is_stdio_where_shared_memory_can_t_be_used(
    no_shared_memory: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert type(open_transport(Config(transport="auto"))) is StdioTransport
    assert caplog.records == []  # it is as good as one can get there


def test_shared_memory_that_is_asked_for_by_name_has_no_substitute(no_shared_memory: str) -> None:
    with pytest.raises(MoltWorkerUnavailable) as caught:
        open_transport(Config(transport="shm"))
    assert caught.value.detail.startswith(no_shared_memory)


# -- a call in flight -----------------------------------------------------------------------------------


def test_a_call_in_flight_has_no_outcome_until_it_is_resolved() -> None:
    pending = Pending(7, 3)
    assert (pending.request_id, pending.connection_number, pending.result, pending.done) == (
        7,
        3,
        None,
        False,
    )
    pending.resolve(ANSWER)
    assert (pending.result, pending.done) == (ANSWER, True)


@pytest.mark.parametrize("timeout_s", [0, -1, 0.001, float("-inf")])
def test_waiting_ends_with_the_time(timeout_s: float) -> None:
    assert Pending(7).wait(timeout_s) is False


@pytest.mark.parametrize("timeout_s", [None, 0, -1, 1e9, float("inf")])
def test_waiting_for_what_is_there_returns_at_once_and_again(timeout_s: float | None) -> None:
    pending = Pending(7)
    pending.resolve(ANSWER)
    assert pending.wait(timeout_s) is True
    assert pending.wait(timeout_s) is True


@pytest.mark.parametrize("timeout_s", [None, 60, 1e12, float("inf")])
def test_a_waiting_thread_is_woken_by_the_outcome(timeout_s: float | None) -> None:
    pending = Pending(7)
    seen: list[object] = []
    thread = threading.Thread(target=lambda: seen.append((pending.wait(timeout_s), pending.result)))
    thread.start()
    pending.resolve(ANSWER)
    thread.join(60)
    assert seen == [(True, ANSWER)]


def test_an_error_is_an_outcome_like_any_other() -> None:
    pending = Pending(7)
    error = MoltTimeout("late")
    pending.resolve(error)
    assert pending.wait(0)
    assert pending.result is error


def test_a_waiter_that_gave_up_may_wait_again() -> None:
    pending = Pending(7)
    assert not pending.wait(0.001)
    pending.resolve(ANSWER)
    assert pending.wait(0)


def test_a_callback_is_called_at_the_outcome() -> None:
    pending = Pending(7)
    seen: list[object] = []
    pending.on_done(lambda: seen.append(pending.result))
    assert seen == []
    pending.resolve(ANSWER)
    assert seen == [ANSWER]


def test_a_callback_that_comes_late_is_called_at_once() -> None:
    pending = Pending(7)
    pending.resolve(ANSWER)
    seen: list[object] = []
    pending.on_done(lambda: seen.append(pending.result))
    assert seen == [ANSWER]


def test_a_callback_replaces_the_one_before() -> None:
    pending = Pending(7)
    seen: list[str] = []
    pending.on_done(lambda: seen.append("first"))
    pending.on_done(lambda: seen.append("second"))
    pending.resolve(ANSWER)
    assert seen == ["second"]


def test_no_callback_is_missed_when_it_races_with_the_outcome() -> None:
    for _ in range(500):
        pending, called, start = Pending(7), threading.Event(), threading.Barrier(2)

        def resolve(pending: Pending = pending, start: threading.Barrier = start) -> None:
            start.wait()
            pending.resolve(ANSWER)

        thread = threading.Thread(target=resolve)
        thread.start()
        start.wait()
        pending.on_done(called.set)
        assert called.wait(60)
        thread.join()
