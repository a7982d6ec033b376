"""molt_worker.bridge.service: what ``nats micro`` is told."""

import asyncio
import json
from pathlib import Path
from typing import Any

import nats

from molt_accel.config import Config
from molt_accel.ipc.messages import PING
from molt_worker.bridge.bridge import Bridge
from molt_worker.bridge.load import LoadMeter
from molt_worker.bridge.service import PoolService
from tests.support.broker import Broker
from tests.support.nats_server import NatsServer
from tests.support.scripted_transport import ScriptedTransport


def test_name_version_entrypoints_and_statistics_are_told(tmp_path: Path) -> None:
    async def main(url: str) -> None:
        client = await nats.connect(url)
        bridge = Bridge(
            Config.load(),
            Broker().engine(),
            ScriptedTransport(),
            ["echo", "a b", PING],
            2,
            8,  # type: ignore[arg-type]
        )
        meter = LoadMeter()
        meter.take({"executors": {"size": 4, "busy": 3}, "queue_depth": 7})
        service = PoolService(client, bridge, "shop.pool", meter, "molt", {"manifest": "abc"})
        await service.start()
        bridge.served["echo"].requests, bridge.served["echo"].nanoseconds = 4, 400
        bridge.served["echo"].busy, bridge.served["echo"].last_error = 1, "Timeout"

        async def ask(verb: str) -> Any:
            return json.loads((await client.request(f"$SRV.{verb}.shop-pool")).data)

        ping, info, stats = [await ask(verb) for verb in ("PING", "INFO", "STATS")]
        assert (ping["name"], ping["metadata"]) == ("shop-pool", {"manifest": "abc"})
        assert ping["version"].count(".") == 2
        assert [(each["name"], each["subject"]) for each in info["endpoints"]] == [
            ("echo", "molt.echo"),
            ("a b", "molt.a%20b"),
            (PING, f"molt.{PING}"),
        ]
        echo = stats["endpoints"][0]
        assert (echo["num_requests"], echo["average_processing_time"], echo["last_error"]) == (
            4,
            100,
            "Timeout",
        )
        assert echo["data"] == {"busy": 1, "in_flight": 0}
        assert stats["endpoints"][2]["data"] == {
            "busy": 0,
            "in_flight": 0,
            "queue_depth": 7,
            "running": 3,
            "executors": 4,
            "busy_share": 0.75,
        }
        service.tell("manifest", "def")
        bridge.offer(["echo"], 2, 8)
        info, stats = await ask("INFO"), await ask("STATS")
        assert info["metadata"] == {"manifest": "def"}
        assert [each["name"] for each in info["endpoints"]] == ["echo"]
        assert [each["name"] for each in stats["endpoints"]] == ["echo", "a b", PING]
        await service.stop()
        await client.close()

    with NatsServer(tmp_path) as server:
        asyncio.run(main(server.url))
