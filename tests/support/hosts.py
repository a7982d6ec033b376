"""Several hosts on this machine: network namespaces on one bridge, each with its NATS server, pool and molt bridge.

Needs root and iproute2. Each host has its own CLOCK_MONOTONIC too, where the kernel has namespaces for it.
"""

import contextlib
import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.cluster import network as network_of_bench
from tests.support import EXPORTS
from tests.support.nats_server import PATIENCE_S, program
from tests.support.processes import wait_until

#: Of all tests of one machine that run at once: the networks must not meet.
_numbers = itertools.count()
NATS_PORT, CLUSTER_PORT = 4222, 6222


def why_not() -> str:
    """Why there can be none here; empty: there can."""
    if reason := network_of_bench.why_not():
        return reason
    probe = f"molt-probe-{os.getpid()}"
    if subprocess.run(["ip", "netns", "add", probe], capture_output=True).returncode:
        return "no network namespace can be made here"
    _run("ip", "netns", "delete", probe)
    return ""


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


class Host:
    """One namespace, and what runs in it.

    Args:
        network: Where it is plugged in.
        number: From 1; the last part of its address.
    """

    def __init__(self, network: "Network", number: int) -> None:
        self.network = network
        self.number = number
        self.name = f"{network.name}h{number}"
        self.address = f"{network.prefix}.{number}"
        self.folder = network.folder / self.name
        self.folder.mkdir(mode=0o700)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._outer, self._inner = f"{self.name}o", f"{self.name}i"
        _run("ip", "netns", "add", self.name)
        self._wire = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("wire.py")), self._outer, self._inner],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._wire.stdin is not None
        assert self._wire.stdout is not None
        assert self._wire.stdout.readline() == b"ready\n"
        _run("ip", "link", "set", self._inner, "netns", self.name)
        _run("ip", "link", "set", self._outer, "master", network.name, "up")
        self.inside("ip", "address", "add", f"{self.address}/24", "dev", self._inner)
        self.inside("ip", "link", "set", self._inner, "up")
        self.inside("ip", "link", "set", "lo", "up")

    @property
    def url(self) -> str:
        return f"nats://{self.address}:{NATS_PORT}"

    def inside(self, *command: str) -> None:
        _run("ip", "netns", "exec", self.name, *command)

    def start(self, what: str, says: str, *command: str, clock_s: int = 0, **environ: str) -> None:
        """Start a process here, and wait until it says so. `clock_s`: so far ahead is its CLOCK_MONOTONIC."""
        log = self.folder / f"{what}.log"
        ahead = (
            ("unshare", "--time", "--fork", "--kill-child", "--monotonic", str(clock_s)) if clock_s else ()
        )
        with log.open("wb") as file:
            self.processes[what] = process = subprocess.Popen(
                ["ip", "netns", "exec", self.name, *ahead, *command],
                env={**os.environ, "MOLT_RUNTIME_DIR": str(self.folder), **environ},
                stdin=subprocess.DEVNULL, stdout=file, stderr=file,
            )  # fmt: skip
        wait_until(lambda: says in log.read_text(errors="replace") or process.poll() is not None, PATIENCE_S)
        assert process.poll() is None, log.read_text(errors="replace")

    def start_server(self) -> None:
        routes = ",".join(
            f"nats://{self.network.prefix}.{number}:{CLUSTER_PORT}"
            for number in range(1, self.network.size + 1)
        )
        self.start(
            "server", "Server is ready", program(), "-a", self.address, "-p", str(NATS_PORT),
            "--cluster_name", "molt", "--cluster", f"nats://{self.address}:{CLUSTER_PORT}", "--routes", routes,
        )  # fmt: skip

    def start_pool(self, *flags: str, clock_s: int = 0) -> None:
        command = (
            sys.executable,
            "-m",
            "molt_worker",
            "--shm",
            "pool",
            "--exports",
            EXPORTS,
            "--executors",
            "2",
        )
        self.start("pool", "exports_loaded", *command, *flags, clock_s=clock_s)

    def start_bridge(self, clock_s: int = 0) -> None:
        command = (sys.executable, "-m", "molt_worker", "bridge", "--name", "pool", "--nats", self.url)
        self.start("bridge", "bridge_ready", *command, clock_s=clock_s)

    def start_all(self, clock_s: int = 0) -> None:
        self.start_pool(clock_s=clock_s)
        self.start_bridge(clock_s=clock_s)

    def kill(self, what: str, number: int = signal.SIGKILL) -> None:
        process = self.processes.pop(what)
        process.send_signal(number)
        process.wait(PATIENCE_S)

    def disturb(self, lost: float = 0.0, delay_s: float = 0.0, bits_s: float = 0.0) -> None:
        """Have its cable lose this share of packets, delay the others, and pass so many bits a second (0: any)."""
        assert self._wire.stdin is not None
        self._wire.stdin.write(f"{lost} {delay_s} {bits_s}\n".encode())
        self._wire.stdin.flush()

    def cut_off(self) -> None:
        """Pull its cable: nobody is told."""
        self.disturb(lost=1.0)

    def put_back(self) -> None:
        self.disturb()

    def end(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait()
        subprocess.run(["ip", "netns", "delete", self.name], capture_output=True)
        for pipe in (self._wire.stdin, self._wire.stdout):
            if pipe is not None:
                pipe.close()
        self._wire.wait(PATIENCE_S)  # and its devices are gone


class Network:
    """Hosts on one switch; this process is on it too, as number 254.

    Args:
        folder: For logs and sockets; its path must be short.
        size: How many hosts.
    """

    def __init__(self, folder: Path, size: int) -> None:
        self.folder = folder
        self.size = size
        number = (os.getpid() * 8 + next(_numbers)) % 60000
        self.name = f"mo{number}"
        self.prefix = f"10.{160 + number // 250 % 90}.{number % 250}"
        self.hosts: list[Host] = []
        _run("ip", "link", "add", self.name, "type", "bridge")
        _run("ip", "address", "add", f"{self.prefix}.254/24", "dev", self.name)
        _run("ip", "link", "set", self.name, "up")
        for each in range(1, size + 1):
            self.hosts.append(Host(self, each))

    @property
    def urls(self) -> str:
        return ",".join(host.url for host in self.hosts)

    def end(self) -> None:
        for host in self.hosts:
            host.end()
        subprocess.run(["ip", "link", "delete", self.name], capture_output=True)


@contextlib.contextmanager
def network(folder: Path, size: int) -> Iterator[Network]:
    """Hosts for one test; it is skipped where there can be none."""
    if reason := why_not():
        pytest.skip(reason)
    made = Network(folder, size)
    try:
        yield made
    finally:
        made.end()
