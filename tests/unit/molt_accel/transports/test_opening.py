"""molt_accel.transports.opening: the choice of a transport."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import molt_accel.ipc.shm
from molt_accel.config import Config
from molt_accel.errors import MoltWorkerUnavailable
from molt_accel.ipc.shm import arena as arenas
from molt_accel.transports.auto import AutoTransport
from molt_accel.transports.opening import open_transport
from molt_accel.transports.stdio import StdioTransport
from molt_worker.inline import InlineTransport
from tests.support.errors import raised

if sys.platform == "linux":
    from molt_accel.transports.shm.transport import ShmTransport


#: What each setting opens where shared memory can be used.
CLASSES = {
    "stdio": StdioTransport,
    "inline": InlineTransport,
    **({"shm": ShmTransport, "auto": AutoTransport} if sys.platform == "linux" else {"auto": StdioTransport}),
}


@pytest.mark.parametrize(("name", "cls"), CLASSES.items())
def test_each_name_opens_its_transport_and_starts_nothing(name: str, cls: type, tmp_path: Path) -> None:
    opened = open_transport(
        Config(transport=name, worker_cmd="/no/such/worker", runtime_dir=str(tmp_path / "pools"))
    )
    assert type(opened) is cls
    assert not opened.ready
    opened.close()
    assert not (tmp_path / "pools").exists()


@pytest.fixture(params=["another system", "free-threaded", "no native core"])
def no_shared_memory(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A machine that can't serve shared memory, for each reason there is; what it is told."""
    with monkeypatch.context() as patch:
        if request.param == "another system":
            patch.setattr(arenas.sys, "platform", "darwin")
            told = "shared memory is served on Linux only"
        elif request.param == "free-threaded":
            patch.setattr(arenas.sysconfig, "get_config_var", lambda name: 1)
            told = "the shared-memory transport has not been proved on free-threaded Python"
        else:
            patch.setitem(sys.modules, "molt_accel.ipc.shm._native", None)
            patch.delattr(molt_accel.ipc.shm, "_native", raising=False)
            told = "the native core is missing ("
        arenas.native.cache_clear()
        yield told
    arenas.native.cache_clear()


def test_auto_is_stdio_where_shm_can_t_be(no_shared_memory: str, caplog: pytest.LogCaptureFixture) -> None:
    assert type(open_transport(Config(transport="auto"))) is StdioTransport
    assert caplog.records == []  # it is as good as one can get there


def test_shared_memory_that_is_asked_for_by_name_has_no_substitute(no_shared_memory: str) -> None:
    error = raised(MoltWorkerUnavailable, open_transport, Config(transport="shm"))
    assert error.detail.startswith(no_shared_memory)
