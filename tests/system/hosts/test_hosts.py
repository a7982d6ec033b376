"""Three hosts with a NATS server, a pool and a bridge each: every call has one outcome, whatever happens to them.

Calls write their number to a file from the executor. So it is seen what has run, how often, and whether the caller was
told the truth.
"""

import signal
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from molt_accel import Client, MoltBusy, MoltTimeout, MoltWorkerUnavailable
from tests.support.hosts import Host, Network, network
from tests.support.nats_server import PATIENCE_S
from tests.support.processes import wait_until

#: For answers over a link that loses packets.
LONG_MS = 10_000
CALLERS = 6


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Network]:
    with tempfile.TemporaryDirectory(prefix="mh") as folder, network(Path(folder), 3) as made:
        for host in made.hosts:
            host.start_server()
        yield made


class Calls:
    """Callers that go on until they are told to stop, and what became of each call."""

    def __init__(self, client: Client, path: Path) -> None:
        self.outcomes: list[tuple[int, str]] = []
        self._client = client
        self._path = path
        self._stop = threading.Event()
        self._threads = ThreadPoolExecutor(CALLERS)
        self._callers = [self._threads.submit(self._call, first) for first in range(CALLERS)]

    def _call(self, number: int) -> None:
        while not self._stop.is_set():
            try:
                self._client.call(
                    "append", {"path": str(self._path), "text": str(number)}, timeout_ms=LONG_MS
                )
            except (MoltBusy, MoltTimeout, MoltWorkerUnavailable) as error:
                unknown = isinstance(error, MoltTimeout) or getattr(error, "may_have_run", False)
                self.outcomes.append((number, "unknown" if unknown else "not run"))
            else:
                self.outcomes.append((number, "ran"))
            number += CALLERS

    def go_on(self, count: int) -> None:
        """Wait until so many more calls have succeeded."""
        before = self.ran
        wait_until(lambda: self.ran >= before + count, 4 * PATIENCE_S)

    @property
    def ran(self) -> int:
        return sum(outcome == "ran" for _, outcome in list(self.outcomes))

    def end(self) -> Counter[str]:
        """Stop, check that all were told the truth, and return how many ended how."""
        self._stop.set()
        for each in self._callers:
            each.result(PATIENCE_S)
        self._threads.shutdown()
        written = Counter(int(line) for line in self._path.read_text().split())
        assert max(written.values()) == 1, "a call ran twice"
        told = dict(self.outcomes)
        assert len(told) == len(self.outcomes)
        assert not [number for number, how in told.items() if how == "ran" and number not in written], "lost"
        assert not [number for number, how in told.items() if how == "not run" and number in written], "a lie"
        assert set(written) <= set(told), "nobody was told"
        return Counter(told.values())


def kill(what: str) -> Callable[[Host], None]:
    return lambda host: host.kill(what)


def start_again(what: str) -> Callable[[Host], None]:
    return lambda host: getattr(host, f"start_{what}")()


FAULTS: dict[str, tuple[Callable[[Host], None], Callable[[Host], None]]] = {
    "cable": (Host.cut_off, Host.put_back),
    "loss": (lambda host: host.disturb(lost=0.1, delay_s=0.005), Host.disturb),
    "delay": (lambda host: host.disturb(delay_s=0.05), Host.disturb),
    "slow": (lambda host: host.disturb(bits_s=1e6), Host.disturb),
    **{f"kill {what}": (kill(what), start_again(what)) for what in ("server", "pool", "bridge")},
    "leave": (lambda host: host.kill("bridge", signal.SIGTERM), start_again("bridge")),
}


@pytest.fixture
def count(pytestconfig: pytest.Config) -> int:
    """How many calls have to succeed between two events: in the whole, more than 100,000 in all of them together."""
    return 2800 if pytestconfig.getoption("whole") else 40


@pytest.mark.sample(3)
@pytest.mark.parametrize("fault", FAULTS)
def test_every_call_has_one_outcome_whatever_befalls_a_host(
    hosts: Network, tmp_path: Path, fault: str, count: int
) -> None:
    befalls, ends = FAULTS[fault]
    for host in hosts.hosts:
        host.start_all()
    with Client(transport="nats", nats_url=hosts.urls) as client:
        client.start()
        calls = Calls(client, tmp_path / "runs")
        calls.go_on(count)
        for host in hosts.hosts[:2]:
            befalls(host)
            calls.go_on(count)
            ends(host)
            calls.go_on(count)
        found = calls.end()
    assert found["ran"] >= 5 * count
    print(f"{fault}: {dict(found)}")


def test_hosts_whose_clocks_are_years_apart_keep_deadlines(hosts: Network) -> None:
    first, second, _ = hosts.hosts
    first.start_all(clock_s=10**8)
    second.start_all()
    with Client(transport="nats", nats_url=hosts.urls) as client:
        seen = set()
        while len(seen) < 4:  # the executors of both
            seen.add(client.call("pid", None, timeout_ms=LONG_MS))
        for _ in range(8):
            with pytest.raises(MoltTimeout):
                client.call("sleep", 60, timeout_ms=200)
        assert [client.call("echo", number, timeout_ms=LONG_MS) for number in range(50)] == list(range(50))


def test_a_host_that_is_cut_off_with_a_request_may_have_run_it(hosts: Network, tmp_path: Path) -> None:
    first = hosts.hosts[0]
    first.start_all()
    path = tmp_path / "go"
    with Client(transport="nats", nats_url=hosts.hosts[1].url) as client, ThreadPoolExecutor(1) as threads:
        call = threads.submit(client.call, "wait_for_file", str(path), timeout_ms=4 * PATIENCE_S * 1000)
        wait_until(lambda: Path(f"{path}.running").exists(), PATIENCE_S)
        first.cut_off()
        with pytest.raises(MoltWorkerUnavailable) as caught:
            call.result(2 * PATIENCE_S)
        assert caught.value.may_have_run
        path.touch()
        first.put_back()
        wait_until(lambda: _answers(client), 2 * PATIENCE_S)


def _answers(client: Client) -> bool:
    try:
        return bool(client.call("echo", 1, timeout_ms=LONG_MS) == 1)
    except (MoltBusy, MoltTimeout, MoltWorkerUnavailable):
        return False
