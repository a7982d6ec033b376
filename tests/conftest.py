"""Fixtures for all tests: clients on each transport, and the check that nothing is left behind."""

import contextlib
import gc
import os
import signal
import sys
import tempfile
import time
import uuid
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import HealthCheck, settings

from molt_accel import Client
from molt_accel.cluster.loop import new_event_loop
from molt_accel.hangup import hangups
from tests.support import EXPORTS, ROOT, TRANSPORTS
from tests.support.processes import closing_all, marked

pytest_plugins = [
    *("tests.support.builds", "tests.support.driver", "tests.support.peer", "tests.support.pools"),
    *("tests.support.scripted_forkserver", "tests.support.stdio_testbed"),
    *(("tests.support.scripted_pool", "tests.support.shm_testbed") if sys.platform == "linux" else ()),
]

_common: dict[str, Any] = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("ci", max_examples=30, derandomize=True, **_common)
settings.register_profile("dev", max_examples=30, **_common)
settings.register_profile("fuzz", max_examples=20_000, **_common)
settings.load_profile(os.environ.get("MOLT_HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "dev"))

# A shell that starts a job in the background has it ignore the keyboard's signals; some tests send them.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGQUIT, signal.SIG_DFL)

#: Every process that a test starts inherits this variable, whoever its parent is by then.
_MARK = "MOLT_TEST_ID"


def _channels() -> set[str]:
    """The pipes and sockets this process has open."""
    own = {hangups._wake_r, hangups._wake_w}
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            target = os.readlink(f"/proc/self/fd/{fd}")
            if target.startswith(("pipe:", "socket:")) and int(fd) not in own:
                found.add(target)
    return found


def _shared_memory() -> set[str]:
    """The names of arenas. They are there for an instant only, while one is being made."""
    return {name for name in os.listdir("/dev/shm") if name.startswith("molt-")}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--whole", action="store_true", help="run every case, also those a sample stands for")


def pytest_configure(config: pytest.Config) -> None:
    if config.args_source is pytest.Config.ArgsSource.ARGS and not hasattr(config, "workerinput"):
        config.option.whole = True  # xdist hands the options on to its workers


def pytest_xdist_auto_num_workers() -> int:
    """Half as many again as processors: most tests wait for other processes, much of the time."""
    return (os.cpu_count() or 2) * 3 // 2


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what only the whole suite runs: tests marked `slow`, and all but `n` cases of one marked `sample(n)`.

    The cases are spread evenly, so that each transport has its share. Whoever names files or tests gets all of them.
    """
    if config.getoption("whole"):
        return
    cases: dict[tuple[Path, str], list[pytest.Item]] = {}
    left_out = [item for item in items if item.get_closest_marker("slow")]
    for item in items:
        if item.get_closest_marker("sample"):
            cases.setdefault((item.path, item.nodeid.partition("[")[0]), []).append(item)
    for (_, name), group in cases.items():
        wanted = min(group[0].get_closest_marker("sample").args[0], len(group))  # type: ignore[union-attr]
        step = len(group) // wanted
        first = zlib.crc32(name.encode())  # so that not every test begins with the same transport
        kept = {(first + index * len(group) // wanted + index % step) % len(group) for index in range(wanted)}
        left_out += [item for index, item in enumerate(group) if index not in kept]
    gone = set(left_out)
    config.hook.pytest_deselected(items=list(gone))
    items[:] = [item for item in items if item not in gone]


@pytest.fixture(scope="session", autouse=True)
def _cheap_collections() -> Iterator[None]:
    """The check that follows each test collects garbage; what was there before the tests is none."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="session", autouse=True)
def _pipe_of_libuv() -> None:
    """With its first loop, libuv opens a pipe for the whole process, which it keeps."""
    new_event_loop().close()


@pytest.fixture
def often(pytestconfig: pytest.Config) -> Callable[[int], int]:
    """How often a test does what may go wrong each time: as often as it says, or a quarter of that in the sample."""
    whole = pytestconfig.getoption("whole")
    return lambda times: times if whole else max(1, times // 4)


@pytest.fixture(autouse=True)
def nothing_left_behind(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[None]:
    """After each test: no process of its making, no open pipe or socket, no shared memory."""
    if sys.platform != "linux":
        yield
        return
    mark = uuid.uuid4().hex
    known = set(psutil.pids())
    monkeypatch.setenv(_MARK, mark)
    channels = _channels()
    yield
    until = time.monotonic() + 10
    while (left := marked(_MARK, mark, known)) and time.monotonic() < until:
        psutil.wait_procs(left, timeout=0.2)
    described = [f"{process.pid} {process.status()} {process.cmdline()}" for process in left]
    for process in left:
        with contextlib.suppress(psutil.Error):
            process.kill()
    assert not described, f"processes left behind: {described}"
    gc.collect()
    assert not _channels() - channels, "pipes or sockets left open"
    left_shared = _shared_memory()
    while left_shared and time.monotonic() < until:  # of other tests that run just now, or of a killed one
        time.sleep(0.01)
        left_shared &= _shared_memory()
    assert not left_shared, "shared memory left behind"


@pytest.fixture(autouse=True)
def _project_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers import the tests' entrypoints from the directory they are started in."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("MOLT_WORKER_CMD", f"{sys.executable} -m molt_worker")
    # A worker sets up the project that this names. Those of demo/ and of Django's tests name theirs themselves.
    monkeypatch.delenv("DJANGO_SETTINGS_MODULE", raising=False)


@pytest.fixture(autouse=True)
def _own_pools(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Pools of shared memory are this test's alone, and stop with their last client."""
    with tempfile.TemporaryDirectory(prefix="molt-test-") as directory:  # short enough for a socket's path
        monkeypatch.setenv("MOLT_RUNTIME_DIR", directory)
        monkeypatch.setenv("MOLT_WORKER_LINGER_MS", "0")
        # What other tests have put into this process's sys.path must not make it another than those it starts.
        monkeypatch.setenv("MOLT_IMPORT_PATH", str(ROOT))
        yield


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> str:
    """Each transport that runs a worker; every test that takes it runs once on each."""
    return str(request.param)


@pytest.fixture
def make_client(transport: str) -> Iterator[Callable[..., Client]]:
    """Makes clients with the tests' entrypoints and two executors, and closes them in the end."""
    defaults = {"transport": transport, "exports": EXPORTS, "executors": 2, "log_level": "error"}
    with closing_all(lambda **overrides: Client(**{**defaults, **overrides})) as make:
        yield make


@pytest.fixture
def client(make_client: Callable[..., Client]) -> Client:
    """A client whose worker is ready."""
    client = make_client()
    client.start()
    return client


@pytest.fixture(scope="module", params=TRANSPORTS)
def lasting_client(request: pytest.FixtureRequest) -> Iterator[Client]:
    """A client for all of a module's tests that harm no worker, on each transport; its worker is ready."""
    with tempfile.TemporaryDirectory(prefix="molt-test-") as directory:
        client = Client(
            transport=request.param,
            worker_cmd=f"{sys.executable} -m molt_worker",
            exports=EXPORTS,
            executors=2,
            runtime_dir=directory,
            linger_ms=0,
            log_level="error",
        )
        with client:
            client.start()
            yield client
