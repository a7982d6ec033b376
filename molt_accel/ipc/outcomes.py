"""The errors with which a pool ends calls, worded once for both transports and both sides."""

from __future__ import annotations

import random
import signal
from typing import Final

from molt_accel.durations import NS_PER_S
from molt_accel.errors import (
    BusyReason,
    MoltBusy,
    MoltCancelled,
    MoltError,
    MoltIncompatible,
    MoltTimeout,
    MoltWorkerCrashed,
    MoltWorkerUnavailable,
)


def expired_in_queue() -> MoltTimeout:
    return MoltTimeout("the deadline passed in the queue", facts={"phase": "queue"})


def too_late() -> MoltTimeout:
    """An executor has taken the request up, and it takes more time than is left."""
    return MoltTimeout("too little time was left to run it", facts={"phase": "queue"})


def timed_out_running() -> MoltTimeout:
    return MoltTimeout("the deadline passed while the request ran", facts={"phase": "running"})


def stalled() -> MoltTimeout:
    """One side of a channel did not take or send bytes for too long, so the other gave up."""
    return MoltTimeout("the payload or the result was not moved on for 5 s", facts={"phase": "transport"})


def no_answer() -> MoltTimeout:
    """The worker itself does not answer, so its client gives up."""
    return MoltTimeout("no answer within deadline and grace time", facts={"phase": "transport"})


#: What a refused caller is told, by the reason.
_BUSY_TEXTS: Final = {
    BusyReason.QUEUE_FULL: "the queue is full",
    BusyReason.QUEUE_DELAY: "requests have to wait for too long",
    BusyReason.DEADLINE: "the request could not end before its deadline",
    BusyReason.ENTRY_LIMIT: "requests of this entry have to wait for too long",
    BusyReason.IN_FLIGHT: "as many calls are in flight as may be",
    BusyReason.NO_CHANNEL: "the worker has no channel left for this client",
    BusyReason.UNREAD: "the worker doesn't take requests as fast as they come",
    BusyReason.STOPPING: "the worker is stopping",
}


def busy(reason: BusyReason, wait_ns: int = 0) -> MoltBusy:
    """A request is refused.

    Args:
        reason: Why.
        wait_ns: How long a request would have to wait, in ns. `retry_after_s` is that, and up to as much again at
            random: those who are refused together shall not come back together.
    """
    after_s = max(1, -(-wait_ns // NS_PER_S))
    after_s += random.randint(0, after_s)
    return MoltBusy(_BUSY_TEXTS[reason], facts={"reason": reason.value, "retry_after_s": after_s})


def http_client_gone() -> MoltCancelled:
    return MoltCancelled("the client went away")


def worker_gone(how: str = "") -> MoltWorkerUnavailable:
    """The connection to a worker has ended.

    Args:
        how: How that was seen, as a sentence; empty: it is not known.
    """
    return MoltWorkerUnavailable(f"the worker is gone: {how}" if how else "the worker is gone")


def was_not_run(error: MoltError | None) -> bool:
    """Whether a pool that ended a request so has certainly not run it, and another one may."""
    if isinstance(error, MoltWorkerUnavailable):
        return not error.may_have_run
    return isinstance(error, MoltBusy)


def died_unreported() -> MoltWorkerCrashed:
    """An executor closed its socket while it had a request, and its fork server did not report its end in time."""
    return MoltWorkerCrashed("the executor died")


def other_protocol(why: str) -> MoltIncompatible:
    """The worker's frames or messages are none of this version."""
    return MoltIncompatible(
        f"the worker speaks another protocol: {why}; client and worker must be of one release of molt-accel: restart "
        "the older one, and see that MOLT_WORKER_CMD starts this release's molt-worker"
    )


def crashed(entry: str | None, exit_code: int | None) -> MoltWorkerCrashed:
    """An executor died while it had a request.

    Args:
        entry: What it ran; None where that is not known.
        exit_code: Negative for a signal; None if the executor died because its fork server did.
    """
    what = "this request" if entry is None else repr(entry)
    how = "with its fork server" if exit_code is None else exit_text(exit_code)
    facts = {} if exit_code is None else exit_facts(exit_code)
    return MoltWorkerCrashed(f"the executor died while it ran {what}: {how}", facts=facts)


def exit_facts(code: int) -> dict[str, int | str]:
    """The facts of a crash; a negative exit code is a signal."""
    return {"signal": -code} if code < 0 else {"exit_code": code}


def exit_text(code: int) -> str:
    """An exit code in words; a negative one is a signal."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {-code} ({signal.Signals(-code).name})"
    except ValueError:  # a real-time signal has no name
        return f"signal {-code}"
