"""molt_accel.process.testdb: when tests are running, and what a worker is told of their databases."""

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from django.conf import settings
from django.db import connections
from django.test import override_settings
from django.test.utils import setup_test_environment, teardown_test_environment

from molt_accel import Client, MoltStartFailed
from molt_accel.config import Config
from molt_accel.process import testdb
from tests.support.views import _project  # noqa: F401


@pytest.fixture
def under_the_runner(_project: None) -> Any:  # noqa: F811
    setup_test_environment(debug=False)
    yield
    teardown_test_environment()


def connection(
    name: str, wanted: str | None = None, alias: str = "default", mirror: str | None = None
) -> Any:
    return SimpleNamespace(
        alias=alias,
        vendor="postgresql",
        settings_dict={"NAME": name, "TEST": {"NAME": wanted, "MIRROR": mirror}},
        creation=SimpleNamespace(_get_test_db_name=lambda: wanted or f"test_{name}"),
    )


@pytest.mark.usefixtures("under_the_runner")
@pytest.mark.parametrize(
    ("name", "wanted", "told"),
    [
        ("shop", None, "test_shop"),  # not made yet
        ("test_shop", None, "test_shop"),
        ("test_shop_2", None, "test_shop_2"),  # of one process of several
        ("/srv/test_shop.db", None, "/srv/test_shop.db"),
        ("shop", "checks", "checks"),
        ("checks_1", "checks", "checks_1"),
        ("/srv/checks_1.db", "/srv/checks.db", "/srv/checks_1.db"),  # SQLite's copies
        ("checks.new_1", "checks.new", "checks.new_1"),
        ("checks_live", "checks", "checks"),
    ],
)
def test_a_worker_is_told_the_database_of_the_tests(
    name: str, wanted: str | None, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "all", lambda: [connection(name, wanted)])
    assert testdb.names() == f'{{"default": "{told}"}}'
    assert Config.load(settings=SimpleNamespace()).environ()[testdb.VARIABLE] == testdb.names()


@pytest.mark.usefixtures("under_the_runner")
@pytest.mark.parametrize("replica", ["shop", "checks"])  # before Django has made it a mirror, and then
def test_a_mirror_is_the_database_that_it_mirrors(replica: str, monkeypatch: pytest.MonkeyPatch) -> None:
    both = {
        "default": connection("checks", "checks"),
        "replica": connection(replica, None, "replica", "default"),
    }
    monkeypatch.setattr(connections, "all", both.values)
    monkeypatch.setattr(type(connections), "__getitem__", lambda _, alias: both[alias])
    assert testdb.names() == '{"default": "checks", "replica": "checks"}'


@pytest.mark.usefixtures("under_the_runner")
@pytest.mark.parametrize("name", [":memory:", "file:memorydb_default?mode=memory&cache=shared"])
def test_one_in_memory_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "all", lambda: [connection(name, name)])
    with pytest.raises(MoltStartFailed, match="'default' is in the memory of this process"):
        testdb.names()


def test_elsewhere_nothing_is_told() -> None:
    assert testdb.names() == ""
    assert testdb.VARIABLE not in Config.load(settings=SimpleNamespace()).environ()


@pytest.mark.usefixtures("under_the_runner")
def test_tests_run_inline_unless_they_ask_for_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOLT_TRANSPORT", "shm")
    assert Config.load(settings=SimpleNamespace(MOLT_TRANSPORT="shm")).transport == "inline"
    assert Config.load(transport="stdio").transport == "stdio"
    with override_settings(MOLT_TRANSPORT="stdio"):
        assert Config.load(settings=settings).transport == "stdio"


@pytest.mark.parametrize(
    ("program", "words", "told"),
    [
        ("/srv/shop/manage.py", ["test", "notes"], True),
        ("manage.py", ["test"], True),
        ("my_manage.py", ["test"], False),
        ("/opt/bin/django-admin", ["testserver"], True),
        ("/opt/lib/django/__main__.py", ["test"], True),
        ("/srv/shop/manage.py", ["runserver"], False),
        ("/opt/bin/gunicorn", ["test"], False),
    ],
)
def test_a_command_tells_of_tests_before_they_begin(
    monkeypatch: pytest.MonkeyPatch, program: str, words: list[str], told: bool
) -> None:
    assert settings.configured
    monkeypatch.setattr("sys.argv", [program, *words])
    monkeypatch.setattr("os.getcwd", None)  # it may be gone
    assert testdb.active() is testdb.about_to_be() is told


def test_pytest_django_tells_of_tests_before_they_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pytest_django", ModuleType("pytest_django"))
    assert settings.configured
    assert testdb.about_to_be()
    with Client() as client:
        client.start()
        assert client.config.transport == "inline"
