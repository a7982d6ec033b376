"""Starting and stopping real gunicorn servers."""

import http.client
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench.core import BenchError
from bench.core.processes import MARK_VARIABLE
from bench.demo.load.servers import Server, ServerSpec
from tests.support.processes import marked

APP = """
import os, subprocess, sys

def application(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/spawn":
        program = "import sys; print('up', flush=True); " + environ["QUERY_STRING"].replace("%20", " ")
        process = subprocess.Popen(
            ["molt-worker", "-c", program + "import threading; threading.Event().wait()"],
            executable=sys.executable, stdout=subprocess.PIPE, text=True, start_new_session=True)
        process.stdout.readline()
        body = str(process.pid)
    elif path == "/value":
        body = os.environ.get("MOLT_SOMETHING", "") + os.environ.get("GUNICORN_CMD_ARGS", "")
    else:
        body = "fine"
    start_response("500 Oh" if path == "/broken" else "200 OK", [("Content-Length", str(len(body)))])
    return [body.encode()]
"""


#: Says of each of its process's connections whether small packets are sent at once.
ASGI_APP = """
import os, socket

def connections():
    for name in os.listdir("/proc/self/fd"):
        try:
            copy = os.dup(int(name))
        except OSError:  # the directory's own
            continue
        try:
            found = socket.socket(fileno=copy)
        except OSError:  # no socket
            os.close(copy)
            continue
        with found:
            try:
                found.getpeername()
            except OSError:  # it listens
                continue
            if found.family == socket.AF_INET:
                yield bool(found.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

async def application(scope, receive, send):
    assert scope["type"] == "http"
    body = repr(list(connections())).encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "application.py").write_text(APP, encoding="utf-8")
    return tmp_path


def spec(**changes: object) -> ServerSpec:
    fields: dict[str, object] = {
        "name": "tried", "app": "application:application", "processes": 2, "threads": 2,
        "ready_path": "/healthz", "env": {"MOLT_SOMETHING": "given"},
    }  # fmt: skip
    return ServerSpec(**(fields | changes))  # type: ignore[arg-type]


@contextmanager
def served(place: Path, **changes: object) -> Iterator[Server]:
    """A server that was started; stopped in the end, with nothing left."""
    server = Server(spec(**changes), place, root=place)
    try:
        server.start()
        yield server
    finally:
        server.stop()
    assert carrying(server.mark) == []


@pytest.fixture
def server(place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("GUNICORN_CMD_ARGS", "--workers 7")
    with served(place) as started:
        started.wait_ready()
        yield started


def get(server: Server, path: str) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    try:
        connection.request("GET", path)
        return connection.getresponse().read().decode()
    finally:
        connection.close()


def carrying(mark: str) -> list[int]:
    return [process.pid for process in marked(MARK_VARIABLE, mark)]


def test_a_server_runs_as_told_and_goes_wholly(server: Server) -> None:
    assert get(server, "/value") == "given"
    members = server.family.members()
    # The second gunicorn process may not be there yet: the first to be ready answers.
    assert len(members) in (2, 3)
    assert {member.part for member in members} == {"server"}
    report = server.stop()
    assert (report.terminated, report.killed, report.remaining) == ([], [], [])
    assert carrying(server.mark) == []
    assert server.stop() == type(report)()


def test_what_outlives_its_server_is_ended_and_told(server: Server) -> None:
    pid = int(get(server, "/spawn"))
    assert pid in carrying(server.mark)
    report = server.stop()
    assert [entry.split()[0] for entry in report.terminated] == [str(pid)]
    assert (report.killed, report.remaining) == ([], [])
    assert carrying(server.mark) == []


def test_what_ignores_its_end_is_killed(server: Server) -> None:
    pid = int(get(server, "/spawn?import%20signal;signal.signal(15,signal.SIG_IGN);"))
    server.grace_s = 0.2
    report = server.stop()
    assert [entry.split()[0] for entry in report.killed] == [str(pid)]
    assert report.remaining == []
    assert carrying(server.mark) == []


def test_a_server_that_ends_at_once_is_quoted(place: Path) -> None:
    with (
        served(place, app="nowhere:application") as failing,
        pytest.raises(BenchError, match=r"tried ended with code(?s:.*)No module named 'nowhere'"),
    ):
        failing.wait_ready()


def test_a_broken_application_is_not_waited_for(place: Path) -> None:
    with (
        served(place, ready_path="/broken") as broken,
        pytest.raises(BenchError, match=r"didn't answer /broken well \(status 500"),
    ):
        broken.wait_ready(600)


def test_a_server_that_is_never_started_can_be_stopped(place: Path) -> None:
    idle = Server(spec(), place, root=place)
    assert idle.stop().remaining == []
    with pytest.raises(BenchError, match="not started"):
        idle.wait_ready()


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
def test_uvicorn_sends_what_it_has_at_once(tmp_path: Path) -> None:
    (tmp_path / "in_a_loop.py").write_text(ASGI_APP, encoding="utf-8")
    with served(tmp_path, app="in_a_loop:application", asgi=True) as server:
        server.wait_ready()
        assert get(server, "/") == "[True]"
