"""Workers that can't serve this client: of another version of the protocol, or unable to start."""

import sys

import pytest

from molt_accel import Client, MoltError, MoltIncompatible, MoltStartFailed, MoltWorkerUnavailable
from molt_accel.ipc import frame
from molt_accel.ipc.frame import VERSION
from tests.support.errors import raised
from tests.support.pools import MakeClient
from tests.support.scripted_workers import program

pytestmark = pytest.mark.usefixtures("transport")


NEWER = VERSION + 1
#: A real worker of a release whose frames are of the next version.
WORKER = f"""
import sys
from molt_accel.ipc import frame
frame.VERSION = {NEWER}
from molt_worker.cli.main import main
sys.exit(main())
"""
#: It says that it can't start, and why; its frames are of any version.
NOTICE = """
import os, sys
from molt_accel.errors import MoltIncompatible, to_wire
from molt_accel.ipc import frame
from molt_accel.ipc.messages import StartFailed
frame.VERSION = int(sys.argv[1])
os.write(1, frame.encode(StartFailed(to_wire(MoltIncompatible("of another release")))))
sys.exit(2)
"""


def failure(client: Client) -> MoltWorkerUnavailable:
    error = raised(MoltError, client.call, "echo", 1)
    assert isinstance(error, MoltWorkerUnavailable), error
    assert not error.may_have_run
    return error


def speaks(version: int, own: int) -> str:
    return f"the worker speaks another protocol: unknown version: {version}, this side speaks {own}; client and worker"


@pytest.mark.parametrize("what", ["worker", "client"])
def test_a_peer_of_another_protocol_version_is_incompatible(
    make_client: MakeClient, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rolling deployment makes both: newer clients of an older pool, and older ones of a newer pool.

    The pool goes on for clients of its own version.
    """
    command = [sys.executable, "-c", WORKER if what == "worker" else WORKER.replace(str(NEWER), str(VERSION))]
    theirs, ours = (NEWER, VERSION) if what == "worker" else (VERSION, NEWER)
    with monkeypatch.context() as patch:
        patch.setattr(frame, "VERSION", ours)
        error = failure(make_client(worker_cmd=command))
    assert type(error) is MoltIncompatible
    assert error.detail.startswith(speaks(theirs, ours))
    monkeypatch.setattr(frame, "VERSION", theirs)
    other = make_client(worker_cmd=command)
    assert other.call("echo", 1) == 1
    other.close()


@pytest.mark.parametrize("version", [VERSION, NEWER])
def test_a_worker_that_says_that_it_is_incompatible(make_client: MakeClient, version: int) -> None:
    error = failure(make_client(worker_cmd=program(NOTICE, version)))
    assert type(error) is MoltIncompatible
    said = "the worker can't start: of another release"
    assert error.detail.startswith(said if version == VERSION else speaks(NEWER, VERSION))


@pytest.mark.parametrize(
    ("command", "text"),
    [
        ("/nonexistent", "can't start the worker with "),
        ("false", "the worker can't start: it exited with code 1"),
        (program("import sys; sys.exit(0)"), ""),
    ],
)
def test_a_command_that_is_no_worker_is_a_failed_start(
    make_client: MakeClient, transport: str, command: str, text: str
) -> None:
    if not text:
        stdio = transport == "stdio"
        text = "the worker can't start: it exited with code 0" if stdio else "the pool "
    error = failure(make_client(worker_cmd=command))
    assert isinstance(error, MoltStartFailed)
    assert error.detail.startswith(text)


def test_a_worker_that_ends_while_it_imports_is_a_failed_start(
    make_client: MakeClient, transport: str
) -> None:
    script = "import os, sys; sys.argv[:] = ['x', *sys.argv[1:]]; os.close(1); os.kill(os.getpid(), 9)"
    error = failure(make_client(worker_cmd=[sys.executable, "-c", script]))
    assert isinstance(error, MoltStartFailed)
    assert "signal 9" in error.detail
