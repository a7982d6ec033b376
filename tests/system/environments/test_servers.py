"""gunicorn as it is deployed: the demo preloaded over shared memory, and workers of greenlets."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from tests.integration.django.servers import Kind, gunicorn, serving
from tests.system.environments.places import run

_GEVENT = ("--worker-class", "gevent", "--workers", "2")
_REFUSED = "gevent has replaced this process's threads"


def _answers(server_get: object, addresses: list[str]) -> list[tuple[int, bytes]]:
    with ThreadPoolExecutor(6) as browsers:
        return list(browsers.map(server_get, addresses))  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def _gevent() -> None:
    pytest.importorskip("gevent")


def _exchange(kind: Kind, log: Path) -> tuple[list[tuple[int, bytes]], list[tuple[int, bytes]]]:
    """What a server answers by itself, and by its worker."""
    with serving(kind, log) as server:
        baseline = [server.get(f"/baseline/{number}/") for number in range(12)]
        return baseline, _answers(server.get, [f"/offload/{number}/" for number in range(12)])


@pytest.mark.sample(1)
@pytest.mark.parametrize("preload", [False, True], ids=["", "preloaded, patched first"])
@pytest.mark.parametrize("transport", ["auto", "stdio"])
def test_gunicorn_s_gevent_workers_answer_over_stdio(
    preload: bool, transport: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOLT_TRANSPORT", transport)
    log, config = tmp_path / "server.log", tmp_path / "config.py"
    config.write_text("from gevent import monkey\nmonkey.patch_all()\n")
    kind = gunicorn("gevent", *_GEVENT)
    if preload:
        patched = ("--preload", "--config", str(config), *_GEVENT)
        kind = gunicorn("gevent-preload", *patched, app="tests.integration.django.preloaded:application")
    baseline, offloaded = _exchange(kind, log)
    assert offloaded == baseline
    warnings = log.read_text().count("no shared memory, so each server process starts a worker of its own: ")
    assert warnings <= 2  # one for each process that was asked
    assert (_REFUSED in log.read_text()) == (transport == "auto")


@pytest.mark.sample(1)
@pytest.mark.parametrize("transport", ["auto", "stdio", "shm"])
def test_threads_that_were_replaced_too_late_are_an_error_that_says_so(
    transport: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """gunicorn's gevent worker patches after the fork, when the preloaded application was imported long ago."""
    monkeypatch.setenv("MOLT_TRANSPORT", transport)
    log = tmp_path / "server.log"
    kind = gunicorn(
        "gevent-preload", "--preload", *_GEVENT, app="tests.integration.django.preloaded:application"
    )
    baseline, offloaded = _exchange(kind, log)
    assert {status for status, _ in baseline} == {200}
    assert {status for status, _ in offloaded} == {503}
    assert _REFUSED in log.read_text()
    assert ("patch first" in log.read_text()) == (transport != "shm")


def test_shared_memory_is_refused_under_gevent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOLT_TRANSPORT", "shm")
    log = tmp_path / "server.log"
    with serving(gunicorn("gevent", *_GEVENT), log) as server:
        assert {status for status, _ in _answers(server.get, [f"/offload/{n}/" for n in range(6)])} == {503}
    assert _REFUSED in log.read_text()


@pytest.mark.sample(1)
@pytest.mark.parametrize("transport", ["stdio", "auto"])
def test_under_gevent_others_run_while_one_waits_and_it_sees_its_worker_die(transport: str) -> None:
    found = run("patched", transport)
    assert found["transport"] == "stdio"
    assert (found["slept"], found["outcome"]) == ("slept", "MoltWorkerUnavailable")
    assert found["ticks"] > 5
    assert "Traceback" not in found["log"]  # also not of what runs in forked children


def test_the_demo_preloaded_by_gunicorn_has_one_pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOLT_TRANSPORT", "shm")
    monkeypatch.setenv("MOLT_EXPORTS", "demo/molt_worker_app/molt_exports.json")
    kind = gunicorn("demo", "--preload", "--workers", "2", app="demo.django_app.wsgi:application")
    query = "?user_id=3&limit=5"
    with serving(kind, tmp_path / "log", DJANGO_SETTINGS_MODULE="demo.django_app.settings") as server:
        baseline = server.get(f"/baseline-orjson/{query}")
        assert baseline[0] == 200
        assert _answers(server.get, [f"/offload/{query}"] * 24) == [baseline] * 24
        mark = [each for each in psutil.process_iter(["cmdline"]) if _is_supervisor(each)]
        assert len(mark) == 1
    assert "Traceback" not in (tmp_path / "log").read_text()


def _is_supervisor(process: psutil.Process) -> bool:
    """Of this test's pool: the first of its processes."""
    import os

    try:
        words = process.info["cmdline"] or []
        if "--shm" not in words or process.environ().get("MOLT_TEST_ID") != os.environ["MOLT_TEST_ID"]:
            return False
        parent = process.parent()
        return parent is None or "--shm" not in parent.cmdline()
    except psutil.Error:
        return False
