"""What NATS is told of pools: by its service API, as ``nats micro`` asks."""

import asyncio
import http.client
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
from tests.integration.cluster.test_security import ACCOUNTS
from tests.support.driver import MakeModule
from tests.support.nats_server import PATIENCE_S, NatsServer, free_port
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


def fetched(port: int, path: str) -> tuple[int, str]:
    """Status and body of an answer by HTTP."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def test_any_bridge_tells_autoscalers_of_all_pools(cluster: Cluster, remote: Remote, tmp_path: Path) -> None:
    """With each user restricted as the documentation says."""
    config = tmp_path / "accounts.conf"
    config.write_text(ACCOUNTS)
    cluster.nats = NatsServer(tmp_path, ["-c", str(config)])
    cluster.nats.start()
    environ = {"MOLT_NATS_USER": "bridge", "MOLT_NATS_PASSWORD": "b", "MOLT_NATS_SUBJECT": "shop"}
    ports = [free_port(), free_port()]
    for name, port in zip(("one", "other"), ports, strict=True):
        cluster.pool(name)
        cluster.bridge(name, "--metrics", f"127.0.0.1:{port}", **environ)
    client = remote(nats_user="web", nats_password="w", nats_subject="shop")
    with ThreadPoolExecutor(6) as threads:
        calls = [
            threads.submit(client.call, "wait_for_file", f"{tmp_path}/go", timeout_ms=PATIENCE_S * 1000)
            for _ in range(6)
        ]

        def total(port: int) -> Any:
            status, body = fetched(port, "/cluster")
            return json.loads(body) if status == 200 else {}

        for port in ports:
            wait_until(
                lambda port=port: (
                    (told := total(port)).get("in_flight") == 6 and told["queue_depth"] + told["running"] == 6
                ),
                PATIENCE_S,
            )
            told_now = total(port)
            assert (told_now["pools"], told_now["executors"]) == (2, 4)
        (tmp_path / "go").touch()
        assert [call.result(PATIENCE_S) for call in calls] == ["released"] * 6
    status, text = fetched(ports[0], "/metrics")
    assert status == 200
    assert 'molt_pool_executors{pool="one"} 2' in text
    assert 'molt_bridge_up{pool="one"} 1' in text
    assert fetched(ports[0], "/")[0] == 404
    cluster.nats.kill()
    wait_until(lambda: fetched(ports[0], "/cluster")[0] == 503, PATIENCE_S)
    assert fetched(ports[0], "/metrics")[0] == 200


def test_an_address_in_use_is_told(cluster: Cluster) -> None:
    cluster.nats.start()
    bridge = cluster.bridge("pool", "--metrics", f"127.0.0.1:{cluster.nats.port}", ready=False)
    assert bridge.process.wait(PATIENCE_S) == 1
    assert f"can't listen at 127.0.0.1:{cluster.nats.port}" in bridge.log.read_text()


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
