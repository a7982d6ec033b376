"""What was called with what."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from molt_accel.options import Entry, entry_name
from molt_accel.testing import stage
from molt_accel.testing.stage import RecordedCall


class _Recording(stage.Layer):
    def __init__(self, pool: str | None, entry: str | None) -> None:
        self._pool = pool
        self._entry = entry
        self.calls: list[RecordedCall] = []

    def record(self, call: RecordedCall) -> bool:
        wanted = self._pool in (None, call.pool) and self._entry in (None, call.entry)
        if wanted:
            self.calls.append(call)
        return wanted


@contextlib.contextmanager
def recorded_calls(*, pool: str | None = None, entry: Entry | None = None) -> Iterator[list[RecordedCall]]:
    """Record the calls of all clients of this process, in the order in which they were made.

    A call that is sent again is one call. Pings are none.

    Args:
        pool: Only those to this pool of MOLT_POOLS.
        entry: Only those of this entrypoint: its name, or its function, marked with ``@molt_worker.export``.
    """
    recording = _Recording(pool, None if entry is None else entry_name(entry))
    with stage.laid(recording):
        yield recording.calls
