"""molt_worker.entrypoints.project: the Django project that a worker is a part of."""

import importlib
import logging
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from django.conf import settings
from django.db import transaction
from django.db.utils import ConnectionHandler

from molt_accel import codec
from molt_worker.entrypoints import project
from molt_worker.entrypoints.exports import ExportsError
from tests.support.views import _project  # noqa: F401

pytestmark = pytest.mark.usefixtures("_project")

CACHES = "django.core.cache.backends"
Said = list[tuple[str, str, dict[str, object]]]


def requests_of(said: Said) -> project.Requests:
    return project.Requests(lambda *what: said.append(what))


@pytest.fixture
def said() -> Said:
    return []


@pytest.fixture
def connection(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The only database of the project. It notes what is done with it, and with the project's cache."""
    done: list[str] = []
    fake = SimpleNamespace(
        alias="default",
        connection=object(),
        in_atomic_block=False,
        closed_in_transaction=False,
        autocommit=True,
        settings_dict={"AUTOCOMMIT": True},
        close=lambda: done.append("close"),
        rollback=lambda: done.append("rollback"),
        set_autocommit=lambda wanted: done.append(f"autocommit {wanted}"),
        close_if_unusable_or_obsolete=lambda: done.append("close_old"),
        queries_log=SimpleNamespace(clear=lambda: done.append("clear_log")),
        done=done,
    )
    monkeypatch.setattr("django.db.connections", SimpleNamespace(all=lambda **_: [fake]))
    cache = SimpleNamespace(close=lambda: done.append("close_cache"))
    monkeypatch.setattr("django.core.cache.caches", SimpleNamespace(all=lambda **_: [cache]))
    monkeypatch.setitem(settings.CACHES, "default", {"BACKEND": f"{CACHES}.memcached.PyMemcacheCache"})
    return fake


def sqlite(name: Path | str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The project's only database, a real one."""
    connections = ConnectionHandler({"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": name}})
    connection = connections["default"]
    monkeypatch.setattr("django.apps.apps.ready", True)
    monkeypatch.setattr("django.db.connections", connections)
    monkeypatch.setattr("django.db.transaction.get_connection", lambda using: connection)
    return connection


@pytest.fixture
def _apps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for app, text in {"own_shop": "raise RuntimeError('imported')", "own_empty": None}.items():
        (tmp_path / app).mkdir()
        (tmp_path / app / "__init__.py").touch()
        if text is not None:
            (tmp_path / app / "entrypoints.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()


@pytest.fixture
def install(_project: None) -> Iterator[Callable[..., None]]:  # noqa: F811
    """Sets INSTALLED_APPS, and has Django import nothing of them."""
    with pytest.MonkeyPatch.context() as patch:
        yield lambda *apps: patch.setattr(settings, "INSTALLED_APPS", apps)


@pytest.mark.usefixtures("_apps")
def test_the_exports_are_the_entrypoints_of_the_installed_apps(install: Callable[..., None]) -> None:
    install("own_shop", "own_empty")
    assert project.exports_of("") == ""  # the app is not installed
    install(project.APP, "own_empty")
    with pytest.raises(ExportsError, match="no installed app has a module named 'entrypoints'; make one"):
        project.exports_of("")
    install(project.APP, "own_empty", "own_shop")
    assert project.exports_of("") == "own_shop.entrypoints"
    assert project.exports_of("own.module") == "own.module"


def test_apps_that_can_not_be_imported_are_said(install: Callable[..., None]) -> None:
    install(project.APP, "missing_app")
    with pytest.raises(ExportsError, match=r"^INSTALLED_APPS: .*Error: No module named 'missing_app'"):
        project.exports_of("")


def test_without_a_project_nothing_is_set_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "django.conf")
    monkeypatch.delenv("DJANGO_SETTINGS_MODULE", raising=False)
    assert project.set_up() is False
    assert project.exports_of("") == ""


@pytest.mark.parametrize("error", [ImportError("no such setting"), SystemExit(3)])
def test_a_set_up_that_fails_is_said(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr("django.setup", fail)
    with pytest.raises(ExportsError, match=rf"Django can't be set up with .*{type(error).__name__}: {error}"):
        project.set_up()


def test_a_request_begins_as_in_a_server_in_the_caller_s_language_and_time_zone(
    connection: SimpleNamespace, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("translation", "timezone"):
        monkeypatch.setattr(f"django.utils.{name}.activate", connection.done.append)
    metadata = codec.encode_metadata({"language": "de", "time_zone": "Asia/Tokyo"})
    requests_of(said).begin(metadata)
    assert connection.done == ["clear_log", "close_old", "de", "Asia/Tokyo"]
    assert said == []


@pytest.mark.parametrize(
    ("metadata", "done"),
    [
        ({"language": ""}, ["no language"]),
        ({"time_zone": "+0200"}, [timezone(timedelta(hours=2))]),
        ({"time_zone": "-0530"}, [timezone(-timedelta(hours=5, minutes=30))]),
        ({}, []),
    ],
)
def test_an_offset_is_activated_and_so_is_no_language(
    said: Said, monkeypatch: pytest.MonkeyPatch, metadata: dict[str, str], done: list[object]
) -> None:
    seen: list[object] = []
    monkeypatch.setattr("django.utils.translation.deactivate_all", lambda: seen.append("no language"))
    monkeypatch.setattr("django.utils.timezone.activate", seen.append)
    requests_of(said).begin(codec.encode_metadata(metadata))
    assert seen == done
    assert said == []


@pytest.mark.parametrize("error", [ZeroDivisionError("an error"), SystemExit("an error")])
def test_what_fails_around_a_request_is_said_and_all_else_is_done(
    connection: SimpleNamespace, said: Said, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def fail(*_: object) -> None:
        raise error

    bad = SimpleNamespace(**{**vars(connection), "close_if_unusable_or_obsolete": fail})
    good_cache, bad_cache = (
        SimpleNamespace(close=lambda: done.append("close_cache")),
        SimpleNamespace(close=fail),
    )
    done = connection.done
    monkeypatch.setattr("django.db.connections", SimpleNamespace(all=lambda **_: [bad, connection]))
    monkeypatch.setattr("django.core.cache.caches", SimpleNamespace(all=lambda **_: [bad_cache, good_cache]))
    monkeypatch.setattr("django.utils.timezone.activate", fail)
    requests = requests_of(said)
    requests.begin(codec.encode_metadata({"time_zone": "Asia/Tokyo"}))
    assert done == ["clear_log", "clear_log", "close_old"]
    done.clear()
    requests.end("list")
    assert done == ["close_old", "close_cache"]
    what = f"{type(error).__name__}: an error"
    assert (
        said
        == [("error", "before_request_failed", {"error": what})] * 2
        + [("error", "after_request_failed", {"entry": "list", "error": what})] * 2
    )


def test_connections_that_can_not_be_looked_for_are_said(
    connection: SimpleNamespace, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = iter([[connection]])
    monkeypatch.setattr("django.db.connections", SimpleNamespace(all=lambda **_: next(looks)))
    requests_of(said).end("list")
    assert connection.done == ["close_cache"]
    assert [event for _, event, _ in said] == ["after_request_failed"]


def test_a_connection_that_fails_leaves_a_request_its_language(
    connection: SimpleNamespace, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("django.utils.translation.activate", connection.done.append)
    requests = requests_of(said)
    connection.close_if_unusable_or_obsolete = lambda: 1 / 0
    requests.begin(codec.encode_metadata({"language": "de"}))
    assert connection.done == ["clear_log", "de"]
    assert [event for _, event, _ in said] == ["before_request_failed"]


@pytest.mark.parametrize(
    ("state", "left_open"),
    [
        ({}, False),
        ({"in_atomic_block": True}, True),
        ({"autocommit": False}, True),
        ({"autocommit": False, "settings_dict": {"AUTOCOMMIT": False}}, False),
        ({"autocommit": False, "connection": None}, False),
    ],
)
def test_a_transaction_that_was_left_open_is_rolled_back_and_said(
    connection: SimpleNamespace, said: Said, state: dict[str, Any], left_open: bool
) -> None:
    vars(connection).update(state)
    requests_of(said).end("list")
    ends = ["rollback", "autocommit True", "close"] if left_open else []
    assert connection.done == [*ends, "close_old", "close_cache"]
    wanted = {"entry": "list", "database": "default", "hint": "it is rolled back"}
    assert said == ([("warning", "transaction_left_open", wanted)] if left_open else [])
    assert not (left_open and connection.in_atomic_block)


@pytest.mark.parametrize(
    "state", [{"closed_in_transaction": True}, {"closed_in_transaction": True, "connection": None}]
)
def test_a_transaction_whose_connection_was_closed_is_over(
    connection: SimpleNamespace, said: Said, state: dict[str, Any]
) -> None:
    """A pool takes such a connection back at once."""
    vars(connection).update(state, in_atomic_block=True)
    requests_of(said).end("list")
    assert connection.done == ["close_old", "close_cache"]
    assert connection.connection is None
    assert not connection.in_atomic_block
    assert [event for _, event, _ in said] == ["transaction_left_open"]


def test_a_connection_that_can_not_be_rolled_back_is_closed(connection: SimpleNamespace, said: Said) -> None:
    connection.in_atomic_block = True
    connection.rollback = lambda: 1 / 0
    requests_of(said).end("list")
    assert connection.done == ["close", "close_old", "close_cache"]
    assert [event for _, event, _ in said] == ["transaction_left_open", "after_request_failed"]


def test_a_database_in_memory_is_rolled_back_too(said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    """Django never closes it."""
    connection = sqlite(":memory:", monkeypatch)
    requests = requests_of(said)
    for _ in range(2):
        transaction.Atomic("default", True, True).__enter__()
        with connection.cursor() as cursor:
            cursor.execute("create table some (number int)")
        requests.end("list")
    assert [event for _, event, _ in said] == ["transaction_left_open"] * 2


@pytest.mark.parametrize("closed", [False, True])
def test_after_a_transaction_that_was_left_open_the_next_request_has_a_connection_like_new(
    said: Said, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, closed: bool
) -> None:
    connection = sqlite(tmp_path / "database", monkeypatch)
    requests = requests_of(said)
    for _ in range(2):
        requests.begin(b"")
        transaction.Atomic("default", True, False).__enter__()
        with connection.cursor() as cursor:
            cursor.execute("create table some (number int)")
        if closed:
            connection.close()
        requests.end("list")
        assert connection.connection is None
    requests.begin(b"")
    with transaction.Atomic("default", True, True), connection.cursor() as cursor:  # in none of the others
        cursor.execute("create table some (number int)")
    requests.end("list")
    connection.close()
    assert [event for _, event, _ in said] == ["transaction_left_open"] * 2


def test_connections_are_looked_for_at_the_end_of_a_request_and_known_when_the_next_begins(
    connection: SimpleNamespace, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[SimpleNamespace] = []
    monkeypatch.setattr("django.db.connections", SimpleNamespace(all=lambda **_: [*opened]))
    requests = requests_of(said)
    requests.begin(b"")
    requests.end("list")
    assert connection.done == ["close_cache"]
    requests.begin(b"")
    opened.append(connection)  # by the entrypoint
    requests.end("list")
    requests.begin(b"")
    assert connection.done[1:] == ["close_old", "close_cache", "clear_log", "close_old"]
    assert said == []


@pytest.mark.parametrize(
    ("backend", "closes"),
    [
        (f"{CACHES}.locmem.LocMemCache", False),
        (f"{CACHES}.memcached.PyMemcacheCache", True),
        ("no.such.Cache", True),
    ],
)
def test_caches_are_closed_if_that_does_anything(
    backend: str, closes: bool, connection: SimpleNamespace, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(settings.CACHES, "default", {"BACKEND": backend})
    requests_of(said).end("list")
    assert ("close_cache" in connection.done) is closes
    assert said == []


def test_records_get_the_request_s_id_unless_they_have_one() -> None:
    own, other = (logging.makeLogRecord(each) for each in ({"request_id": "own"}, {}))
    each = project._RequestIds()
    assert each.filter(own)
    assert each.filter(other)
    assert (own.__dict__["request_id"], other.__dict__["request_id"]) == ("own", "")
