"""A pool's name in the file system: what somebody who tidies up takes away, and what a worker takes along."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from molt_accel import Client, MoltIncompatible
from tests.support import EXPORTS, ROOT
from tests.support.driver import MakeModule
from tests.support.peer import PATIENCE_S
from tests.support.pools import Share, with_worker
from tests.support.processes import wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="there are no named pools")
Serve = Callable[[], "subprocess.Popen[str]"]


@pytest.fixture
def directory() -> Path:
    return Path(os.environ["MOLT_RUNTIME_DIR"])


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts workers that serve the pool "named" for good, and waits until they do."""
    started: list[subprocess.Popen[str]] = []

    def start() -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "molt_worker", "--shm", "named", "--exports", EXPORTS, "--executors", "1"],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stderr is not None
        assert any("exports_loaded" in line for line in process.stderr)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def served_by(directory: Path) -> int:
    with Client(transport="shm", worker_name="named", exports=EXPORTS, autostart=False) as client:
        assert client.call("echo", 1, timeout_ms=20_000) == 1
        pid: int = client.ping()["pid"]
        return pid


def stop(process: subprocess.Popen[str]) -> str:
    process.send_signal(signal.SIGTERM)
    _, log = process.communicate(timeout=20)
    assert process.returncode == 0, log
    return log


def test_a_worker_whose_socket_was_removed_stops_as_any_other(serve: Serve, directory: Path) -> None:
    worker = serve()
    (directory / "named.sock").unlink()
    log = stop(worker)
    assert "worker_stopped code=0" in log
    assert "error" not in log


def test_a_worker_leaves_the_socket_of_another_that_took_its_name(serve: Serve, directory: Path) -> None:
    first = serve()
    for name in ("named.sock", "named.lock"):
        (directory / name).unlink()
    second = serve()
    stop(first)
    assert served_by(directory) == second.pid
    stop(second)
    assert not (directory / "named.sock").exists()


CORE = """
import os
from molt_worker import export

@export
def database(payload):
    return os.environ.get("DATABASE_URL")
"""


def test_a_process_with_another_environment_gets_a_pool_of_its_own(
    make_module: MakeModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_module("shop_core", CORE)
    for address in ("sqlite:///real", "sqlite:///empty"):
        monkeypatch.setenv("DATABASE_URL", address)
        with Client(transport="shm", exports="shop_core", executors=1, log_level="error") as client:
            assert client.call("database", timeout_ms=60_000) == address


def test_a_named_pool_refuses_a_process_that_differs_and_says_in_what(
    share: Share, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    client = with_worker(share())
    monkeypatch.setenv("DATABASE_URL", "sqlite:///other")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        MoltIncompatible, match="in working directory; environment variables: DATABASE_URL\\."
    ):
        share().call("echo", 1)
    monkeypatch.undo()
    assert client.call("echo", 1) == 1


def test_a_pool_that_was_started_by_hand_takes_a_django_project(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Django sets TZ where it is set up, the worker's supervisor never sets it up, and servers set what they like."""
    (tmp_path / "site_settings.py").write_text("TIME_ZONE = 'Asia/Tokyo'\nMOLT_EXPORTS = 'site_core'\n")
    (tmp_path / "site_core.py").write_text(CORE)
    monkeypatch.setenv("DJANGO_SETTINGS_MODULE", "site_settings")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{ROOT}")
    monkeypatch.setenv("DATABASE_URL", "sqlite:///real")
    worker = subprocess.Popen(
        [sys.executable, "-m", "molt_worker", "--shm", "named", "--exports", "site_core", "--executors", "1"],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: (directory / "named.sock").exists(), PATIENCE_S)
        monkeypatch.setenv("MOLT_WORKER_NAME", "named")
        monkeypatch.setenv("MOLT_WORKER_AUTOSTART", "0")
        monkeypatch.setenv("GUNICORN_PID", "1")
        code = (
            "import django, os; django.setup(); from molt_accel import default_client; "
            "print(os.environ['TZ'], default_client().call('database', timeout_ms=60_000))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.stdout == "Asia/Tokyo sqlite:///real\n", done.stderr
    finally:
        worker.terminate()
        worker.wait()


def test_exports_are_imported_from_where_clients_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "far_away.py").write_text(CORE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delenv("MOLT_IMPORT_PATH")
    with Client(transport="shm", exports="far_away", executors=1, log_level="error") as client:
        assert client.call("database", timeout_ms=60_000) is None


OWN_CALL = (
    CORE
    + """
@export
def again(payload):
    from molt_accel import Client, MoltStartFailed
    with Client(transport="shm") as client:
        try:
            client.call("database")
        except MoltStartFailed as exc:
            return str(exc)
"""
)


def test_an_executor_knows_its_own_pool_whatever_the_command_has_changed(make_module: MakeModule) -> None:
    make_module("shop_core", OWN_CALL)
    command = f"env FOO=1 nice -n 1 {sys.executable} -m molt_worker"
    with Client(transport="shm", exports="shop_core", worker_cmd=command, executors=1) as client:
        assert "that it runs in, where it may wait for itself" in client.call("again", timeout_ms=60_000)


def test_whoever_started_a_pool_may_use_it_whatever_its_command_changes(
    make_module: MakeModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_module("shop_core", CORE)
    command = f"env DATABASE_URL=sqlite:///replica nice -n 1 {sys.executable} -m molt_worker"

    def attach(autostart: bool) -> Client:
        settings = {"worker_cmd": command, "executors": 1, "autostart": autostart}
        return Client(transport="shm", worker_name="named", exports="shop_core", **settings)

    with attach(autostart=True) as starter, attach(autostart=False) as other:
        for client in (starter, other):
            assert client.call("database", timeout_ms=60_000) == "sqlite:///replica"
        monkeypatch.setenv("DATABASE_URL", "sqlite:///other")
        with attach(autostart=False) as third, pytest.raises(MoltIncompatible, match="DATABASE_URL"):
            third.call("database", timeout_ms=60_000)
