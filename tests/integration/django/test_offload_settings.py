"""`MOLT_*` settings of the Django project: they configure views' calls and win over the environment."""

import json
from pathlib import Path

import pytest
from django.http import HttpRequest
from django.test import Client as Browser
from django.test import override_settings

from molt_accel import ConfigError
from molt_accel.client import default_client
from tests.support.processes import in_thread, wait_for_file, wait_until
from tests.support.views import MakeView


def test_the_project_serves_baseline_and_offloaded_views_alike() -> None:
    browser = Browser()
    pages = {
        name: browser.get(f"/{name}/25/", {"x": "1"}).content for name in ("baseline", "offload", "async")
    }
    assert json.loads(pages["baseline"])["squares"][-1] == 576
    assert pages["offload"] == pages["async"] == pages["baseline"]


@override_settings(MOLT_TRANSPORT="inline")
def test_the_transport_is_a_setting(get: HttpRequest, offloaded: MakeView) -> None:
    assert offloaded(entry="echo", payload_builder=lambda _: 1)(get).content == b"1"
    assert default_client().ping()["transport"] == "inline"


@pytest.mark.parametrize(
    ("name", "field", "setting", "environment"),
    [
        ("MOLT_TRANSPORT", "transport", "inline", "stdio"),
        ("MOLT_EXPORTS", "exports", "tests.support.entrypoints", "no.such"),
        ("MOLT_WORKER_EXECUTORS", "executors", 3, "4"),
        ("MOLT_BUSY_HTTP_STATUS", "busy_http_status", 503, "429"),
        ("MOLT_LOG_JSON", "log_json", True, "0"),
    ],
)
def test_a_setting_wins_over_the_environment(
    monkeypatch: pytest.MonkeyPatch, name: str, field: str, setting: object, environment: str
) -> None:
    monkeypatch.setenv(name, environment)
    with override_settings(**{name: setting}):
        assert getattr(default_client().config, field) == setting


def test_the_worker_is_configured_by_the_settings_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOLT_EXPORTS", "no.such.module")
    monkeypatch.setenv("MOLT_WORKER_EXECUTORS", "7")
    monkeypatch.setenv("MOLT_WORKER_MAX_QUEUE", "not a number")
    with override_settings(MOLT_WORKER_EXECUTORS=1, MOLT_WORKER_MAX_QUEUE=5):
        report = default_client().ping(timeout_ms=20_000)
        assert (report["executors"]["size"], report["max_queue"]) == (1, 5)
        assert default_client().call("echo", 1) == 1


def test_an_empty_setting_is_the_packaged_exports_whatever_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MOLT_EXPORTS", "tests.support.entrypoints")
    with override_settings(MOLT_EXPORTS=""):
        default_client().start()
        assert default_client().ping()["exports"] == ["health", "echo"]


@override_settings(MOLT_BUSY_HTTP_STATUS=503, MOLT_WORKER_MAX_QUEUE=0, MOLT_WORKER_EXECUTORS=1)
def test_the_status_of_busy_is_a_setting(tmp_path: Path) -> None:
    path = tmp_path / "go"
    client = default_client()
    client.start()
    wait_until(lambda: client.ping()["executors"]["idle"])
    thread = in_thread(client.call, "wait_for_file", str(path))
    try:
        wait_for_file(f"{path}.running")
        response = Browser().get("/offload/3/")
    finally:
        path.touch()
        thread.join()
    assert (response.status_code, response["Retry-After"] in ("1", "2")) == (503, True)
    assert response.json()["error"] == "MoltBusy"


def test_a_wrong_setting_is_named_with_its_value_and_what_is_allowed() -> None:
    with override_settings(MOLT_TRANSPORT="carrier pigeon"), pytest.raises(ConfigError) as caught:
        default_client()
    assert str(caught.value) == (
        "MOLT_TRANSPORT (Django setting): 'carrier pigeon' is not allowed; "
        "it must be one of auto, shm, stdio, nats, inline"
    )


def test_a_default_client_made_before_the_settings_is_told_of(
    get: HttpRequest, offloaded: MakeView, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("molt_accel.config._django_settings", lambda: None)
    monkeypatch.setenv("MOLT_TRANSPORT", "inline")
    early = default_client()
    monkeypatch.undo()
    monkeypatch.setattr("molt_accel.client._clients", {"default": early})
    view = offloaded(entry="health", payload_builder=lambda _: 1)
    assert view(get).status_code == view(get).status_code == 200
    assert [record.message.split(" and ")[0] for record in caplog.records] == [
        "the default client was made before Django's settings were known"
    ]


def test_a_default_client_that_follows_the_settings_is_not_told_of(
    get: HttpRequest, offloaded: MakeView, caplog: pytest.LogCaptureFixture
) -> None:
    with override_settings(MOLT_TRANSPORT="inline"):
        assert offloaded(entry="echo", payload_builder=lambda _: 1)(get).content == b"1"
    assert not caplog.records
