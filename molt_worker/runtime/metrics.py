"""The supervisor's counters, and the fields of a request's log line."""

from __future__ import annotations

import time
from collections import Counter

from molt_accel.errors import Status
from molt_accel.ipc.frame import FLAG_COMPILED, Frame, format_id


class Counters:
    """What has happened since the worker started."""

    def __init__(self) -> None:
        self.started_s = time.monotonic()
        self.outcomes: Counter[str] = Counter()
        self.executor_starts = 0
        self.executor_deaths = 0
        self.recycled = 0
        self.reloads = 0
        self.bad_frames = 0

    def as_dict(self) -> dict[str, object]:
        """Return the counters as msgpack can encode them."""
        return {
            "uptime_s": round(time.monotonic() - self.started_s, 3),
            "outcomes": dict(self.outcomes),
            "executor_starts": self.executor_starts,
            "executor_deaths": self.executor_deaths,
            "recycled": self.recycled,
            "reloads": self.reloads,
            "bad_frames": self.bad_frames,
        }


def request_level(status: str) -> str:
    """The log level of a request's line."""
    return "debug" if status == Status.OK.label else "warning"


def request_fields(request: Frame, response: Frame, status: str) -> dict[str, object]:
    return {
        "request_id": format_id(request.request_id),
        "entry": request.entry,
        "status": status,
        "queue_us": response.queue_us,
        "decode_us": response.decode_us,
        "handler_us": response.handler_us,
        "encode_us": response.encode_us,
        "exec_us": response.exec_us,
        "queue_depth": response.queue_depth,
        "in_flight": response.in_flight,
        "executor": response.executor,
        "compiled": bool(response.flags & FLAG_COMPILED),
        "payload_bytes": len(request.payload),
        "response_bytes": len(response.payload),
    }
