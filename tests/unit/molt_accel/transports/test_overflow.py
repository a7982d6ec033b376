"""molt_accel.transports.overflow: when a refused request may go elsewhere, and what that costs others."""

import sys
import threading
import time
from typing import Any

import pytest

from molt_accel.call import make_call
from molt_accel.config import Config
from molt_accel.errors import BusyReason, MoltBusy, MoltStartFailed, MoltTimeout, MoltWorkerUnavailable
from molt_accel.ipc import outcomes
from molt_accel.ipc.messages import PING, Request
from molt_accel.options import CallOptions
from molt_accel.transports import cluster
from molt_accel.transports import overflow as module
from molt_accel.transports.overflow import Overflow, overflow_of
from molt_accel.waits import drive
from tests.support.errors import raised
from tests.support.scripted_transport import Act, ScriptedTransport, answer, end, refuse

BUSY = outcomes.busy(BusyReason.QUEUE_FULL)


def overflow_to(transport: ScriptedTransport) -> Overflow:
    made = Overflow(Config.load(overflow="nats"))
    made._transport = transport  # type: ignore[assignment]
    return made


def call(local: ScriptedTransport, **options: Any) -> Any:
    return drive(make_call(local, CallOptions(entry="echo", **options), None)).value


def local_with(overflow: Overflow | None, *script: Act) -> ScriptedTransport:
    local = ScriptedTransport(*script)
    local.overflow = overflow  # type: ignore[assignment]
    return local


def test_it_is_off_unless_it_is_configured() -> None:
    assert overflow_of(Config.load()) is None
    assert overflow_of(Config.load(overflow="nats")) is not None


def test_what_is_not_refused_stays() -> None:
    other = ScriptedTransport(answer())
    assert call(local_with(overflow_to(other), answer(value="here"))) == "here"
    assert other.submitted == []


@pytest.mark.parametrize("refused", [refuse(BUSY), end(BUSY)], ids=["at once", "later"])
def test_what_is_refused_is_run_elsewhere(refused: Act) -> None:
    other = ScriptedTransport(answer(value="there"))
    local = local_with(overflow_to(other), refused)
    assert call(local) == "there"
    assert call(local, idempotent=True, retries=2) == "there"
    assert len(other.submitted) == 2


@pytest.mark.parametrize("error", [outcomes.busy(BusyReason.QUEUE_DELAY), MoltWorkerUnavailable("nobody")])
@pytest.mark.parametrize("pause_s", [600.0, 0.0])
def test_if_nobody_takes_it_the_own_refusal_stands_and_nobody_is_asked_for_a_while(
    monkeypatch: pytest.MonkeyPatch, error: Any, pause_s: float
) -> None:
    monkeypatch.setattr(module, "PAUSE_S", pause_s)
    other = ScriptedTransport(end(error))
    overflow = overflow_to(other)
    local = local_with(overflow, refuse(BUSY))
    assert raised(MoltBusy, call, local).reason == "queue_full"
    assert overflow.has_room is not bool(pause_s)
    raised(MoltBusy, call, local)
    assert len(other.submitted) == (1 if pause_s else 2)


@pytest.mark.parametrize(
    "error", [MoltTimeout("over"), MoltWorkerUnavailable("lost", facts={"may_have_run": 1})]
)
def test_what_may_have_run_there_is_the_outcome(error: Any) -> None:
    local = local_with(overflow_to(ScriptedTransport(end(error))), refuse(BUSY))
    raised(type(error), call, local)


def test_with_too_little_time_a_request_stays() -> None:
    overflow = overflow_to(ScriptedTransport(answer()))
    now_ns = time.monotonic_ns()
    assert overflow.for_request(Request(1, "echo", deadline_ns=now_ns + module.LEAST_NS // 2)) is None
    assert overflow.for_request(Request(1, "echo", deadline_ns=now_ns + 10**12)) is not None
    assert overflow.for_request(Request(1, "echo")) is not None
    assert overflow.for_request(Request(1, PING)) is None


def test_the_connection_is_made_aside_and_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    go, started = threading.Event(), threading.Event()

    class Slow(ScriptedTransport):
        def start(self) -> None:
            assert go.wait(60)
            super().start()
            started.set()

    made: list[Slow] = []

    def make(config: Config) -> Slow:
        made.append(Slow(answer(value="there"), ready=False))
        return made[-1]

    monkeypatch.setattr(cluster, "ClusterTransport", make)
    overflow = Overflow(Config.load(overflow="nats"))
    local = local_with(overflow, refuse(BUSY))
    for _ in range(3):
        raised(MoltBusy, call, local)
    assert len(made) == 1
    go.set()
    assert started.wait(60)
    until = time.monotonic() + 60
    while not overflow.has_room:
        assert time.monotonic() < until
        time.sleep(0.001)
    assert call(local) == "there"
    overflow.close()
    assert overflow.for_request(Request(1, "echo")) is None
    assert made[0].starts == 1


def test_nothing_of_it_is_imported_without_it() -> None:
    import subprocess

    code = (
        "import sys; from molt_accel import Client\n"
        "with Client(transport='inline') as client: client.call('echo', 1)\n"
        "print([name for name in sys.modules if name.startswith(('nats', 'molt_accel.cluster')) "
        "or name == 'molt_accel.transports.cluster'])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert said.stdout.strip() == "[]", said.stderr


def test_what_can_never_start_is_told_once_and_not_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    class Never(ScriptedTransport):
        starts = 0

        def start(self) -> None:
            self.starts += 1
            raise MoltStartFailed("not installed")

    never = Never()
    never.ready = False
    overflow = overflow_to(never)
    assert overflow.for_request(Request(1, "echo")) is None
    for thread in threading.enumerate():
        if thread.name == "molt-starter":
            thread.join()
    assert not overflow.has_room
    assert overflow.for_request(Request(2, "echo")) is None
    assert never.starts == 1
    assert [record.message for record in caplog.records] == ["no overflow to other hosts: not installed"]


def test_a_forked_child_waits_for_no_lock_of_the_parent() -> None:
    overflow = Overflow(Config.load(overflow="nats"))
    with overflow._lock:
        overflow.after_fork_in_child()  # as if by a child: another thread has the lock
        child = threading.Thread(target=overflow.close)
        child.start()
        child.join(60)
    assert not child.is_alive()
