"""Where shared memory can't be had, auto goes on without it, and shm says why."""

import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from molt_accel import Client, MoltClientClosed, MoltStartFailed, MoltWorkerUnavailable
from molt_accel.transports.auto import AutoTransport
from molt_accel.transports.shm.transport import ShmTransport
from molt_accel.transports.stdio import StdioTransport
from tests.support import EXPORTS, ROOT
from tests.support.errors import raised
from tests.support.pools import MakeClient, with_worker
from tests.support.processes import in_thread, wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="auto is stdio")

#: Workers on a machine whose /dev/shm is what the name says: what is replaced there, and what is told of it.
MACHINES = {
    "full": (
        "import errno\n"
        "def full(*args): raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))\n"
        "os.posix_fallocate = full\n",
        "MiB of this pool (No space left on device); make it larger (docker run --shm-size), lower "
        "MOLT_WORKER_MAX_QUEUE, or use MOLT_TRANSPORT=stdio",
    ),
    "absent": (
        "import posix_ipc\n"
        "def absent(*args, **kwargs): raise posix_ipc.PermissionsError('No permission')\n"
        "posix_ipc.SharedMemory = absent\n",
        "no shared memory can be made: No permission; is /dev/shm mounted and writable?",
    ),
    "not to be had by this build": (
        "import sys\nsys.modules['molt_accel.ipc.shm._native'] = None\n",
        "the native core is missing (",
    ),
}


@pytest.fixture(params=MACHINES)
def told(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A machine without room in shared memory. Returns what its workers say."""
    change, words = MACHINES[request.param]
    program = tmp_path / "worker.py"
    program.write_text(
        f"import os, sys\nsys.path.insert(0, {str(ROOT)!r})\n{change}"
        "from molt_worker.cli.main import main\nsys.exit(main())\n"
    )
    monkeypatch.setenv("MOLT_WORKER_CMD", f"{sys.executable} {program}")
    return words


@pytest.fixture
def make(caplog: pytest.LogCaptureFixture) -> Iterator[MakeClient]:
    """Makes clients, and closes them in the end."""
    clients: list[Client] = []

    def client(**config: object) -> Client:
        defaults = {"exports": EXPORTS, "executors": 1, "log_level": "error"}
        clients.append(Client(**{**defaults, **config}))
        return clients[-1]

    yield client
    for each in clients:
        each.close()


def transport_of(client: Client) -> type:
    transport = client._transport
    assert isinstance(transport, AutoTransport)
    return type(transport._transport)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_auto_is_shared_memory_where_it_exists(make: MakeClient, caplog: pytest.LogCaptureFixture) -> None:
    client = make(transport="auto")
    assert client.call("echo", 1) == 1
    assert transport_of(client) is ShmTransport
    assert client.ping()["transport"] == "shm"
    assert warnings(caplog) == []


def test_auto_is_stdio_with_a_warning(told: str, make: MakeClient, caplog: pytest.LogCaptureFixture) -> None:
    client = make(transport="auto", max_queue=100)
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(lambda number: client.call("echo", number), range(40))) == list(range(40))
    assert transport_of(client) is StdioTransport
    assert client.ping()["transport"] == "stdio"
    (warning,) = warnings(caplog)
    assert warning.startswith("no shared memory, so each server process starts a worker of its own: ")
    assert told in warning


def test_auto_stays_with_stdio_after_its_worker_has_died(
    told: str, make: MakeClient, caplog: pytest.LogCaptureFixture
) -> None:
    client = with_worker(make(transport="auto"))
    worker = psutil.Process(client.ping()["pid"])
    worker.kill()
    wait_until(lambda: not worker.is_running())
    assert wait_until(lambda: _answer(client)) == 1
    assert len(warnings(caplog)) == 1


def _answer(client: Client) -> int | None:
    try:
        return int(client.call("echo", 1))
    except (MoltClientClosed, MoltWorkerUnavailable):
        return None


def test_shared_memory_asked_for_by_name_is_an_error_that_says_why(told: str, make: MakeClient) -> None:
    client = make(transport="shm")
    with pytest.raises(MoltStartFailed) as caught:
        client.call("echo", 1)
    assert caught.value.detail.startswith("the worker can't start: ")
    assert told in caught.value.detail
    with pytest.raises(MoltStartFailed) as caught:
        client.start()
    assert told in caught.value.detail


def test_a_client_closed_before_it_has_fallen_back_starts_nothing(told: str, make: MakeClient) -> None:
    client = make(transport="auto")
    client.close()
    with pytest.raises(MoltClientClosed, match=r"^the client is closed$"):
        client.call("echo", 1)
    assert psutil.Process().children() == []


def test_a_client_closed_while_it_falls_back_leaves_no_worker(told: str, make: MakeClient) -> None:
    client = make(transport="auto")
    starter = in_thread(_answer, client)
    wait_until(lambda: psutil.Process().children() != [])
    client.close()
    starter.join(60)
    assert not starter.is_alive()
    wait_until(lambda: psutil.Process().children() == [])


def test_memory_that_is_too_little_for_the_executors_is_no_room_either(
    make: MakeClient, caplog: pytest.LogCaptureFixture
) -> None:
    error = raised(MoltStartFailed, make(transport="shm", arena_mb=1, executors=60).call, "echo", 1)
    assert error.detail == (
        "the worker can't start: 1 MiB are too little for 60 executors; raise MOLT_WORKER_ARENA_MB, or use "
        "MOLT_TRANSPORT=stdio"
    )


_IN_SMALL_SHM = """
import logging
logging.basicConfig(format="%(message)s")
from molt_accel import Client
with Client(transport="auto", exports="tests.support.entrypoints", executors=1, log_level="error") as client:
    print(client.call("echo", 1), client.ping()["transport"])
"""


@pytest.mark.skipif(
    shutil.which("unshare") is None
    or subprocess.run(
        ["unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", "/dev/shm"], capture_output=True, check=False
    ).returncode
    != 0,
    reason="this user may not mount; the same is tested with a worker that can't reserve memory",
)
@pytest.mark.parametrize(
    ("mount", "why"),
    [
        ("mount -t tmpfs -o size=1m tmpfs /dev/shm", "No space left on device"),
        ("mount -t tmpfs -o ro tmpfs /dev/shm", "is /dev/shm mounted and writable?"),
    ],
)
def test_a_real_dev_shm_that_is_too_small_or_not_writable(mount: str, why: str) -> None:
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", f'{mount} && exec "$@"', "sh", sys.executable, "-c", _IN_SMALL_SHM],
        env=os.environ,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "1 stdio\n"), done.stderr
    warnings = [line for line in done.stderr.splitlines() if line.startswith("no shared memory, so each")]
    assert len(warnings) == 1
    assert why in warnings[0]
