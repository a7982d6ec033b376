"""Real servers for the test project: how each is started, spoken to and stopped."""

import contextlib
import http.client
import json
import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import psutil

from tests.support import ROOT
from tests.support.processes import wait_until

#: How long an answer or an exit may take on a slow machine before it counts as a hang.
PATIENCE_S = 60


@dataclass(frozen=True)
class Kind:
    """A way to serve the project. `command` gets the port, and the listening socket's descriptor."""

    name: str
    command: tuple[str, ...]
    views: tuple[str, ...]  #: the kinds of offloaded views it serves, as their addresses begin
    own_socket: bool = False  #: it binds the port itself
    stopping: str = ""  #: what it logs when it begins to stop
    reloads: bool = False  #: it starts itself anew when its code was changed


def gunicorn(name: str, *options: str, app: str = "tests.integration.django.wsgi:application") -> Kind:
    """gunicorn with these options, sync and async views."""
    # gunicorn's gthread now and then hangs in its own handler of SIGQUIT, until it is killed after this time.
    always = ("--bind", "fd://{fd}", "--no-control-socket", "--graceful-timeout", "10")
    command = ("gunicorn", *always, *options, app)
    return Kind(name, command, ("offload", "async"), stopping="Handling signal: term")


SYNC = gunicorn("sync", "--workers", "1")
GTHREAD = gunicorn(
    "gthread", "--worker-class", "gthread", "--workers", "2", "--threads", "4", "--keep-alive", "60"
)
#: One process, so that a test knows which one answers.
GTHREAD_ONE = gunicorn(
    "gthread-one", "--worker-class", "gthread", "--workers", "1", "--threads", "4", "--keep-alive", "60"
)
EIGHT_THREADS = gunicorn("eight-threads", "--worker-class", "gthread", "--workers", "1", "--threads", "8")
EIGHT_THREADS_PRELOAD = gunicorn(
    *("eight-threads-preload", "--preload", "--worker-class", "gthread", "--workers", "1", "--threads", "8"),
    app="tests.integration.django.preloaded:application",
)
ONE_THREAD = gunicorn("one-thread", "--worker-class", "gthread", "--workers", "1", "--threads", "1")
PRELOAD = gunicorn(
    "preload", "--preload", "--workers", "2", app="tests.integration.django.preloaded:application"
)
RECYCLING = gunicorn("recycling", "--workers", "1", "--max-requests", "10")
UVICORN = Kind(
    "uvicorn",
    ("uvicorn", "--fd", "{fd}", "tests.integration.django.asgi:application"),
    ("offload", "async"),
    stopping="Shutting down",
)
RUNSERVER = Kind(
    "runserver",
    (
        "django", "runserver", "--noreload", "--settings", "tests.integration.django.settings",
        "127.0.0.1:{port}",
    ),
    ("offload",),
    own_socket=True,
)  # fmt: skip
RUNSERVER_RELOADING = Kind(
    "runserver-reloading",
    ("django", "runserver", "--settings", "tests.integration.django.settings", "127.0.0.1:{port}"),
    ("offload",),
    own_socket=True,
)


class Connection:
    """A keep-alive connection of an HTTP client."""

    def __init__(self, port: int) -> None:
        self._http = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)

    def get(self, path: str) -> tuple[int, bytes]:
        """Status and body."""
        self._http.request("GET", path)
        response = self._http.getresponse()
        return response.status, response.read()

    def send(self, path: str) -> None:
        """Send a request, and don't wait."""
        self._http.request("GET", path)

    def answer(self) -> tuple[int, bytes]:
        """The answer to what was sent."""
        response = self._http.getresponse()
        return response.status, response.read()

    def write(self, data: bytes) -> None:
        """Send bytes as they are."""
        assert self._http.sock is not None
        self._http.sock.sendall(data)

    def close(self) -> None:
        """Hang up, properly."""
        self._http.close()

    def shut(self) -> None:
        """Hang up, and read nothing any more, but keep the descriptor."""
        assert self._http.sock is not None
        self._http.sock.shutdown(socket.SHUT_RDWR)

    def half_close(self) -> None:
        """Send nothing any more, but go on reading."""
        assert self._http.sock is not None
        self._http.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Hang up by a reset."""
        assert self._http.sock is not None
        self._http.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()


class Server:
    """A running server."""

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self.process = process
        self.port = port

    @contextlib.contextmanager
    def connection(self) -> Iterator[Connection]:
        """A connection, closed in the end."""
        connection = Connection(self.port)
        try:
            yield connection
        finally:
            connection.close()

    def get(self, path: str) -> tuple[int, bytes]:
        """Status and body, over a connection of its own."""
        with self.connection() as connection:
            return connection.get(path)

    def pids(self) -> dict[str, int]:
        """The server process that answered, and its worker."""
        status, body = self.get("/processes/")
        assert status == 200
        return dict(json.loads(body))

    def stop(self, signum: int = signal.SIGTERM) -> int:
        """Stop it, as its operator does. Returns the exit code."""
        self.process.send_signal(signum)
        return self.process.wait(PATIENCE_S)


def with_path(view: str, path: Path) -> str:
    """The address of a view that takes a file's path."""
    return f"/{view}/?path={quote(str(path))}"


def gone(pid: int) -> bool:
    """Whether a process has ended; that nobody has asked for its exit code yet doesn't count."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _listening(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S):
        return True
    return False


@contextlib.contextmanager
def serving(kind: Kind, log: Path, cwd: Path = ROOT, **environment: str) -> Iterator[Server]:
    """A server in a process group of its own, stopped in the end. On failure its log is shown.

    One that reloads itself has a child that only the keyboard's signal reaches, as it does in a terminal.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener, log.open("wb") as log_file:
        # Accepted connections inherit it; asyncio sets it only where it knows the socket's family.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        port = listener.getsockname()[1]
        if kind.own_socket:
            listener.close()
        command = [word.format(fd=listener.fileno(), port=port) for word in kind.command]
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=cwd,
            env={**os.environ, "DJANGO_SETTINGS_MODULE": "tests.integration.django.settings", **environment},
            stdin=subprocess.DEVNULL,
            stdout=log_file,
            stderr=log_file,
            pass_fds=() if kind.own_socket else (listener.fileno(),),
            process_group=0,
        )
    try:
        # A socket that was handed over listens from the start: the first request waits for the server.
        wait_until(lambda: _listening(port) or process.poll() is not None, PATIENCE_S)
        yield Server(process, port)
    except BaseException:
        print(f"-- log of {kind.name}:\n{log.read_text(errors='replace')}")
        raise
    finally:
        if process.poll() is None:
            if kind.reloads:
                os.killpg(process.pid, signal.SIGINT)
            else:
                process.terminate()
            try:
                process.wait(PATIENCE_S)
            finally:
                process.kill()
                process.wait()
