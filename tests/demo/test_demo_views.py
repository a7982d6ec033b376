"""The views: both ways answer the same bytes to the same request, refusals included; health; metrics."""

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from django.test import AsyncClient as AsyncWeb
from django.test import Client as Web
from django.test import override_settings
from hypothesis import example, given
from hypothesis import strategies as st

from demo.django_app import metrics, views
from demo.molt_worker_app import core, entrypoints, make_table
from demo.molt_worker_app.schema import ListParameters
from molt_accel import Client, codec
from molt_accel import client as client_module
from molt_worker import export
from tests.demo.demo_strategies import query_strings, tables
from tests.support import ROOT, TRANSPORTS
from tests.support.processes import wait_until

REQUEST_ID = "parity-0001"


@dataclass(frozen=True)
class Answer:
    """What a client sees of a response, apart from its date."""

    status: int
    body: bytes
    headers: tuple[tuple[str, str], ...]

    def json(self) -> Any:
        return json.loads(self.body)


def fetch(path: str, query_string: str = "", method: str = "GET", body: bytes = b"") -> Answer:
    # Not by the helper's query parameters: these would be encoded, and the point is what is not.
    extra: dict[str, Any] = {"QUERY_STRING": query_string, "HTTP_X_REQUEST_ID": REQUEST_ID}
    # Exceptions that reach Django are answered by it, as under a real server.
    response = Web(raise_request_exception=False).generic(method, path, body, "application/json", **extra)
    return Answer(response.status_code, response.content, tuple(sorted(response.items())))


def both(query_string: str) -> Answer:
    """The answer of both ways, which must not differ in status, body or headers."""
    here, there = fetch("/baseline-orjson/", query_string), fetch("/offload/", query_string)
    assert here == there
    return here


def both_tables(body: bytes) -> Answer:
    here, there = fetch("/data/baseline/", "", "POST", body), fetch("/data/offload/", "", "POST", body)
    assert here == there
    return here


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module", params=["inline", *TRANSPORTS])
def transport(request: pytest.FixtureRequest) -> Iterator[str]:
    """The client that the views share, with each transport: in this process, and with real workers."""
    client = Client(
        transport=request.param, executors=1, worker_name=f"demo-test-{os.getpid()}", log_level="error"
    )
    with client, pytest.MonkeyPatch.context() as patch:
        # Not as a part of the first example's time.
        client.start()
        patch.setattr(client_module, "_clients", {"default": client})
        if (
            request.param == "shm"
        ):  # nor is the bell, for which the first event loop asks, and which the client keeps
            fetch("/offload-async/")
            connection = client._transport._connection
            wait_until(lambda: list(connection.loops._bells))
        yield request.param


