"""The answer to a ping."""

import os
from types import SimpleNamespace
from typing import Any

import pytest

from molt_accel import __version__, codec
from molt_accel.errors import Status
from molt_accel.ipc.messages import PING, Codec, Request
from molt_worker.entrypoints.exports import Export, ExportTable
from molt_worker.runtime.metrics import Counters
from molt_worker.supervisor.report import pong

TABLE = ExportTable(
    [
        Export("plain", "m:f", Codec.MSGPACK, Codec.MSGPACK, print),
        Export("fast", "m:g", Codec.MSGPACK, Codec.MSGPACK, print, compiled=True),
    ]
)


@pytest.mark.parametrize(
    ("exports", "names", "compiled"), [(None, [], []), (TABLE, ["plain", "fast"], ["fast"])]
)
def test_the_report_is_complete(exports: ExportTable | None, names: list[str], compiled: list[str]) -> None:
    living = [SimpleNamespace(pid=pid) for pid in (11, 0, 12)]  # 0: not forked yet
    pool: Any = SimpleNamespace(exports=exports, size=4, living=lambda: living)
    counters = Counters()
    answer = pong(
        Request(7, PING, generation=3),
        pool,
        counters,
        executors={"idle": 1},
        queue_depth=5,
        in_flight=2,
        shed={"deadline": 0, "queue_full": 3},
        entries={f"e{number}": {} for number in range(300)},
        ready=True,
        outcomes={"Ok": 9},
    )
    assert (answer.request_id, answer.generation, answer.status) == (7, 3, Status.OK)
    assert (answer.queue_depth, answer.in_flight) == (5, 2)
    report = codec.decode(answer.codec, answer.payload)
    assert report == {
        **counters.as_dict(),
        "uptime_s": report["uptime_s"],
        "version": __version__,
        "pid": os.getpid(),
        "exports": names,
        "manifest": pool.exports.digest if pool.exports is not None else "",
        "compiled": compiled,
        "executors": {"size": 4, "idle": 1, "pids": [11, 12]},
        "queue_depth": 5,
        "in_flight": 2,
        "shed": {"deadline": 0, "queue_full": 3},
        "entries": {f"e{number}": {} for number in range(200)},
        "ready": True,
        "outcomes": {"Ok": 9},
    }


def test_folders_are_told_to_who_asks_and_fit_into_a_packet() -> None:
    pool: Any = SimpleNamespace(exports=None, size=1, living=list, folders=("/a",) * 1000)
    known: dict[str, Any] = {"executors": {}, "queue_depth": 0, "in_flight": 0, "shed": {}, "entries": {}}
    for payload, told in (
        (b"", None),
        (b"\xc0", None),
        (codec.encode(Codec.MSGPACK, "folders"), ["/a"] * 500),
    ):
        answer = pong(Request(7, PING, payload), pool, Counters(), **known)
        assert codec.decode(answer.codec, answer.payload).get("folders") == told
