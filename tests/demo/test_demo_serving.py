"""The demo under real servers: runserver, gunicorn with several processes, uvicorn."""

import contextlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest

import demo

pytestmark = pytest.mark.sample(1)

ROOT = Path(demo.__file__).resolve().parent.parent
START_S = 60.0


@pytest.fixture(autouse=True)
def _each_transport(transport: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every server is tried with each way to a worker."""
    monkeypatch.setenv("MOLT_TRANSPORT", transport)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def serving(*command: str, port: int, **environ: str) -> Iterator[httpx.Client]:
    """Run a server in a session of its own until the block ends; afterwards nothing of it may be alive."""
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "MOLT_WORKER_EXECUTORS": "1", **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    assert process.stdout is not None
    family: list[psutil.Process] = []
    try:
        wait_until_it_listens(process, port)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as web:
            yield web
        family = psutil.Process(process.pid).children(recursive=True)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.communicate(timeout=START_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            raise
    # Workers have sessions of their own; they must notice by themselves that their server is gone.
    _, alive = psutil.wait_procs(family, timeout=20)
    for left in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            left.kill()
    assert not alive


def wait_until_it_listens(process: subprocess.Popen[bytes], port: int) -> None:
    """Poll by connecting; between two tries wait for output, which a server gives that starts or fails."""
    assert process.stdout is not None
    os.set_blocking(process.stdout.fileno(), False)
    output = b""
    deadline = time.monotonic() + START_S
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                os.set_blocking(process.stdout.fileno(), True)
                return
            if selector.select(timeout=0.05):
                output += process.stdout.read() or b""
            if process.poll() is not None:
                break
    raise AssertionError(f"the server did not start: {output.decode(errors='replace')}")


def same(web: httpx.Client, one: str, other: str, query: str) -> httpx.Response:
    headers = {"X-Request-ID": "serving-1"}
    first, second = web.get(f"{one}?{query}", headers=headers), web.get(f"{other}?{query}", headers=headers)
    assert (first.status_code, first.content) == (second.status_code, second.content)
    return first


def test_runserver_answers_both_ways() -> None:
    port = free_port()
    command = ("demo/django_app/manage.py", "runserver", "--noreload", f"127.0.0.1:{port}")
    with serving(*command, port=port) as web:
        assert same(web, "/baseline-orjson/", "/offload/", "q=oak+chair").status_code == 200
        assert (
            same(web, "/baseline-orjson/", "/offload/", "q=caf%C3%A9&limit=3").json()["page"]["returned"] == 3
        )
        assert same(web, "/baseline-orjson/", "/offload/", "limit=-1").status_code == 400
        assert same(web, "/baseline-orjson/", "/offload-async/", "q=oak").status_code == 200
        assert web.get("/healthz").json()["status"] == "ok"
        assert web.get("/nowhere").status_code == 404


def test_runserver_with_its_reloader_answers_too() -> None:
    port = free_port()
    with serving("demo/django_app/manage.py", "runserver", f"127.0.0.1:{port}", port=port) as web:
        assert same(web, "/baseline-orjson/", "/offload/", "q=oak").status_code == 200


def test_several_server_processes_share_one_metrics_file(tmp_path: Path) -> None:
    port, path = free_port(), tmp_path / "metrics.jsonl"
    command = ("-m", "gunicorn", "demo.django_app.wsgi", "--workers", "2", "--threads", "4", "--bind")
    # Limits of its own, so that no call is refused because the machine is slow.
    settings = {
        "MOLT_DEMO_METRICS_PATH": str(path),
        "MOLT_MAX_IN_FLIGHT": "64",
        "MOLT_WORKER_QUEUE_TARGET_MS": "60000",
    }
    with serving(*command, f"127.0.0.1:{port}", port=port, **settings) as web:

        def ask(number: int) -> None:
            endpoint = ("baseline", "offload")[number % 2]
            # A connection of its own each time, so that both processes get some.
            answer = httpx.get(f"{web.base_url}/{endpoint}/", params={"user_id": 1 + number}, timeout=30)
            assert answer.status_code == 200, answer.text
            assert answer.json()["items"][0]["user_id"] == 1 + number

        with ThreadPoolExecutor(8) as threads:
            list(threads.map(ask, range(80)))
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 80
    assert {row["status"] for row in rows} == {"Ok"}
    assert [row["endpoint"] for row in rows].count("offload") == 40
    assert len({row["request_id"] for row in rows}) == 80


def test_uvicorn_serves_the_async_view() -> None:
    port = free_port()
    command = ("-m", "uvicorn", "demo.django_app.asgi:application", "--port", str(port))
    with serving(*command, port=port) as web:
        assert (
            same(web, "/baseline-orjson/", "/offload-async/", "q=oak&limit=5").json()["page"]["returned"] == 5
        )
        assert same(web, "/baseline-orjson/", "/offload/", "sort=size").status_code == 400
        assert same(web, "/baseline-orjson/", "/offload-async/", "q=%ff%fe").status_code == 400
        assert web.get("/healthz").status_code == 200


def test_the_fake_database_s_settings_reach_server_and_worker() -> None:
    port = free_port()
    command = ("demo/django_app/manage.py", "runserver", "--noreload", f"127.0.0.1:{port}")
    with serving(*command, port=port, MOLT_FAKE_DB_DELAY_MS="200") as web:
        for path in ("/baseline-orjson/", "/offload/"):
            assert web.get(path).elapsed.total_seconds() >= 0.2


@pytest.mark.parametrize("value", ["-5", "soon"])
def test_a_wrong_setting_stops_the_server_with_its_text(value: str) -> None:
    done = subprocess.run(
        [sys.executable, "demo/django_app/manage.py", "check"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "MOLT_FAKE_DB_CPU_ITERS": value},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode != 0
    assert (
        f"MOLT_FAKE_DB_CPU_ITERS: {value!r} is not allowed; allowed: a whole number from 0 to" in done.stderr
    )
