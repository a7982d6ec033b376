"""The decorator inside real servers: exact answers under concurrency, recycling, stopping and killing.

Over stdio a server process has a worker of its own, which goes where it goes. In shared memory all server processes
have one pool, which goes soon after the last of them.
"""

import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from pathlib import Path

import psutil
import pytest

from tests.integration.django.servers import (
    GTHREAD,
    GTHREAD_ONE,
    PRELOAD,
    RECYCLING,
    RUNSERVER,
    RUNSERVER_RELOADING,
    SYNC,
    UVICORN,
    Kind,
    Server,
    gone,
    serving,
    with_path,
)
from tests.support.processes import wait_for_file, wait_until

BUSY_BROWSERS = 6


@pytest.fixture(autouse=True)
def _each_transport(transport: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test is of servers that use it."""
    monkeypatch.setenv("MOLT_TRANSPORT", transport)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "server.log"


def each_kind(*kinds: Kind) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("kind", [pytest.param(kind, id=kind.name) for kind in kinds])


@pytest.mark.sample(2)
@each_kind(SYNC, GTHREAD, PRELOAD, RECYCLING, UVICORN, RUNSERVER)
def test_concurrent_requests_get_the_baselines_answers(kind: Kind, log: Path) -> None:
    numbers = range(12)
    with serving(kind, log) as server:
        expected = {number: server.get(f"/baseline/{number}/") for number in numbers}

        def browse(first: int) -> list[tuple[str, int, tuple[int, bytes]]]:
            return [
                (view, number, server.get(f"/{view}/{number}/"))
                for number in numbers[first::BUSY_BROWSERS]
                for view in kind.views
            ]

        with ThreadPoolExecutor(BUSY_BROWSERS) as browsers:
            for answers in browsers.map(browse, range(BUSY_BROWSERS)):
                for view, number, answer in answers:
                    assert answer == expected[number], view
        assert json.loads(expected[3][1]) == {"number": 3, "squares": [0, 1, 4], "text": "ééé"}
        assert {status for status, _ in expected.values()} == {200}


@pytest.mark.sample(1)
@each_kind(GTHREAD_ONE, UVICORN)
def test_one_connection_serves_many_requests(kind: Kind, log: Path) -> None:
    with serving(kind, log) as server, server.connection() as connection:
        answers = [connection.get(f"/{view}/5/") for view in ("baseline", *kind.views) * 5]
    assert len(set(answers)) == 1


@pytest.mark.sample(1)
@each_kind(SYNC, GTHREAD_ONE, UVICORN)
def test_every_server_process_has_one_worker(kind: Kind, log: Path) -> None:
    with serving(kind, log) as server, ThreadPoolExecutor(BUSY_BROWSERS) as browsers:
        pids = list(browsers.map(lambda _: tuple(server.pids().items()), range(12)))
        assert len(set(pids)) == 1


def both_of(server: Server) -> dict[int, int]:
    """The two processes of a server, and the worker of each."""
    found: dict[int, int] = {}

    def seen_both() -> bool:
        pids = server.pids()
        assert found.setdefault(pids["server"], pids["worker"]) == pids["worker"]
        return len(found) == 2

    wait_until(seen_both, 60)
    return found


@pytest.mark.sample(1)
def test_server_processes_forked_from_one_that_used_its_client_have_connections_of_their_own(
    log: Path, transport: str
) -> None:
    """Over stdio that is a worker for each, and in shared memory one for all."""
    with serving(PRELOAD, log) as server:
        found = both_of(server)
        # The worker that the master started over stdio lives on, and belongs to nobody else.
        masters = {child.pid for child in psutil.Process(server.process.pid).children()} - set(found)
        workers, children = (2, 1) if transport == "stdio" else (1, 0)
        assert (len(set(found.values())), len(masters)) == (workers, children)
        assert not masters & set(found.values())
        assert server.stop() == 0
        wait_until(lambda: all(gone(pid) for pid in (*found, *found.values(), *masters)))


@pytest.mark.sample(1)
@pytest.mark.parametrize("transport", ["shm"], indirect=True)
@each_kind(GTHREAD, PRELOAD)
def test_all_processes_of_a_server_and_of_another_have_one_pool(
    kind: Kind, log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOLT_WORKER_NAME", "shop")
    with serving(kind, log) as server, serving(SYNC, tmp_path / "other.log") as other:
        found = both_of(server)
        pool = other.pids()["worker"]
        assert set(found.values()) == {pool}
        assert server.stop() == 0
        assert other.pids()["worker"] == pool
        assert other.get("/offload/3/") == other.get("/baseline/3/")
        assert other.stop() == 0
        wait_until(lambda: all(gone(pid) for pid in (*found, pool)))


@pytest.mark.slow
@pytest.mark.parametrize("transport", ["shm"], indirect=True)
def test_recycled_server_processes_find_their_pool_again(log: Path) -> None:
    with serving(RECYCLING, log, MOLT_WORKER_LINGER_MS="4000") as server:
        seen: dict[int, int] = {}

        def seen_three() -> bool:
            pids = server.pids()
            seen[pids["server"]] = pids["worker"]
            return len(seen) >= 3

        wait_until(seen_three, 60)
        (pool,) = set(seen.values())
        server.stop()
    wait_until(lambda: gone(pool))


@pytest.mark.slow
@pytest.mark.parametrize("transport", ["stdio"], indirect=True)
def test_recycled_server_processes_leave_no_worker_behind(log: Path) -> None:
    with serving(RECYCLING, log) as server:
        seen: list[tuple[int, int]] = []

        def seen_three() -> bool:
            pids = server.pids()
            if (pids["server"], pids["worker"]) not in seen:
                seen.append((pids["server"], pids["worker"]))
            return len(seen) >= 3

        wait_until(seen_three, 60)
        assert len({server_pid for server_pid, _ in seen}) == len({worker for _, worker in seen}) == len(seen)
        wait_until(lambda: all(gone(pid) for pair in seen[:2] for pid in pair))


@pytest.mark.sample(2)
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGQUIT])
@each_kind(SYNC, GTHREAD, UVICORN, RUNSERVER)
def test_a_stopped_server_takes_its_worker_along(kind: Kind, log: Path, signum: signal.Signals) -> None:
    with serving(kind, log) as server:
        pids = server.pids()
        server.stop(signum)
        wait_until(lambda: all(gone(pid) for pid in pids.values()))


@pytest.mark.sample(1)
@each_kind(SYNC, GTHREAD_ONE, UVICORN)
def test_a_gracefully_stopped_server_finishes_what_it_began(kind: Kind, log: Path, tmp_path: Path) -> None:
    path = tmp_path / "go"
    with serving(kind, log) as server, server.connection() as connection:
        pids = server.pids()
        connection.send(with_path("offload/wait", path))
        wait_for_file(f"{path}.running")
        server.process.terminate()
        wait_until(lambda: kind.stopping in log.read_text())
        path.touch()
        assert connection.answer() == (200, b'"released"')
        server.process.wait(60)
        wait_until(lambda: all(gone(pid) for pid in pids.values()))


@pytest.mark.sample(1)
@each_kind(SYNC, GTHREAD, UVICORN, RUNSERVER, RUNSERVER_RELOADING)
def test_ctrl_c_stops_server_and_worker(kind: Kind, log: Path) -> None:
    """Ctrl-C goes to the whole process group of the terminal."""
    with serving(kind, log) as server:
        pids = server.pids()
        os.killpg(server.process.pid, signal.SIGINT)
        server.process.wait(60)
        wait_until(lambda: all(gone(pid) for pid in pids.values()))


@pytest.mark.sample(1)
@each_kind(SYNC, GTHREAD, PRELOAD)
def test_a_server_process_killed_under_load_is_replaced_and_leaves_no_worker_behind(
    kind: Kind, log: Path, transport: str
) -> None:
    with serving(kind, log) as server:
        expected = server.get("/baseline/7/")
        killed: dict[str, int] = server.pids()
        wrong: list[tuple[int, bytes]] = []

        def browse(_: int) -> None:
            for _ in range(25):
                try:
                    answer = server.get("/offload/7/")
                except (OSError, HTTPException):  # its server process was killed
                    continue
                if answer != expected:
                    wrong.append(answer)

        with ThreadPoolExecutor(BUSY_BROWSERS) as browsers:
            work = [browsers.submit(browse, index) for index in range(BUSY_BROWSERS)]
            os.kill(killed["server"], signal.SIGKILL)
            for each in work:
                each.result()
        assert wrong == []
        if transport == "shm" and server.pids()["worker"] == killed["worker"]:
            del killed["worker"]  # other server processes had kept it
        wait_until(lambda: all(gone(pid) for pid in killed.values()))
        assert server.get("/offload/7/") == expected
        assert not set(server.pids().values()) & set(killed.values())


def kill_worker(server: Server) -> int:
    worker = server.pids()["worker"]
    os.kill(worker, signal.SIGKILL)
    wait_until(lambda: gone(worker))
    return worker


@pytest.mark.sample(1)
@each_kind(SYNC, UVICORN)
def test_a_killed_worker_is_replaced_for_the_next_request(kind: Kind, log: Path) -> None:
    with serving(kind, log) as server:
        killed = kill_worker(server)
        for view in kind.views:
            assert wait_until(lambda view=view: server.get(f"/{view}/7/")[0] == 200)
        assert server.pids()["worker"] != killed
