"""iceoryx2's Python binding: request-response in shared memory, polled or woken by its events.

Its request-response can't block: a side that waits polls `receive`. Its users poll without end, or add the event
services, a socket beside the shared memory, to sleep until the other side notifies them. Both are measured. Its memory
takes ctypes only, so an object travels as its msgpack bytes, which are read where they lie. Plain bytes are copied out
by the caller, because the memory is the service's; the server sends them back without a copy in between.
"""

from __future__ import annotations

import contextlib
import hashlib
import signal
import subprocess
import sys
from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from bench.core.environment import ROOT
from bench.micro.peers.base import Peer, Setup
from bench.micro.peers.iceoryx.wire import Services, filled, growing, milliseconds, open_services, view
from bench.micro.wire import PACKED, RAW, pack, unpack

WAIT_MS = 10_000
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  # where Linux has it


def prefix_of(scratch: Path) -> str:
    """What the names of its shared memory begin with: never those of another run or of the user's own services."""
    return f"microbench{hashlib.sha256(str(scratch).encode()).hexdigest()[:12]}_"


class _Iceoryx2(Peer):
    mode: ClassVar[str]

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self._server: subprocess.Popen[bytes] | None = None
        self._services: Services | None = None
        self._client: Any = None
        self._prefix = prefix_of(setup.scratch)

    def start(self) -> None:
        self._server = subprocess.Popen(
            [
                sys.executable, "-m", "bench.micro.peers.iceoryx.server",
                self.mode, str(self.setup.scratch), self._prefix,
            ],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )  # fmt: skip
        assert self._server.stdout is not None
        if self._server.stdout.readline() != b"ready\n":
            raise RuntimeError("the iceoryx2 server didn't start")
        self._services = open_services(self.setup.scratch, self._prefix)
        self._client = growing(self._services.calls.client_builder())
        self.connect(self._services)

    def connect(self, services: Services) -> None:
        """Opens what is needed besides the request-response client."""

    def stop(self) -> None:
        self.disconnect()
        self._client = self._services = None
        if self._server is not None:
            self._server.send_signal(signal.SIGCONT)
            self._server.terminate()
            self._server.wait()
            if self._server.stdout is not None:
                self._server.stdout.close()
            self._server = None
            # A server that is ended by a signal cleans nothing up, and one object always stays.
            for path in SHARED_MEMORY.glob(f"{self._prefix}*"):
                with contextlib.suppress(OSError):
                    path.unlink()

    def disconnect(self) -> None:
        """Closes what `connect` opened."""

    @abstractmethod
    def exchange(self, data: bytes, taken: Callable[[memoryview], object]) -> object:
        """Sends the bytes and returns what `taken` makes of the answer's, while their memory is held."""

    def call(self, payload: object) -> object:
        return self.exchange(pack(payload), unpack)

    def call_raw(self, data: bytes) -> object:
        return self.exchange(data, bytes)

    def carry_raw(self, raw: bool) -> None:
        self.call_raw(RAW if raw else PACKED)

    def rest(self) -> None:
        if self._server is not None:
            self._server.send_signal(signal.SIGSTOP)

    def wake(self) -> None:
        if self._server is not None:
            self._server.send_signal(signal.SIGCONT)


class Polled(_Iceoryx2):
    """Both sides ask again and again."""

    mode = "poll"

    def exchange(self, data: bytes, taken: Callable[[memoryview], object]) -> object:
        pending = filled(self._client.loan_slice_uninit(len(data)), data).send()
        while (response := pending.receive()) is None:
            pass
        answer = taken(view(response))
        response.delete()
        pending.delete()
        return answer


class Evented(_Iceoryx2):
    """Both sides wait for an event of the other."""

    mode = "event"

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self._notifier: Any = None
        self._listener: Any = None
        self._patience = milliseconds(WAIT_MS)

    def connect(self, services: Services) -> None:
        self._notifier = services.asked.notifier_builder().create()
        self._listener = services.answered.listener_builder().create()

    def disconnect(self) -> None:
        self._notifier = self._listener = None

    def exchange(self, data: bytes, taken: Callable[[memoryview], object]) -> object:
        pending = filled(self._client.loan_slice_uninit(len(data)), data).send()
        self._notifier.notify()
        while (response := pending.receive()) is None:
            self._listener.timed_wait(self._patience)
        answer = taken(view(response))
        response.delete()
        pending.delete()
        return answer
