"""What a worker answers to a ping: its report, the same for every transport."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping
from typing import Final

from molt_accel import codec
from molt_accel.ipc.messages import PING_FOLDERS, Codec, Request, Response
from molt_accel.version import __version__
from molt_worker.processes.pool import Pool
from molt_worker.runtime.metrics import Counters

_ASKS_FOLDERS: Final = codec.encode(Codec.MSGPACK, PING_FOLDERS)
#: An answer has to fit into a packet.
_MAX_FOLDERS: Final = 500
_MAX_ENTRIES: Final = 200


def pong(
    ping: Request,
    pool: Pool,
    counters: Counters,
    *,
    executors: dict[str, object],
    queue_depth: int,
    in_flight: int,
    shed: Mapping[str, int],
    entries: Mapping[str, object],
    **others: object,
) -> Response:
    """The answer to a ping, with the project's folders if it asks for them.

    `shed` has refused requests by reason, and `entries` what there is to tell of entrypoints. `others` is what the
    transport adds, or knows better than the counters.
    """
    pids = [executor.pid for executor in pool.living() if executor.pid]
    report = {
        "version": __version__,
        "pid": os.getpid(),
        "exports": [export.name for export in pool.exports or ()],
        "manifest": pool.exports.digest if pool.exports is not None else "",
        "compiled": pool.exports.compiled if pool.exports is not None else [],
        "executors": {"size": pool.size, **executors, "pids": pids},
        "queue_depth": queue_depth,
        "in_flight": in_flight,
        "shed": dict(shed),
        "entries": dict(itertools.islice(entries.items(), _MAX_ENTRIES)),
        **counters.as_dict(),
        **others,
    }
    if ping.payload == _ASKS_FOLDERS:
        report["folders"] = pool.folders[:_MAX_FOLDERS]
    answer = Response(ping.request_id, generation=ping.generation)
    answer.payload = codec.encode(Codec.MSGPACK, report)
    answer.queue_depth, answer.in_flight = queue_depth, in_flight
    return answer
