"""molt_accel.testing.pools: where calls run, and that the last one who says so wins."""

import os
import sys

import psutil
import pytest

from molt_accel import Client, client_for, testing
from molt_accel.config import ConfigError
from tests.support import EXPORTS, TRANSPORTS


@pytest.fixture(autouse=True)
def _own_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("molt_accel.client._clients", {})
    monkeypatch.setenv("MOLT_EXPORTS", EXPORTS)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_pool_of_the_test_s_own(transport: str, capfd: pytest.CaptureFixture[str]) -> None:
    with Client(transport="inline", exports=EXPORTS) as own, client_for("default") as shared:
        with testing.running_pool(transport=transport, executors=1, max_queue=7) as client:
            processes = [psutil.Process(client.ping()["pid"]), psutil.Process(client.call("pid"))]
            executor = processes[1].pid
            assert client.config.max_queue == 7
            with testing.inline_pool():
                assert shared.call("pid") == os.getpid()
                with testing.use_pool(client) as used:
                    assert used is client
                    assert [each.call("pid") for each in (client, shared)] == [executor] * 2
                    assert own.call("pid") == os.getpid()
                    with testing.inline_pool():
                        assert client.call("pid") == shared.call("pid") == os.getpid()
            with pytest.raises(Exception, match="'fail' raised ValueError"):
                client.call("fail", "value")
        assert not any(each.is_running() and each.status() != psutil.STATUS_ZOMBIE for each in processes)
        assert not os.path.exists(client.config.runtime_dir)
    assert "the secret is 42" in capfd.readouterr().err


def test_a_shared_client_that_is_made_anew_calls_the_same_worker() -> None:
    with testing.real_pool(executors=1) as client:
        pids = [client_for("default").call("pid")]
        client_for("default").close()
        vars(sys.modules["molt_accel.client"])["_clients"].clear()
        pids.append(client_for("default").call("pid"))
        assert pids == [client.call("pid")] * 2
    client_for("default").close()


def test_a_pool_that_is_not_there_is_said() -> None:
    with pytest.raises(ConfigError, match=r"^MOLT_POOLS has no pool 'reports'"), testing.real_pool("reports"):
        pass
