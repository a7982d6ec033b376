"""molt_worker.bridge.metrics: what is told by HTTP, to whom."""

import asyncio
import json
import re

from molt_accel.cluster.engine import EngineError
from molt_accel.config import Config
from molt_worker.bridge.bridge import Bridge
from molt_worker.bridge.load import LoadMeter
from molt_worker.bridge.metrics import JSON, TEXT, Exposition
from molt_worker.bridge.survey import Survey
from tests.support.broker import Broker
from tests.support.scripted_transport import ScriptedTransport

SERIES = re.compile(r'([a-z_]+)\{((?:[a-z]+="(?:[^"\\\n]|\\["\\n])*",?)+)\} ([0-9.e-]+)')


class Told(Survey):
    def __init__(self, total: dict[str, float] | None) -> None:
        self._total = total

    async def total(self) -> dict[str, float]:
        if self._total is None:
            raise EngineError("no NATS")
        return self._total


def series(text: str) -> dict[str, float]:
    """The figures of a text in the format of Prometheus, by metric and labels. Every line is checked."""
    found, typed = {}, set()
    assert text.endswith("\n")
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert kind == ("counter" if name.endswith("_total") else "gauge")
            assert name not in typed
            typed.add(name)
        elif not line.startswith("# HELP "):
            match = SERIES.fullmatch(line)
            assert match is not None, line
            assert match[1] in typed
            found[f"{match[1]}{{{match[2]}}}"] = float(match[3])
    return found


def text_of(exposition: Exposition) -> str:
    answer = asyncio.run(exposition.answer("/metrics"))
    assert (answer.status, answer.content_type) == (200, TEXT)
    return answer.body


def test_prometheus_is_told_of_the_bridge_and_its_pool() -> None:
    told = Exposition("shop", Told(None))
    assert series(text_of(told)) == {'molt_bridge_up{pool="shop"}': 0}
    bridge = Bridge(
        Config.load(),
        Broker().engine(),
        ScriptedTransport(),  # type: ignore[arg-type]
        ["echo", 'a"\\\nb'],
        2,
        8,
    )
    bridge.served["echo"].requests, bridge.served["echo"].errors = 4, 1
    bridge.served["echo"].busy, bridge.served["echo"].nanoseconds = 2, 1_500_000_000
    meter = LoadMeter()
    meter.take({"executors": {"size": 4, "busy": 3}, "queue_depth": 7})
    told.bridge, told.meter = bridge, meter
    found = series(text_of(told))
    assert found.pop('molt_bridge_requests_total{pool="shop",entry="a\\"\\\\\\nb"}') == 0
    assert {name: value for name, value in found.items() if "a\\" not in name} == {
        'molt_bridge_up{pool="shop"}': 1,
        'molt_bridge_in_flight{pool="shop"}': 0,
        'molt_pool_queue_depth{pool="shop"}': 7,
        'molt_pool_running{pool="shop"}': 3,
        'molt_pool_executors{pool="shop"}': 4,
        'molt_pool_busy_share{pool="shop"}': 0.75,
        'molt_bridge_requests_total{pool="shop",entry="echo"}': 4,
        'molt_bridge_errors_total{pool="shop",entry="echo"}': 1,
        'molt_bridge_busy_total{pool="shop",entry="echo"}': 2,
        'molt_bridge_seconds_total{pool="shop",entry="echo"}': 1.5,
    }


def test_autoscalers_are_told_of_all_pools_or_that_nothing_is_known() -> None:
    answer = asyncio.run(Exposition("shop", Told({"pools": 3, "queue_depth": 9})).answer("/cluster"))
    assert (answer.status, answer.content_type) == (200, JSON)
    assert json.loads(answer.body) == {"pools": 3, "queue_depth": 9}
    answer = asyncio.run(Exposition("shop", Told(None)).answer("/cluster"))
    assert (answer.status, json.loads(answer.body)) == (503, {"error": "no NATS"})


def test_elsewhere_is_nothing() -> None:
    assert asyncio.run(Exposition("shop", Told(None)).answer("/")).status == 404
