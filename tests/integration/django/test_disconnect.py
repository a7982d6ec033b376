"""A browser that hangs up in the middle of a request: its work stops, under every server."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.django.servers import (
    GTHREAD_ONE,
    SYNC,
    UVICORN,
    Connection,
    Kind,
    Server,
    serving,
    with_path,
)
from tests.support.processes import wait_for_file, wait_until

HANG_UP: dict[str, Callable[[Connection], None]] = {
    "close": Connection.close,
    "reset": Connection.reset,
    "shutdown": Connection.shut,
}
#: Kind of server and kind of view.
WAYS = [
    (SYNC, "offload"), (SYNC, "async"), (GTHREAD_ONE, "offload"), (GTHREAD_ONE, "async"),
    (UVICORN, "offload"), (UVICORN, "async"),
]  # fmt: skip


@pytest.fixture(params=WAYS, ids=[f"{kind.name}-{view}" for kind, view in WAYS])
def way(request: pytest.FixtureRequest) -> tuple[Kind, str]:
    kind: Kind
    kind, view = request.param
    return kind, view


@pytest.fixture
def server(way: tuple[Kind, str], transport: str, tmp_path: Path) -> Iterator[Server]:
    """A server whose worker has one executor, so that a request still running would block the next."""
    with serving(way[0], tmp_path / "server.log", TEST_EXECUTORS="1", MOLT_TRANSPORT=transport) as server:
        yield server


@pytest.mark.sample(2)
def test_work_of_a_browser_that_hangs_up_stops(server: Server, way: tuple[Kind, str], tmp_path: Path) -> None:
    _, view = way
    executor = server.get(f"/{view}/pid/")
    for name, hang_up in HANG_UP.items():
        path = tmp_path / name
        with server.connection() as connection:
            connection.send(with_path(f"{view}/clean-up", path))
            wait_for_file(path)
            hang_up(connection)
            wait_until(lambda path=path: not path.exists())
        # It was stopped softly: the same executor is free again.
        assert server.get(f"/{view}/pid/") == executor


@pytest.mark.parametrize("counts", ["1", "0"])
def test_a_half_closed_connection_counts_as_configured_and_a_reset_always(
    tmp_path: Path, counts: str
) -> None:
    environment = {"MOLT_CANCEL_ON_HALF_CLOSE": counts, "TEST_EXECUTORS": "1"}
    with serving(GTHREAD_ONE, tmp_path / "log", **environment) as server:
        server.get("/offload/pid/")
        half, reset = tmp_path / "half", tmp_path / "reset"
        with server.connection() as connection:
            connection.send(with_path("offload/wait", half))
            wait_for_file(f"{half}.running")
            connection.half_close()
            if counts == "0":
                half.touch()
            status, _ = connection.answer()
            assert status == (200 if counts == "0" else 499)
        with server.connection() as connection:
            connection.send(with_path("offload/clean-up", reset))
            wait_for_file(reset)
            if counts == "0":
                connection.half_close()
            connection.reset()
            wait_until(lambda: not reset.exists())


@pytest.mark.sample(1)
def test_browsers_that_stay_do_not_seem_gone(server: Server, way: tuple[Kind, str], tmp_path: Path) -> None:
    kind, view = way
    with server.connection() as connection:
        # Pipelined: behind the request that runs there is one that nobody has read yet.
        path = tmp_path / "pipelining"
        connection.send(with_path(f"{view}/wait", path))
        wait_for_file(f"{path}.running")
        connection.write(b"GET /baseline/1/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        path.touch()
        assert connection.answer() == (200, b'"released"')
    if kind is SYNC:
        return  # it closes each connection
    with server.connection() as connection:
        for name in ("first", "second"):
            path = tmp_path / name
            connection.send(with_path(f"{view}/wait", path))
            wait_for_file(f"{path}.running")
            path.touch()
            assert connection.answer() == (200, b'"released"')
