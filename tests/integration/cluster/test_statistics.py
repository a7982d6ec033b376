"""What NATS is told of pools: by its service API, as ``nats micro`` asks."""

import asyncio
import json
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import nats

from molt_accel import Client, MoltWorkerUnavailable
from molt_accel.ipc.messages import PING
from tests.integration.cluster.conftest import Cluster
from tests.support.driver import MakeModule
from tests.support.nats_server import PATIENCE_S
from tests.support.processes import wait_until
from tests.support.versioned import source

Remote = Callable[..., Client]


def told(url: str, verb: str) -> dict[str, Any]:
    """What one bridge answers."""

    async def ask() -> Any:
        client = await nats.connect(url)
        try:
            return json.loads((await client.request(f"$SRV.{verb}.pool", timeout=PATIENCE_S)).data)
        finally:
            await client.close()

    answer: dict[str, Any] = asyncio.run(ask())
    return answer


def load_of(url: str) -> dict[str, Any]:
    (pool,) = (each for each in told(url, "STATS")["endpoints"] if each["name"] == PING)
    data: dict[str, Any] = pool["data"]
    return data


def test_statistics_have_the_pool_s_load(whole: Cluster, remote: Remote, tmp_path: Path) -> None:
    assert load_of(whole.url) == {
        "busy": 0, "in_flight": 0, "queue_depth": 0, "running": 0, "executors": 2, "busy_share": 0.0,
    }  # fmt: skip
    client = remote()
    with ThreadPoolExecutor(3) as threads:
        calls = [
            threads.submit(client.call, "wait_for_file", f"{tmp_path}/go", timeout_ms=PATIENCE_S * 1000)
            for _ in range(3)
        ]
        wait_until(lambda: load_of(whole.url)["queue_depth"] == 1, PATIENCE_S)
        load = load_of(whole.url)
        assert (load["in_flight"], load["running"]) == (3, 2)
        assert load["busy_share"] > 0
        (tmp_path / "go").touch()
        assert [call.result(PATIENCE_S) for call in calls] == ["released"] * 3
    wait_until(lambda: load_of(whole.url)["running"] == 0, PATIENCE_S)


def test_a_reload_with_other_exports_is_followed(
    cluster: Cluster, remote: Remote, make_module: MakeModule
) -> None:
    """The bridge takes requests for what the pool exports now."""
    cluster.nats.start()
    make_module("versioned_exports", source(1))
    pool = cluster.pool("pool", "--exports", "versioned_exports")
    bridge = cluster.bridge()
    client = remote()
    assert client.call("version") == 1
    before = told(cluster.url, "INFO")
    make_module("versioned_exports", source(2, "\n@export\ndef newer(payload):\n    return payload\n"))
    pool.process.send_signal(signal.SIGHUP)
    bridge.says("pool_changed")
    wait_until(
        lambda: told(cluster.url, "INFO")["metadata"]["manifest"] != before["metadata"]["manifest"],
        PATIENCE_S,
    )
    wait_until(lambda: _answers(client, "newer"), PATIENCE_S)
    assert client.call("version") == 2
    names = [each["name"] for each in told(cluster.url, "INFO")["endpoints"]]
    assert names == ["version", "hold", "newer", PING]


def _answers(client: Client, entry: str) -> bool:
    try:
        return bool(client.call(entry, 1) == 1)
    except MoltWorkerUnavailable:
        return False
