"""molt_worker.bridge.service: what ``nats micro`` is told."""

import asyncio
import json
from pathlib import Path
from typing import Any

import nats

from molt_accel.config import Config
from molt_worker.bridge.bridge import Bridge
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
            ["echo", "a b"],
            2,
            8,  # type: ignore[arg-type]
        )
        service = PoolService(client, bridge, "shop.pool", "molt", {"manifest": "abc"})
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
        ]
        echo = stats["endpoints"][0]
        assert (echo["num_requests"], echo["average_processing_time"], echo["last_error"]) == (
            4,
            100,
            "Timeout",
        )
        assert echo["data"] == {"busy": 1, "in_flight": 0}
        await service.stop()
        await client.close()

    with NatsServer(tmp_path) as server:
        asyncio.run(main(server.url))
