"""A worker with native entrypoints: results, errors, deadlines, cancellation, reload; over each transport."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from molt_accel import (
    Client,
    MoltCancelled,
    MoltInternalError,
    MoltInvalidInput,
    MoltTimeout,
    MoltWorkerCrashed,
    MoltWorkerUnavailable,
)
from molt_accel.options import CallMetrics
from molt_worker.compile import record as compiled
from tests.support.builds import Built, run_build
from tests.support.errors import raised
from tests.support.processes import wait_for_file, wait_until

pytestmark = pytest.mark.sample(1)

PATIENCE_MS = 60_000
Connect = Callable[..., Client]


@pytest.fixture
def connect(built: Built, transport: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Connect]:
    """Makes clients of a worker that is started in the project's folder."""
    monkeypatch.chdir(built.folder)
    with contextlib.ExitStack() as stack:

        def make(**options: Any) -> Client:
            defaults = {
                "transport": transport, "exports": str(built.manifest), "executors": 1, "log_level": "error",
                "compiled": "require", "linger_ms": 0,
            }  # fmt: skip
            return stack.enter_context(Client(**{**defaults, **options}))

        yield make


def metrics_of(client: Client, entry: str, payload: Any) -> CallMetrics:
    seen: list[CallMetrics] = []
    with contextlib.suppress(MoltInvalidInput, MoltInternalError):
        client.call(entry, payload, timeout_ms=PATIENCE_MS, metrics_hook=seen.append)
    return seen[0]


def test_results_are_those_of_python(connect: Connect) -> None:
    native, python = connect(worker_name="native"), connect(worker_name="python", compiled="off")
    for client in (native, python):
        assert client.call("total", [1, 2, 3], timeout_ms=PATIENCE_MS) == 12
        assert client.call("faults", "A b", timeout_ms=PATIENCE_MS) == [2, 2, 2.5, "a b"]


@pytest.mark.parametrize("entry", ["total", "refuse", "fail"])
def test_metrics_and_ping_say_that_it_is_compiled_whatever_the_outcome(connect: Connect, entry: str) -> None:
    client = connect()
    assert metrics_of(client, entry, [1]).compiled is True
    report = client.ping()
    assert report["compiled"] == report["exports"]
    off = connect(worker_name="python", compiled="off")
    assert metrics_of(off, entry, [1]).compiled is False
    assert off.ping()["compiled"] == []


def test_errors_are_those_of_python(connect: Connect) -> None:
    for client in (connect(), connect(worker_name="python", compiled="off")):
        with pytest.raises(MoltInvalidInput, match="no x"):
            client.call("refuse", "x", timeout_ms=PATIENCE_MS)
        with pytest.raises(MoltInternalError, match="'fail' raised KeyError"):
            client.call("fail", "x", timeout_ms=PATIENCE_MS)
        with pytest.raises(MoltInternalError, match="'total' raised TypeError"):
            client.call("total", ["x"], timeout_ms=PATIENCE_MS)


def test_typed_parameters_and_results_are_those_of_python(connect: Connect) -> None:
    for client in (connect(), connect(worker_name="python", compiled="off")):
        assert client.call("double", {"cents": 21}, timeout_ms=PATIENCE_MS) == {"cents": 42}
        for wrong, text in (
            ({"cents": "1"}, "Expected `int`, got `str`"),
            ({"cents": -1}, "Expected `int` >= 0"),
        ):
            with pytest.raises(MoltInvalidInput, match=rf"{text} - at `\$\.cents`"):
                client.call("double", wrong, timeout_ms=PATIENCE_MS)


def test_a_deadline_ends_compiled_code_that_asks(connect: Connect, tmp_path: Path) -> None:
    client = connect()
    before = client.call("pid", timeout_ms=PATIENCE_MS)
    error = raised(MoltTimeout, client.call, "polite", str(tmp_path / "running"), timeout_ms=300)
    assert error.facts["phase"] == "running"
    assert client.call("pid", timeout_ms=PATIENCE_MS) == before


def test_a_deadline_ends_compiled_code_that_never_asks(connect: Connect, tmp_path: Path) -> None:
    client = connect()
    before = client.call("pid", timeout_ms=PATIENCE_MS)
    with pytest.raises((MoltTimeout, MoltWorkerCrashed)):
        client.call("stubborn", str(tmp_path / "running"), timeout_ms=300)
    assert client.call("pid", timeout_ms=PATIENCE_MS) != before


@pytest.mark.parametrize("entry", ["polite", "stubborn"])
def test_cancellation_stops_compiled_code(connect: Connect, tmp_path: Path, entry: str) -> None:
    client = connect()
    running = tmp_path / "running"

    async def cancelled() -> None:
        call = asyncio.create_task(client.acall(entry, str(running), timeout_ms=PATIENCE_MS))
        await asyncio.to_thread(wait_for_file, running)
        call.cancel()
        with pytest.raises((asyncio.CancelledError, MoltCancelled)):
            await call

    asyncio.run(cancelled())
    assert client.call("total", [1], timeout_ms=PATIENCE_MS) == 2  # the only executor is free, or a new one


def test_required_but_stale_it_does_not_start_and_says_why(connect: Connect, built: Built) -> None:
    (built.folder / "models.py").write_text("LIMIT = 1\n")
    with pytest.raises(MoltWorkerUnavailable, match=r"models has changed.*molt-worker build"):
        connect().call("total", [1], timeout_ms=PATIENCE_MS)


def test_preferred_but_stale_it_runs_the_source(connect: Connect, built: Built) -> None:
    source = built.folder / "rates.py"
    source.write_text(source.read_text().replace("= 2", "= 3"))
    client = connect(compiled="prefer")
    assert client.call("total", [1], timeout_ms=PATIENCE_MS) == 3
    assert metrics_of(client, "total", [1]).compiled is False


@pytest.mark.slow
def test_a_reload_takes_the_new_build(connect: Connect, built: Built) -> None:
    client = connect()
    assert client.call("total", [1], timeout_ms=PATIENCE_MS) == 2
    source = built.folder / "rates.py"
    source.write_text(source.read_text().replace("= 2", "= 5"))
    for module, name in (("broken", ""), ("late", ""), ("grown", "added"), ("price", "euros")):
        text = f"def {name}(payload: object) -> int:\n    return 0\n" if name else ""
        # So that one round of the compilers is enough.
        (built.folder / "shop" / f"{module}.py").write_text(text)
    done = run_build(str(built.manifest), cwd=built.folder)
    assert done.returncode == 0, done.stderr
    assert client.call("total", [1], timeout_ms=PATIENCE_MS) == 2  # of what it has loaded
    os.kill(client.ping()["pid"], signal.SIGHUP)
    wait_until(lambda: client.call("total", [1], timeout_ms=PATIENCE_MS) == 5, 60)
    assert metrics_of(client, "total", [1]).compiled is True
    assert compiled.read_record(compiled.record_path(str(built.manifest))).key != built.record.key
