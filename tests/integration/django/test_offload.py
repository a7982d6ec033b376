"""`molt_offload`: what the decorated view is, what the entrypoint is given, and what the browser gets."""

import json
import subprocess
import sys
from typing import Any

import pytest
from django.http import HttpRequest
from django.test import RequestFactory

from molt_accel import CallInfo, CallMetrics, Client, codec
from molt_accel.client import default_client
from tests.support import EXPORTS
from tests.support.processes import wait_until
from tests.support.views import MakeView

JSON = "application/json"


def posted(body: bytes, content_type: str = "application/octet-stream") -> HttpRequest:
    return RequestFactory().post("/items/", data=body, content_type=content_type)


# -- what the entrypoint is given ---------------------------------------------------------------------------
def test_the_default_payload_is_the_request_as_a_dict(any_client: Client, offloaded: MakeView) -> None:
    view = offloaded(entry="to_json", client=any_client)
    request = RequestFactory().post("/items/7/?a=1&a=2&b=%C3%A9", data=b"\x00body", content_type="text/x")

    assert json.loads(view(request, 7, "x", slug="y").content) == {
        "method": "POST", "path": "/items/7/", "query": {"a": ["1", "2"], "b": ["é"]}, "args": [7, "x"],
        "kwargs": {"slug": "y"}, "body": "AGJvZHk=",
    }  # fmt: skip


# -- what the browser gets ----------------------------------------------------------------------------------
def test_a_json_result_is_the_workers_bytes_and_is_never_decoded(
    offloaded: MakeView, monkeypatch: pytest.MonkeyPatch, get: HttpRequest
) -> None:
    text = b' { "odd" : 1.50e0,\n"twice":1, "twice":2 }'
    with Client(transport="stdio", exports=EXPORTS, executors=1, log_level="error") as client:
        view = offloaded(entry="to_json", client=client, payload_builder=lambda _: text)

        def no_decode(*args: object) -> None:
            raise AssertionError("the result was decoded")

        monkeypatch.setattr(codec, "decode", no_decode)
        response = view(get)
    assert response.content == text
    assert (response.status_code, response["Content-Type"]) == (200, JSON)


def test_a_msgpack_result_becomes_json(any_client: Client, offloaded: MakeView, get: HttpRequest) -> None:
    value = {"b": [1, -2.5, None, True], "a": "é", "3": {}}
    response = offloaded(entry="echo", client=any_client, payload_builder=lambda _: value)(get)
    assert response.content == '{"b":[1,-2.5,null,true],"a":"é","3":{}}'.encode()
    assert (response.status_code, response["Content-Type"]) == (200, JSON)


def test_a_raw_result_goes_out_as_bytes(any_client: Client, offloaded: MakeView) -> None:
    response = offloaded(entry="echo_raw", codec="raw", client=any_client)(posted(b"\x00\xff\xfe"))
    assert response.content == b"\x00\xff\xfe"
    assert (response.status_code, response["Content-Type"]) == (200, "application/octet-stream")


# -- hooks and the client -----------------------------------------------------------------------------------
def test_hooks_see_a_call_before_and_after(any_client: Client, offloaded: MakeView, get: HttpRequest) -> None:
    seen: list[Any] = []
    view = offloaded(
        entry="echo",
        client=any_client,
        payload_builder=lambda _: "hello",
        before_send=seen.append,
        after_recv=seen.append,
        metrics_hook=seen.append,
    )
    view(get)

    before, metrics, after = seen
    assert before == CallInfo("echo", metrics.request_id, payload_bytes=6)
    assert isinstance(metrics, CallMetrics)
    assert (metrics.entry, metrics.status, metrics.payload_bytes, metrics.response_bytes) == (
        ("echo", "Ok", 6, 6)
    )
    assert after == CallInfo("echo", metrics.request_id, 6, error=None, metrics=metrics)


def test_hooks_see_a_failed_call_too(any_client: Client, offloaded: MakeView, get: HttpRequest) -> None:
    seen: list[Any] = []
    view = offloaded(
        entry="fail",
        client=any_client,
        payload_builder=lambda _: "value",
        after_recv=seen.append,
        metrics_hook=seen.append,
    )
    body = json.loads(view(get).content)

    metrics, after = seen
    assert metrics.status == "InternalError"
    assert after.error.detail == "'fail' raised ValueError"
    assert {metrics.request_id, after.error.request_id} == {body["request_id"]}


def executors() -> set[bytes]:
    return {str(pid).encode() for pid in default_client().ping()["executors"]["pids"]}


def test_views_without_a_client_share_one(get: HttpRequest, offloaded: MakeView) -> None:
    pids = [offloaded(entry="pid")(get).content for _ in range(3)]
    assert default_client() is default_client()
    assert default_client().ping()["outcomes"] == {"Ok": 3}
    # An executor may answer before the supervisor has been told its pid.
    wait_until(lambda: set(pids) <= executors())


# -- without Django -----------------------------------------------------------------------------------------
_WITHOUT_DJANGO = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "django":
            raise ModuleNotFoundError(f"{name} is blocked", name=name)

sys.meta_path.insert(0, Blocker())
import molt_accel
with molt_accel.Client(transport="inline") as client:
    assert client.call("echo", [1]) == [1]
assert not any(name.startswith("django") for name in sys.modules)
try:
    molt_accel.molt_offload
except ModuleNotFoundError as exc:
    print(exc.name)
"""


def test_the_library_works_without_django_until_the_decorator_is_used() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT_DJANGO], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout.partition(".")[0].strip(), done.stderr, done.returncode) == ("django", "", 0)
