"""Outcomes that a test forces upon calls of an entrypoint.

The errors are made where a pool makes them (`molt_accel.ipc.outcomes`, and the runner for what an entrypoint raises),
and come by a response as a worker's do. So retries, hooks, metrics, fallbacks and a view's answer are a real fault's.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, Final, NoReturn

from molt_accel.durations import Milliseconds, in_ms
from molt_accel.errors import BusyReason, MoltError, MoltStartFailed, MoltTimeout, start_failure
from molt_accel.ipc import outcomes
from molt_accel.ipc.messages import Request
from molt_accel.options import Entry, entry_name
from molt_accel.testing import stage
from molt_accel.testing.staged_call import StagedCall
from molt_accel.transports.base import Pending, PendingCall
from molt_worker.entrypoints.exports import Export, ExportTable
from molt_worker.entrypoints.runner import error_response

_BUSY: Final = {reason.value: reason for reason in BusyReason}
_TIMEOUTS: Final[dict[str, Callable[[], MoltTimeout]]] = {
    "queue": outcomes.expired_in_queue,
    "running": outcomes.timed_out_running,
    "transport": outcomes.no_answer,
}


class Outcome(ABC):
    """How a call ends, for `forced`. The functions of this module make them."""

    @abstractmethod
    def submit(self, on: stage.StagedTransport, request: Request) -> PendingCall | None:
        """Take a request, as `Sender.submit` does."""


class _Fault(Outcome):
    def __init__(self, make: Callable[[Request], MoltError]) -> None:
        self._make = make

    def submit(self, on: stage.StagedTransport, request: Request) -> PendingCall:
        pending = Pending(request.request_id)
        pending.resolve(error_response(request, self._make(request)))
        return StagedCall(request, on.real, pending)


class _Instead(Outcome):
    """Runs the request in this process, with other exports than the pool's."""

    def __init__(self, change: Callable[[Export], Export | None]) -> None:
        self._change = change

    def submit(self, on: stage.StagedTransport, request: Request) -> PendingCall | None:
        on.inline.start()

        def exports(table: ExportTable) -> ExportTable:
            changed = (self._change(each) if each.name == request.entry else each for each in table)
            return ExportTable(each for each in changed if each is not None)

        pending = on.inline.submit(request, exports)
        return None if pending is None else StagedCall(request, on.inline, pending)


class _Slow(Outcome):
    def __init__(self, delay_s: float) -> None:
        self._delay_s = delay_s

    def submit(self, on: stage.StagedTransport, request: Request) -> PendingCall | None:
        target = on.target
        return StagedCall(request, target, delay_s=self._delay_s) if target.ready else None


def _one_of(name: str, value: str, allowed: dict[str, Any]) -> Any:
    if value not in allowed:
        raise ValueError(f"{name}: {value!r} is not allowed; it must be one of {', '.join(allowed)}")
    return allowed[value]


def busy(reason: str = "queue_full", *, retry_after_s: int | None = None) -> Outcome:
    """The pool takes no request (`MoltBusy`).

    Args:
        reason: One of `molt_accel.errors.BusyReason`.
        retry_after_s: The seconds of Retry-After; None: as of a pool that is hardly over its limit, 1 or 2 at random.

    Raises:
        ValueError: there is no such reason.
    """
    why = _one_of("reason", reason, _BUSY)

    def make(_: Request) -> MoltError:
        error = outcomes.busy(why)
        if retry_after_s is not None:
            error.facts["retry_after_s"] = retry_after_s
        return error

    return _Fault(make)


def timeout(phase: str = "running") -> Outcome:
    """The deadline passes (`MoltTimeout`). The call ends at once; `slow` takes the time.

    Args:
        phase: Where it passes: ``queue``, ``running`` or ``transport`` (no answer came).

    Raises:
        ValueError: there is no such phase.
    """
    make = _one_of("phase", phase, _TIMEOUTS)
    return _Fault(lambda _: make())


