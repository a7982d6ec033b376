"""Namespaces: why there are none, and that none are left."""

import subprocess
import sys
from pathlib import Path

import pytest

from bench.cluster import network
from bench.cluster.network import SERVER, Pair
from bench.micro.peers.base import Unavailable


def namespaces() -> set[str]:
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    return set(listed.split())


def test_where_there_can_be_none_the_reason_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(Unavailable, match="need root"), Pair(0.0):
        pass


@pytest.mark.skipif("network.why_not()")
def test_what_the_cable_carries_is_delayed_and_nothing_is_left() -> None:
    answers = f"import socket; s = socket.create_server(('{SERVER}', 7)); print(flush=True); s.accept()"
    with Pair(0.05) as pair:
        command = (*pair.server, sys.executable, "-c", answers)
        with subprocess.Popen(command, stdout=subprocess.PIPE) as server:
            assert server.stdout is not None
            server.stdout.readline()
            code = (
                "import socket, time; begun = time.monotonic(); "
                f"socket.create_connection(('{SERVER}', 7), 60).close(); print(time.monotonic() - begun)"
            )
            took = subprocess.run((*pair.client, sys.executable, "-c", code), capture_output=True, check=True)
        assert float(took.stdout) >= 0.1
        names = {pair.client[-1], pair.server[-1]}
    assert not names & namespaces()


@pytest.mark.skipif("network.why_not()")
def test_without_a_cable_there_is_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "wire.py"
    broken.write_text("")
    monkeypatch.setattr(network, "WIRE", broken)
    pair = Pair(0.0)
    with pytest.raises(Unavailable, match="the cable did not come up"), pair:
        pass
    assert pair.client[-1] not in namespaces()
