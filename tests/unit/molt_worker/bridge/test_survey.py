"""molt_worker.bridge.survey: what all pools of a subject have to do, by what their bridges tell."""

import asyncio
import json
from typing import Any

import pytest

from molt_accel.cluster.engine import EngineError, Incoming
from molt_worker.bridge import survey as module
from molt_worker.bridge.survey import SUBJECT, Survey, total_of
from tests.support.broker import Broker

SHOP = "shop.__ping__"


def told(subject: str = SHOP, **data: object) -> bytes:
    endpoints = [{"subject": "shop.echo", "data": {"queue_depth": 1000}}, {"subject": subject, "data": data}]
    return json.dumps({"endpoints": endpoints}).encode()


ONE = told(busy=1, in_flight=2, queue_depth=3, running=2, executors=2, busy_share=1.0)
OTHER = told(busy=0, in_flight=0, queue_depth=0, running=1, executors=6, busy_share=0.2)


def test_pools_are_added_up() -> None:
    assert total_of([ONE, OTHER], SHOP) == {
        "pools": 2, "queue_depth": 3, "running": 3, "executors": 8, "in_flight": 2, "busy_share": 0.4,
    }  # fmt: skip


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"{}",
        b"[1]",
        b"\xff",
        b"[" * 100_000,
        b'{"endpoints": 5}',
        b'{"endpoints": [5]}',
        b'{"endpoints": [{"subject": "shop.__ping__"}]}',
        b'{"endpoints": [{"subject": "shop.__ping__", "data": 5}]}',
        told(queue_depth="many"),
        told(queue_depth=-1),
        told(queue_depth=float("nan")),
        told(queue_depth=float("inf")),
        told(queue_depth=10**400),
        told(queue_depth=[]),
        told("other.__ping__", queue_depth=7),
    ],
)
def test_what_others_answer_is_left_out(answer: bytes) -> None:
    assert total_of([answer], SHOP)["pools"] == 0
    assert total_of([answer, ONE], SHOP) == total_of([ONE], SHOP)


def answered(*answers: bytes) -> tuple[dict[str, float], int]:
    """What two who ask at once are told, and how often NATS was asked."""

    async def main() -> tuple[dict[str, float], int]:
        broker = Broker()
        service, engine = broker.engine(), broker.engine()
        asked = 0

        def take(message: Incoming) -> None:
            nonlocal asked
            asked += 1
            for each in answers:
                service.publish_now(message.reply, each)

        await service.subscribe(SUBJECT, take)
        survey = Survey(engine, "shop")
        one, other = await asyncio.gather(survey.total(), survey.total())
        assert one == other
        assert broker.subjects() == [SUBJECT]
        return one, asked

    return asyncio.run(main())


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAIT_S", 0.05)
    monkeypatch.setattr(module, "FRESH_S", 60.0)


def test_those_who_ask_at_once_cost_one_question() -> None:
    total: Any = answered(ONE, OTHER)
    assert total == (total_of([ONE, OTHER], SHOP), 1)


def test_a_flood_of_answers_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 3)
    assert answered(*[ONE] * 10)[0]["pools"] == 3


def test_no_answer_is_not_taken_for_no_load() -> None:
    with pytest.raises(EngineError, match="publish to"):
        answered(told("other.__ping__", queue_depth=7))

    async def nobody() -> None:
        with pytest.raises(EngineError):
            await Survey(Broker().engine(), "shop").total()

    asyncio.run(nobody())