def crashed(*, signal: int | None = None, exit_code: int | None = None) -> Outcome:
    """The executor dies while it runs the request (`MoltWorkerCrashed`).

    Args:
        signal: What kills it; 9 (SIGKILL) if neither is given.
        exit_code: With what it exits instead.

    Raises:
        ValueError: both are given.
    """
    if signal is not None and exit_code is not None:
        raise ValueError("give either a signal or an exit code, not both")
    code = exit_code if exit_code is not None else -(signal or 9)
    return _Fault(lambda request: outcomes.crashed(request.entry, code))


def unavailable(*, may_have_run: bool = False, how: str = "its control socket was closed") -> Outcome:
    """The worker is lost (`MoltWorkerUnavailable`).

    Args:
        may_have_run: Whether it may have run the request.
        how: How that was seen, if it may have.
    """

    def make(_: Request) -> MoltError:
        error = outcomes.worker_gone(how if may_have_run else "")
        if may_have_run:
            error.facts["may_have_run"] = 1
        return error

    return _Fault(make)


def start_failed(reason: str = "the fork server died: exit code 1") -> Outcome:
    """The worker can't start (`MoltStartFailed`).

    Args:
        reason: Why, in the worker's words.
    """
    return _Fault(lambda _: start_failure(MoltStartFailed(reason)))


def cancelled() -> Outcome:
    """The browser goes away (`MoltCancelled`)."""
    return _Fault(lambda _: outcomes.http_client_gone())


def raises(error: BaseException | type[BaseException]) -> Outcome:
    """The entrypoint raises `error`, an exception or a class of them, and its call ends as it does then.

    ``molt_worker.InvalidInput`` becomes `MoltInvalidInput`, what Django or REST framework makes a response of is raised
    in the view, and any other is a `MoltInternalError`.
    """

    def raise_it(_: object) -> NoReturn:
        raise error() if isinstance(error, type) else error.with_traceback(None)

    return _Instead(lambda export: dataclasses.replace(export, function=raise_it, compiled=False))


def returns(value: object) -> Outcome:
    """The entrypoint is not run and gives `value`, which is encoded and decoded as its results are.

    The pool's exports are imported in this process: the entry must be one of them, and the payload must fit it.
    """
    return _Instead(lambda export: dataclasses.replace(export, function=lambda _: value, compiled=False))


def unknown_entry() -> Outcome:
    """The pool has no such entrypoint (`MoltEntryError`): caller and pool are deployed apart."""
    return _Instead(lambda _: None)


def slow(delay_ms: Milliseconds) -> Outcome:
    """The call takes this long before its entrypoint is run; if its deadline passes meanwhile, it ends as timed out.

    Args:
        delay_ms: Milliseconds, or a timedelta.

    Raises:
        TypeError, ValueError: it is no time.
    """
    return _Slow(in_ms("delay_ms", delay_ms) / 1000)


class _Forced(stage.Layer):
    def __init__(self, entry: str, outcome: Outcome, pool: str | None, times: int | None) -> None:
        self._entry = entry
        self._outcome = outcome
        self._pool = pool
        self._left = times  # None: any number
        self._lock = threading.Lock()

    def force(self, on: stage.StagedTransport, request: Request) -> tuple[PendingCall | None] | None:
        if request.entry != self._entry or self._pool not in (None, on.pool):
            return None
        with self._lock:
            if self._left == 0:
                return None
            self._left = None if self._left is None else self._left - 1
        pending = self._outcome.submit(on, request)
        if pending is None:  # not yet: the pool is started first
            with self._lock:
                self._left = None if self._left is None else self._left + 1
        return (pending,)


@contextlib.contextmanager
def forced(
    entry: Entry, outcome: Outcome, *, pool: str | None = None, times: int | None = None
) -> Iterator[None]:
    """Have calls of an entrypoint end so, in whichever client of this process; the last `forced` of several wins.

    Args:
        entry: The entrypoint's name, or its function, marked with ``@molt_worker.export``.
        outcome: How: ``busy()``, ``returns({"total": 3})``, ...
        pool: Only in this pool of MOLT_POOLS.
        times: Only so many times, each try of an idempotent call counted; None: always.
    """
    with stage.laid(_Forced(entry_name(entry), outcome, pool, times)):
        yield
