"""Two network namespaces with one cable between them, which delays what it carries."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from types import TracebackType
from typing import Self

from bench.core.environment import ROOT
from bench.micro.peers.base import Unavailable

WIRE = ROOT / "tests" / "support" / "wire.py"
"""The cable, a program that delays as long as it is told on every kernel."""
CLIENT, SERVER = "10.213.77.1", "10.213.77.2"
"""Addresses in namespaces of their own: nobody else sees them."""


def why_not() -> str | None:
    """Why there can be no namespaces here."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "network namespaces need root on Linux"
    if shutil.which("ip") is None:
        return "iproute2 is not installed"
    if not os.path.exists("/dev/net/tun"):
        return "there is no /dev/net/tun"
    return None


class Pair:
    """The two namespaces, from entering the context to leaving it.

    Args:
        delay_s: What a packet takes, each way, besides what the cable itself needs.

    Raises Unavailable, when it is entered: there can be none here.
    """

    def __init__(self, delay_s: float) -> None:
        name = f"mb{os.getpid() % 1_000_000}"
        self._names = (f"{name}c", f"{name}s")
        self._delay_s = delay_s
        self._wire: subprocess.Popen[bytes] | None = None

    @property
    def client(self) -> tuple[str, ...]:
        """The command that runs another one where the client is."""
        return ("ip", "netns", "exec", self._names[0])

    @property
    def server(self) -> tuple[str, ...]:
        """The command that runs another one where the servers are."""
        return ("ip", "netns", "exec", self._names[1])

    def __enter__(self) -> Self:
        if reason := why_not():
            raise Unavailable(reason)
        try:
            self._make()
        except (OSError, subprocess.SubprocessError) as error:
            self.close()
            raise Unavailable(f"network namespaces can't be made here: {_said(error)}") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Takes them away."""
        if self._wire is not None:
            assert self._wire.stdin is not None
            assert self._wire.stdout is not None
            self._wire.stdin.close()
            self._wire.wait()
            self._wire.stdout.close()
            self._wire = None
        for name in self._names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)

    def _make(self) -> None:
        devices = self._names
        for name in self._names:
            _run("ip", "netns", "add", name)
        self._wire = subprocess.Popen(
            [sys.executable, str(WIRE), *devices],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert self._wire.stdin is not None
        assert self._wire.stdout is not None
        if self._wire.stdout.readline() != b"ready\n":
            raise OSError("the cable did not come up")
        for name, device, address in zip(self._names, devices, (CLIENT, SERVER), strict=True):
            _run("ip", "link", "set", device, "netns", name)
            for words in (
                ("address", "add", f"{address}/30", "dev", device),
                ("link", "set", device, "up"),
                ("link", "set", "lo", "up"),
            ):
                _run("ip", "netns", "exec", name, "ip", *words)
        self._wire.stdin.write(f"0 {self._delay_s} 0\n".encode())
        self._wire.stdin.flush()


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)


def _said(error: Exception) -> str:
    return str(getattr(error, "stderr", "") or error).strip()
