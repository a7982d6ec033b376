"""Bulkheads in real servers: light views find a thread, and places come back, however heavy calls come and end."""

import http.client
import json
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.integration.django.servers import (
    EIGHT_THREADS,
    EIGHT_THREADS_PRELOAD,
    ONE_THREAD,
    PATIENCE_S,
    PROJECT,
    SYNC,
    UVICORN,
    Kind,
    Server,
    serving,
    with_path,
)
from tests.support.processes import wait_for_file, wait_until

pytestmark = pytest.mark.sample(2)

HEAVY = 32
SHED = "molt_accel.django.ShedMiddleware"
LATE = "tests.integration.django.bulkheads.urls.late_middleware"


@pytest.fixture(autouse=True)
def _each_transport(transport: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test is of servers that use it."""
    monkeypatch.setenv("MOLT_TRANSPORT", transport)
    monkeypatch.setitem(PROJECT, "DJANGO_SETTINGS_MODULE", "tests.integration.django.bulkheads.settings")


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "server.log"


def each_kind(*kinds: Kind) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("kind", [pytest.param(kind, id=kind.name) for kind in kinds])


def shedding(kind: Kind) -> Kind:
    """The same server, with an application around Django's."""
    front = f"tests.integration.django.bulkheads.fronts:{'asgi' if kind is UVICORN else 'wsgi'}"
    return replace(kind, command=(*kind.command[:-1], front))


def learn(server: Server, *pools: str) -> None:
    """Have the server know its threads, and that calls take long."""
    for pool in pools or ("offload",):
        for _ in range(3):  # one for each executor are not taken as usual
            assert server.get(f"/{pool}/sleep/?seconds=0.3")[0] == 200


def flood(server: Server, browsers: ThreadPoolExecutor, *addresses: str) -> list[Future[tuple[int, bytes]]]:
    return [browsers.submit(server.get, addresses[number % len(addresses)]) for number in range(HEAVY)]


def reasons(answers: list[tuple[int, bytes]]) -> Counter[str]:
    """Why requests were refused; ``Ok`` for those that were not."""
    found: Counter[str] = Counter()
    for status, body in answers:
        refusal: dict[str, Any] = json.loads(body) if status != 200 else {"reason": "Ok", "retry_after_s": 1}
        assert status in (200, 429), body
        assert refusal["retry_after_s"] >= 1
        found[refusal["reason"]] += 1
    return found


@each_kind(EIGHT_THREADS, EIGHT_THREADS_PRELOAD)
@pytest.mark.parametrize("views", [["offload"], ["plain"], ["offload", "second"]], ids="-".join)
def test_beside_heavy_calls_light_views_find_a_thread_and_none_is_lost(
    kind: Kind, views: list[str], log: Path, tmp_path: Path
) -> None:
    """Six of eight threads may be in calls. The others answer refusals and light views while those wait.

    A seventh may if it is of another pool with an idle executor. With so small a target calls count as long, though all
    but the first are short here.
    """
    most = 7 if "second" in views else 6
    with (
        serving(kind, log, MOLT_WORKER_QUEUE_TARGET_MS="1") as server,
        ThreadPoolExecutor(HEAVY) as browsers,
    ):
        learn(server, *({"offload", "second"} & set(views)), "offload")
        for turn in range(3):
            path = tmp_path / f"go-{turn}"
            heavy = flood(server, browsers, *(with_path(f"{view}/wait", path) for view in views))
            wait_until(lambda heavy=heavy, most=most: sum(each.done() for each in heavy) >= HEAVY - most)
            for _ in range(8):
                assert server.get("/baseline/3/")[0] == 200
            assert sum(not each.done() for each in heavy) >= 1
            path.touch()
            found = reasons([each.result(PATIENCE_S) for each in heavy])
            assert 1 <= found["Ok"] <= most, found
            assert server.get("/offload/3/") == server.get("/baseline/3/")
        text = log.read_text()
        assert text.count("requests are refused") == 1
        assert text.count("Too Many Requests") <= 1


@each_kind(SYNC, ONE_THREAD)
def test_a_server_process_that_serves_one_request_at_a_time_refuses_none(kind: Kind, log: Path) -> None:
    with serving(kind, log) as server, ThreadPoolExecutor(8) as browsers:
        learn(server)
        answers = list(browsers.map(lambda _: server.get("/offload/sleep/?seconds=0.1"), range(8)))
        assert reasons(answers) == {"Ok": 8}


def test_an_event_loop_has_no_threads_to_run_out_of(log: Path, tmp_path: Path) -> None:
    path = tmp_path / "go"
    with (
        serving(UVICORN, log, MOLT_WORKER_QUEUE_TARGET_MS="60000") as server,
        ThreadPoolExecutor(HEAVY) as browsers,
    ):
        learn(server)
        heavy = flood(server, browsers, with_path("async/wait", path))
        wait_for_file(f"{path}.running")
        assert server.get("/baseline/3/")[0] == 200
        path.touch()
        assert reasons([each.result(PATIENCE_S) for each in heavy]) == {"Ok": HEAVY}


@each_kind(EIGHT_THREADS, UVICORN)
def test_a_process_has_as_many_calls_as_it_may(kind: Kind, log: Path, tmp_path: Path) -> None:
    path = tmp_path / "go"
    with serving(kind, log, MOLT_MAX_IN_FLIGHT="1") as server, server.connection() as holder:
        for _ in range(2):
            holder.send(with_path("offload/wait", path))
            wait_for_file(f"{path}.running")
            for view in ("offload", "async"):
                assert reasons([server.get(f"/{view}/3/")]) == {"in_flight": 1}
            assert server.get("/processes/")[0] == 200  # a ping is no call
            path.touch()
            assert holder.answer()[0] == 200
            assert reasons([server.get("/offload/3/")]) == {"Ok": 1}
            path.unlink()
            Path(f"{path}.running").unlink()


@pytest.mark.parametrize(
    ("kind", "view"),
    [(EIGHT_THREADS, "offload"), (UVICORN, "offload"), (UVICORN, "async")],
    ids=["threads", "uvicorn", "uvicorn-async"],
)
@pytest.mark.parametrize("front", ["decorator", "middleware", "application"])
def test_a_view_has_places_of_its_own_that_come_back_when_browsers_go(
    kind: Kind, view: str, front: str, log: Path, tmp_path: Path
) -> None:
    middleware = f"{SHED} {LATE}" if front == "middleware" else LATE
    if front == "application":
        kind = shedding(kind)
    path = tmp_path / "go"
    address = with_path(f"{view}/alone", path)
    with serving(kind, log, TEST_MIDDLEWARE=middleware) as server:
        with server.connection() as browser:
            browser.send(address)
            wait_for_file(f"{path}.running")
            assert refused(server, address) == ("in_flight", "yes" if front == "decorator" else None)
            assert reasons([server.get(f"/{view}/3/")]) == {"Ok": 1}
        path.touch()
        wait_until(lambda: server.get(address)[0] == 200)


def refused(server: Server, address: str) -> tuple[str, str | None]:
    """The reason of a refusal, and what the later middleware has said of it."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE_S)
    try:
        connection.request("GET", address)
        response = connection.getresponse()
        body = json.loads(response.read())
        assert response.status == 429
        assert int(response.headers["Retry-After"]) == body["retry_after_s"]
        return body["reason"], response.headers.get("X-Passed")
    finally:
        connection.close()


@pytest.mark.parametrize("view", ["offload", "async"])
def test_a_flood_of_an_event_loop_is_answered_as_a_whole(view: str, log: Path, tmp_path: Path) -> None:
    """More at once than the gate has room for: each is served or refused, and light views are served all along."""
    path = tmp_path / "go"
    with serving(shedding(UVICORN), log) as server, ThreadPoolExecutor(120) as browsers:
        heavy = [browsers.submit(server.get, with_path(f"{view}/wait", path)) for _ in range(120)]
        wait_for_file(f"{path}.running")
        for _ in range(8):
            assert server.get("/baseline/3/")[0] == 200
        path.touch()
        found = reasons([each.result(PATIENCE_S) for each in heavy])
        assert found.total() == 120
        assert found["Ok"] >= 2
        assert set(found) <= {"Ok", "queue_full", "queue_delay", "in_flight"}
        assert reasons([server.get(f"/{view}/3/")]) == {"Ok": 1}
