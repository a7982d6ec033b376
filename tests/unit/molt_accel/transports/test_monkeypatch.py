"""What is refused where a library has replaced threads by greenlets."""

import sys
import threading
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from molt_accel.config import Config
from molt_accel.errors import MoltStartFailed, MoltWorkerUnavailable, NoSharedMemory
from molt_accel.transports import monkeypatch as subject
from molt_accel.transports.cluster import ClusterTransport

GEVENT = ("gevent", "gevent.monkey", "is_module_patched", "threading")
EVENTLET = ("eventlet", "eventlet.patcher", "is_monkey_patched", "thread")
Library = tuple[str, str, str, str]


@pytest.fixture
def patch(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Pretends that a library is imported, and has replaced these modules."""
    for _, module, _, _ in (GEVENT, EVENTLET):
        monkeypatch.delitem(sys.modules, module, raising=False)

    def pretend(library: Library, *replaced: str) -> None:
        fake = SimpleNamespace(**{library[2]: replaced.__contains__})
        monkeypatch.setitem(sys.modules, library[1], fake)

    return pretend


@pytest.mark.parametrize("library", [GEVENT, EVENTLET], ids=lambda library: library[0])
def test_greenlets_are_refused_shared_memory_and_pipes_only_if_they_came_late(
    library: Library, patch: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    patch(library, "socket")
    subject.check_for_shared_memory()
    subject.check_for_pipes()
    patch(library, "socket", library[3])
    with pytest.raises(NoSharedMemory, match=f"^{library[0]} has replaced .*MOLT_TRANSPORT=stdio"):
        subject.check_for_shared_memory()
    subject.check_for_pipes()  # the lock is the one that was imported: they were there before
    monkeypatch.setattr(threading, "Lock", object)
    with pytest.raises(MoltWorkerUnavailable, match=f"^{library[0]} has replaced .* patch first"):
        subject.check_for_pipes()


def test_real_threads_are_served(patch: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    subject.check_for_shared_memory()
    monkeypatch.setattr(threading, "Lock", object)
    subject.check_for_pipes()


@pytest.mark.parametrize("library", [GEVENT, EVENTLET], ids=lambda library: library[0])
def test_greenlets_are_refused_a_connection_to_nats(library: Library, patch: Callable[..., None]) -> None:
    patch(library, "socket")
    subject.check_for_nats()
    patch(library, library[3])
    with pytest.raises(MoltStartFailed, match=f"^{library[0]} has replaced"):
        subject.check_for_nats()
    transport = ClusterTransport(Config.load(transport="nats"))
    with pytest.raises(MoltStartFailed):
        transport.start()
