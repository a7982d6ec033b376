"""The supervisor's counters, and the fields of a request's log line."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from molt_accel.errors import Status
from molt_accel.ipc.frame import format_id
from molt_accel.ipc.messages import FLAG_COMPILED, Request, Response

_TIMES: Final = ("queue_us", "decode_us", "handler_us", "encode_us", "exec_us")


@dataclass
class Counters:
    """What has happened since the worker started."""

    started_s: float = field(default_factory=time.monotonic)
    outcomes: Counter[str] = field(default_factory=Counter)
    executor_starts: int = 0
    executor_deaths: int = 0
    recycled: int = 0
    reloads: int = 0
    bad_frames: int = 0

    def as_dict(self) -> dict[str, object]:
        """Return the counters as msgpack can encode them."""
        counts = vars(self) | {"outcomes": dict(self.outcomes)}
        return {"uptime_s": round(time.monotonic() - counts.pop("started_s"), 3), **counts}


def request_level(status: str) -> str:
    return "debug" if status == Status.OK.label else "warning"


def request_fields(request: Request, response: Response, status: str) -> dict[str, object]:
    return {
        "request_id": format_id(request.request_id),
        "entry": request.entry,
        "status": status,
        **{name: getattr(response, name) for name in (*_TIMES, "queue_depth", "in_flight", "executor")},
        "compiled": bool(response.flags & FLAG_COMPILED),
        "payload_bytes": len(request.payload),
        "response_bytes": len(response.payload),
    }
