"""MOLT_OVERFLOW: what the local pool refuses is run by another host, and nothing else leaves."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from molt_accel import Client, MoltBusy
from tests.integration.cluster.conftest import Cluster
from tests.support import EXPORTS
from tests.support.errors import raised
from tests.support.nats_server import PATIENCE_S
from tests.support.processes import closing_all, wait_for_file, wait_until

LONG_MS = PATIENCE_S * 1000


@pytest.fixture
def local(cluster: Cluster, transport: str) -> Iterator[Callable[..., Client]]:
    """Makes clients of a pool of this host with one executor and no queue."""

    def make(**config: object) -> Client:
        settings = {
            "transport": transport, "exports": EXPORTS, "executors": 1, "max_queue": 0, "overflow": "nats",
            "nats_url": cluster.url, "log_level": "error",
        }  # fmt: skip
        client = Client(**{**settings, **config})
        client.start()
        return client

    with closing_all(make) as make_one:
        yield make_one


def pids(cluster: Cluster, client: Client) -> tuple[int, list[int]]:
    """The local executor's process id, and those of the other host."""
    with Client(transport="nats", nats_url=cluster.url) as remote:
        other = remote.ping(timeout_ms=LONG_MS)["executors"]["pids"]
    return client.call("pid", None, timeout_ms=LONG_MS), other


def test_the_local_pool_comes_first_and_others_get_what_it_refuses(
    cluster: Cluster, local: Callable[..., Client], tmp_path: Path
) -> None:
    cluster.nats.start()
    cluster.pool("other")
    cluster.bridge("other")
    client, path = local(), tmp_path / "go"
    own, others = pids(cluster, client)
    assert [client.call("pid", None) for _ in range(20)] == [own] * 20
    with ThreadPoolExecutor(1) as threads:
        held = threads.submit(client.call, "wait_for_file", str(path), timeout_ms=LONG_MS)
        wait_for_file(f"{path}.running")

        def overflows() -> bool:  # the first one refused has the connection made
            try:
                return client.call("pid", None) in others
            except MoltBusy:
                return False

        wait_until(overflows, PATIENCE_S)
        assert {client.call("pid", None) for _ in range(10)} <= set(others)
        # Too little time for another host.
        raised(MoltBusy, client.call, "pid", None, timeout_ms=4)
        path.touch()
        assert held.result(PATIENCE_S) == "released"
    wait_until(lambda: client.call("pid", None) == own, PATIENCE_S)


def test_without_another_host_busy_stays_busy(
    cluster: Cluster, local: Callable[..., Client], tmp_path: Path
) -> None:
    client, path = local(), tmp_path / "go"
    with ThreadPoolExecutor(1) as threads:
        held = threads.submit(client.call, "wait_for_file", str(path), timeout_ms=LONG_MS)
        wait_for_file(f"{path}.running")
        assert raised(MoltBusy, client.call, "echo").reason == "queue_full"
        cluster.nats.start()
        for _ in range(5):
            assert raised(MoltBusy, client.call, "echo").reason == "queue_full"
        path.touch()
        assert held.result(PATIENCE_S) == "released"