@pytest.fixture
def sink(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A metrics file of this test's own."""
    path = tmp_path / "metrics.jsonl"
    lines = metrics.JsonLines(str(path))
    monkeypatch.setattr(metrics, "SINK", lines)
    yield path
    lines.reset()


@pytest.mark.usefixtures("transport")
class TestParity:
    """The heart of the demo: nobody can tell the two ways apart."""

    @given(query_strings)
    @example("")
    @example("q=chiar&sort=-price&limit=100")
    @example("limit=0")
    @example("q=%ff%fe&status=%00")
    @example("&".join(f"p{number}=1" for number in range(2000)))
    def test_any_query_string(self, query_string: str) -> None:
        answer = both(query_string)
        if answer.status == 200:
            assert set(answer.json()) == {"items", "page", "counts", "totals"}
        else:
            assert answer.status == 400
            assert set(answer.json()) == {"error", "detail", "request_id"}
            assert (answer.json()["error"], answer.json()["request_id"]) == ("MoltInvalidInput", REQUEST_ID)
            assert re.match("the payload: |.*allowed: ", answer.json()["detail"])

    @given(query_strings)
    def test_the_async_view_too(self, query_string: str) -> None:
        assert fetch("/baseline-orjson/", query_string) == fetch("/offload-async/", query_string)

    def test_the_async_view_in_an_event_loop(self) -> None:
        async def ask(number: int) -> tuple[int, bytes]:
            response = await AsyncWeb().get("/offload-async/", {"user_id": str(number)})
            return response.status_code, response.content

        async def ask_all() -> list[tuple[int, bytes]]:
            return await asyncio.gather(*(ask(number) for number in range(1, 9)))

        for number, (status, body) in enumerate(asyncio.run(ask_all()), start=1):
            here = fetch("/baseline-orjson/", f"user_id={number}")
            assert (status, body) == (here.status, here.body) == (200, here.body)

    def test_the_answer_is_the_core_s(self) -> None:
        answer = both("q=oak+chair&limit=2")
        assert answer.body == codec.encode("json", core.list_items(ListParameters(q="oak chair", limit=2)))
        assert ("Content-Type", "application/json") in answer.headers

    def test_a_refusal_names_parameter_value_and_what_is_allowed(self) -> None:
        answer = both("limit=1000")
        assert answer.status == 400
        assert answer.json() == {
            "error": "MoltInvalidInput",
            "detail": "limit: '1000' is not allowed; allowed: a whole number, 1 to 100",
            "request_id": REQUEST_ID,
        }

    def test_a_walk_along_cursors_crosses_from_one_way_to_the_other(self) -> None:
        seen: list[int] = []
        cursor = ""
        paths = ["/baseline-orjson/", "/offload/"]
        while True:
            answer = fetch(paths[0], f"q=oak&limit=7{cursor}").json()
            seen += [item["id"] for item in answer["items"]]
            if answer["page"]["next_cursor"] is None:
                break
            cursor = "&cursor=" + answer["page"]["next_cursor"]
            paths.reverse()
        assert len(seen) == len(set(seen)) == answer["counts"]["found"] > 14

    @pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
    def test_other_methods(self, method: str) -> None:
        answer = fetch("/baseline/", method=method)
        assert answer == fetch("/offload/", method=method) == fetch("/offload-async/", method=method)
        assert answer.status == 405

    def test_tables_are_posted(self) -> None:
        assert fetch("/data/baseline/") == fetch("/data/offload/")
        assert fetch("/data/baseline/").status == 405

    def test_head(self) -> None:
        answer = fetch("/baseline/", method="HEAD")
        assert answer == fetch("/offload/", method="HEAD")
        assert (answer.status, answer.body) == (200, b"")

    @given(tables())
    def test_any_table(self, table: dict[str, Any]) -> None:
        answer = both_tables(json.dumps(table).encode())
        assert set(answer.json()) == (
            {"rows", "kept", "groups"} if answer.status == 200 else {"error", "detail", "request_id"}
        )

    @given(st.binary(max_size=60) | st.text(max_size=40).map(str.encode))
    @example(b"")
    @example(b"{}")
    @example(b"[" * 5000)
    @example(b'{"columns":["a"],"rows":[[1e999]]}')
    @example(b'{"columns":["a"],"rows":[["\\ud800"]]}')
    @example(b'{"columns":["a"],"rows":[[' + b"9" * 5000 + b"]]}")
    def test_any_body(self, body: bytes) -> None:
        answer = both_tables(body)
        assert answer.status == 400
        assert answer.json()["error"] == "MoltInvalidInput"

    def test_a_table_of_ten_thousand_rows(self) -> None:
        answer = both_tables(json.dumps(make_table.make_table(10_000)).encode())
        assert answer.status == 200
        summed = answer.json()
        assert (summed["rows"], summed["kept"], len(summed["groups"])) == (10_000, 8428, 18)

    def test_a_bad_cell_is_named(self) -> None:
        made: Any = make_table.make_table(100)
        made["rows"][42][3] = "many"
        answer = both_tables(json.dumps(made).encode())
        assert answer.json()["detail"] == "rows[42].units: 'many' is not allowed; allowed: a number or null"

    def test_a_body_over_the_limit(self) -> None:
        with override_settings(DATA_UPLOAD_MAX_MEMORY_SIZE=1000):
            assert both_tables(b" " * 1001).status == 400

    def test_each_request_writes_one_line(self, sink: Path) -> None:
        both("q=oak")
        both("limit=0")
        fetch("/offload-async/")
        both_tables(json.dumps(make_table.make_table(10)).encode())
        rows = rows_of(sink)
        assert [(row["endpoint"], row["entry"], row["status"]) for row in rows] == [
            ("baseline", "list_items", "Ok"), ("offload", "list_items", "Ok"),
            ("baseline", "list_items", "InvalidInput"), ("offload", "list_items", "InvalidInput"),
            ("offload-async", "list_items", "Ok"), ("data-baseline", "data_summary", "Ok"),
            ("data-offload", "data_summary", "Ok"),
        ]  # fmt: skip
        assert len({frozenset(row) for row in rows}) == 1
        for row in rows:
            assert row["exec_us"] >= row["handler_us"] >= 0
            assert row["exec_ms"] == row["exec_us"] / 1000
            assert row["client_us"] > 0
        for row in rows[:2]:
            assert row["handler_us"] > 500
        assert rows[0]["response_bytes"] == rows[1]["response_bytes"] > 1000

    def test_the_worker_is_healthy(self, transport: str) -> None:
        answer = fetch("/healthz")
        assert answer.status == 200
        body = answer.json()
        assert body["status"] == "ok"
        assert body["executor"]["ok"] is True
        if transport != "inline":
            assert body["worker"]["ready"] is True
            assert body["worker"]["executors"]["pids"] == [body["executor"]["pid"]]


def test_failing_cores_are_one_500(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def broken(*arguments: object) -> None:
        raise ZeroDivisionError("secret detail")

    exported = export(name="list_items", codec_out="json")(broken)
    monkeypatch.setattr(entrypoints, "list_items", exported)  # what the worker finds
    monkeypatch.setattr(views, "list_items", broken)  # the same function, imported by the baseline
    with Client(transport="inline") as client:
        monkeypatch.setattr(client_module, "_clients", {"default": client})
        answer = both("")
    assert answer.status == 500
    assert (answer.json()["error"], answer.json()["request_id"]) == ("MoltInternalError", REQUEST_ID)
    assert b"secret" not in answer.body
    # In the log of the demo's view, of the worker, and of Django: as the exception, and in the executor's traceback.
    assert caplog.text.count("ZeroDivisionError: secret detail") == 4


class TestWorkerDown:
    """No worker can be started."""

    @pytest.fixture(autouse=True)
    def no_worker(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        with Client(transport="stdio", worker_cmd="/nonexistent/molt-worker") as client:
            monkeypatch.setattr(client_module, "_clients", {"default": client})
            yield

    @pytest.mark.parametrize("path", ["/healthz", "/offload/", "/offload-async/"])
    def test_the_answer_is_503_with_the_error(self, path: str, caplog: pytest.LogCaptureFixture) -> None:
        answer = fetch(path)
        assert answer.status == 503
        assert answer.json()["error"] == "MoltStartFailed"
        assert answer.json()["request_id"] == REQUEST_ID
        # Why is for the log; the path of a command is nothing for the sender of a request.
        assert b"nonexistent" not in answer.body
        assert "can't start the worker with '/nonexistent/molt-worker'" in caplog.text

    def test_the_baseline_needs_none(self) -> None:
        assert fetch("/baseline/").status == 200

    def test_its_metrics_say_so(self, sink: Path) -> None:
        fetch("/offload/")
        (row,) = rows_of(sink)
        assert (row["endpoint"], row["status"]) == ("offload", "StartFailed")


def test_a_configuration_error_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "_clients", {})
    with override_settings(MOLT_TRANSPORT="pigeon"), pytest.raises(ValueError, match="MOLT_TRANSPORT"):
        Web().get("/healthz")


# -- what it is compared with ----------------------------------------------------------------------------
def test_django_s_json_says_the_same() -> None:
    plain, fast = fetch("/baseline/", "q=oak&limit=3"), fetch("/baseline-orjson/", "q=oak&limit=3")
    assert plain.json() == fast.json()
    assert plain.body != fast.body


def test_the_light_view_answers() -> None:
    assert fetch("/light/").json()["status"] == "ok"


def test_a_view_that_only_refuses_does_so() -> None:
    refused = fetch("/cost/refused/", "iterations=9")
    assert (refused.status, dict(refused.headers)["Retry-After"]) == (429, "1")


@pytest.mark.usefixtures("transport")
@pytest.mark.parametrize(("query", "iterations"), [("iterations=9", 9), ("", 0), ("iterations=-1", 0)])
def test_a_handler_of_any_cost_says_the_same_here_and_there(query: str, iterations: int) -> None:
    here, there = fetch("/cost/baseline/", query), fetch("/cost/offload/", query)
    others = [fetch(f"/cost/{way}-async/", query) for way in ("offload", "limited", "low")]
    assert [here] * 4 == [there, *others]
    assert here.json()["iterations"] == iterations


POOL_PROGRAM = """
import django
from django.test import Client
django.setup()
if __name__ == "__main__":
    from demo.django_app import process_pool
    client = Client()
    pages = [client.get(path, {"q": "oak"}).content for path in ("/process-pool/", "/baseline-orjson/")]
    ways = ("process-pool", "process-pool-async", "baseline")
    spent = {client.get(f"/cost/{way}/", {"iterations": 9}).content for way in ways}
    process_pool.stop()
    assert pages[0] == pages[1] != b""
    assert len(spent) == 1
"""


def test_a_process_pool_says_the_same(tmp_path: Path) -> None:
    """In a process of its own: what multiprocessing starts for itself stays as long as the process."""
    program = tmp_path / "program.py"
    program.write_text(POOL_PROGRAM)
    environment = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "demo.django_app.settings",
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(
        [sys.executable, str(program)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
