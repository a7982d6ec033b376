"""A worker's life: signals, the order of its steps, and what it closes."""

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from molt_accel.config import Config
from molt_accel.errors import MoltError, MoltStartFailed
from molt_worker.processes.commands import EXIT_BAD_EXPORTS
from molt_worker.runtime.log import LogSink
from molt_worker.supervisor.base import Worker
from tests.support import EXPORTS

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Scripted:
    """A supervisor that does in each turn what the script says, and is finished when it ends; and its pool."""

    def __init__(self, log: LogSink, *script: Callable[["Scripted"], object], exports: str = EXPORTS) -> None:
        self.worker = Worker(Config.load(environ={}, exports=exports), log)
        self.told: list[Any] = []
        self.pool: Any = SimpleNamespace(
            start_forkserver=lambda: self.told.append("forkserver"),
            close=lambda: self.told.append("close"),
            on_timers=lambda now_ns: self.told.append("pool timers"),
        )
        self._script = list(script)

    def run(self) -> int:
        return self.worker.run(self)

    def settle(self) -> None:
        self.told.append("settle")

    def finished(self) -> bool:
        if not self._script:
            return True
        self.worker.loop.at(1)  # a turn never waits
        self._script.pop(0)(self)
        return False

    def on_timers(self, now_ns: int) -> None:
        assert 0 <= time.monotonic_ns() - now_ns < 60e9
        self.told.append("timers")

    def drain(self) -> None:
        self.told.append("drain")

    def stop(self, why: MoltError) -> None:
        self.worker.stopping = True
        self.told.append(why.detail)

    def close(self) -> None:
        self.told.append("supervisor closes")

    def state(self) -> tuple[bool, bool]:
        return self.worker.draining, self.worker.stopping

    def news(self) -> list[Any]:
        """What happened but for the turns themselves."""
        return [each for each in self.told if each not in ("settle", "timers", "pool timers")]


@pytest.fixture(autouse=True)
def _own_handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def sink(tmp_path: Path) -> Iterator[LogSink]:
    with (tmp_path / "log").open("wb") as file:
        sink = LogSink(as_json=False, level="debug", fd=file.fileno())
        yield sink
        sink.close()


def sends(*numbers: signal.Signals) -> Callable[[Scripted], object]:
    return lambda service: [signal.raise_signal(number) for number in numbers]


def nothing(service: Scripted) -> None:
    pass


STOPPED = ["the worker was told to stop"]


def test_its_steps_come_in_order_and_everything_is_closed(sink: LogSink, tmp_path: Path) -> None:
    service = Scripted(sink, nothing)
    assert service.run() == 0
    assert service.told == [
        *("forkserver", "settle", "timers", "pool timers", "settle"),
        *("close", "supervisor closes"),
    ]
    assert "worker_stopped code=0" in (tmp_path / "log").read_text()
    assert signal.set_wakeup_fd(-1) == -1


@pytest.mark.parametrize(
    ("script", "expected", "state"),
    [
        ([sends(signal.SIGTERM)], ["drain"], (True, False)),
        ([sends(signal.SIGTERM, signal.SIGTERM)], ["drain", *STOPPED], (True, True)),
        ([sends(signal.SIGTERM), nothing, sends(signal.SIGTERM)], ["drain", *STOPPED], (True, True)),
        ([sends(signal.SIGINT)], STOPPED, (False, True)),
        ([sends(signal.SIGTERM), sends(signal.SIGINT)], ["drain", *STOPPED], (True, True)),
        ([sends(signal.SIGHUP)], ["forkserver"], (False, False)),
        ([sends(signal.SIGHUP), sends(signal.SIGHUP)], ["forkserver", "forkserver"], (False, False)),
    ],
)
def test_what_signals_do(
    script: list[Callable[[Scripted], object]], expected: list[str], state: tuple[bool, bool], sink: LogSink
) -> None:
    service = Scripted(sink, *script)
    service.run()
    assert service.news() == ["forkserver", *expected, "close", "supervisor closes"]
    assert service.state() == state


def test_a_signal_that_comes_before_the_loop_waits_wakes_it(sink: LogSink) -> None:
    service = Scripted(sink, nothing)

    def send_and_sleep(_: Scripted) -> None:
        signal.raise_signal(signal.SIGINT)
        service.worker.loop._timer_ns = time.monotonic_ns() + 3_600_000_000_000

    service._script = [send_and_sleep]
    service.run()
    assert service.state() == (False, True)


def test_a_reload_with_a_broken_manifest_starts_nothing(sink: LogSink, tmp_path: Path) -> None:
    manifest = tmp_path / "exports.json"
    manifest.write_text("{")
    service = Scripted(sink, sends(signal.SIGHUP), exports=str(manifest))
    service.run()
    assert service.news() == ["forkserver", "close", "supervisor closes"]
    assert "error reload_failed" in (tmp_path / "log").read_text()


def test_a_failed_start_has_an_exit_code_of_its_own(sink: LogSink, tmp_path: Path) -> None:
    service = Scripted(
        sink, lambda service: service.stop(service.worker.start_failed(MoltStartFailed("no module")))
    )
    assert service.run() == EXIT_BAD_EXPORTS
    assert "the worker can't start: no module" in service.told
    assert 'start_failed error="no module"' in (tmp_path / "log").read_text()


@pytest.mark.parametrize("where", ["settle", "finished"])
def test_whatever_ends_it_all_is_closed(where: str, sink: LogSink, monkeypatch: pytest.MonkeyPatch) -> None:
    service = Scripted(sink, nothing)

    def fail() -> None:
        raise OSError(where)

    monkeypatch.setattr(service, where, fail)
    with pytest.raises(OSError, match=f"^{where}$"):
        service.run()
    assert service.told[-2:] == ["close", "supervisor closes"]
    assert signal.set_wakeup_fd(-1) == -1
