"""molt_accel.django.active: which language and time zone travel with a call."""

import asyncio
import contextlib
import datetime
import threading
import zoneinfo
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.test import RequestFactory, override_settings
from django.utils import timezone, translation
from django.utils.translation import trans_real

from molt_accel import offload
from molt_accel.django import active
from molt_accel.django.active import active_metadata
from molt_accel.django.payload import metadata_of

GERMAN, TOKYO = {"language": "de"}, {"time_zone": "Asia/Tokyo"}


@pytest.fixture(autouse=True)
def _german(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Languages are in use, but for the translations, which only a project with apps can read."""

    def translation(language: str) -> SimpleNamespace:
        return SimpleNamespace(to_language=lambda: language)

    monkeypatch.setattr(trans_real, "translation", translation)
    monkeypatch.setattr("django.utils.translation._trans", trans_real)
    learnt = (active._of_language, active._of_time_zone)
    for each in learnt:
        each.cache_clear()
    yield
    for each in learnt:
        each.cache_clear()


@contextlib.contextmanager
def _both() -> Iterator[None]:
    with translation.override("de"), timezone.override("Asia/Tokyo"):
        yield


def test_nothing_travels_where_nothing_is_active_and_django_is_not_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("django.utils.translation.get_language", lambda: 1 / 0)
    monkeypatch.setattr("django.utils.timezone.get_current_timezone_name", lambda: 1 / 0)
    with ThreadPoolExecutor(1) as thread:  # whatever other tests have activated on this one
        assert thread.submit(active_metadata).result() == {}


def test_what_is_active_travels_as_long_as_it_is() -> None:
    with _both():
        assert active_metadata() == {**GERMAN, **TOKYO}
        assert metadata_of(RequestFactory().get("/")) == {**GERMAN, **TOKYO}
    assert active_metadata() == {}
    with timezone.override("Asia/Tokyo"):
        assert active_metadata() == TOKYO


def test_what_a_thread_activates_is_active_there_alone() -> None:
    found: list[dict[str, Any]] = []
    with _both():
        thread = threading.Thread(target=lambda: found.append(active_metadata()))
        thread.start()
        thread.join()
    assert found == [{}]


def test_what_is_active_goes_along_between_event_loops_and_threads() -> None:
    async def ask_on_a_thread() -> dict[str, Any]:
        return await sync_to_async(active_metadata)()

    async def activate() -> dict[str, Any]:
        with _both():
            return await ask_on_a_thread()

    assert asyncio.run(activate()) == {**GERMAN, **TOKYO}
    with _both():
        assert async_to_sync(ask_on_a_thread)() == {**GERMAN, **TOKYO}


def test_django_is_asked_where_what_is_active_is_kept_in_no_context_variable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert active._set_by(lambda: None) == ()
    monkeypatch.setattr(active, "_of_time_zone", lambda: ())
    monkeypatch.setattr("django.utils.translation.deactivate_all", lambda: None)
    assert active_metadata() == {}
    with _both():
        assert active_metadata() == {**GERMAN, **TOKYO}


def test_django_is_asked_as_long_as_it_can_not_be_learnt_where_something_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch, _both():
        patch.setattr(threading.Thread, "start", start)
        assert active_metadata() == {**GERMAN, **TOKYO}
    with monkeypatch.context() as patch:
        patch.setattr("django.utils.translation.deactivate_all", lambda: 1 / 0)
        assert active_metadata() == {}
    assert active._of_language.cache_info().currsize == 0
    assert active_metadata() == {}
    assert active._of_language.cache_info().currsize == 1


@pytest.mark.parametrize(
    ("time_zone", "name"),
    [
        (timezone.get_fixed_timezone(120), "+0200"),
        (datetime.timezone(-datetime.timedelta(hours=5, minutes=30), "own name"), "-0530"),
        (zoneinfo.ZoneInfo("Asia/Tokyo"), "Asia/Tokyo"),
        (zoneinfo.ZoneInfo("Etc/GMT+5"), "Etc/GMT+5"),
        (datetime.UTC, "UTC"),
    ],
)
def test_a_time_zone_travels_by_its_name_or_its_offset(time_zone: datetime.tzinfo, name: str) -> None:
    with override_settings(TIME_ZONE="Europe/Berlin"), timezone.override(time_zone):
        assert active_metadata() == {"time_zone": name}


def test_that_nothing_is_translated_travels_too() -> None:
    with translation.override(None):
        assert active_metadata() == {"language": ""}


@pytest.mark.parametrize("learnt", ["before", "within"])
def test_settings_that_tests_override_change_nothing_about_that(learnt: str) -> None:
    if learnt == "before":
        active_metadata()
    with ThreadPoolExecutor(1) as thread, override_settings(LANGUAGE_CODE="fr"):
        assert thread.submit(lambda: (active_metadata(), translation.activate("de"))).result()[0] == {}
        assert thread.submit(active_metadata).result() == GERMAN
    with _both():
        assert active_metadata() == {**GERMAN, **TOKYO}


def test_to_learn_where_something_is_kept_activates_nothing_here() -> None:
    kept = threading.local()  # as older releases of asgiref have it

    def activate(what: str) -> None:
        kept.what = what

    assert active._set_by(activate, "UTC") == ()
    assert not vars(kept)


@pytest.mark.parametrize("uses_zones", [False, True])
def test_a_time_zone_travels_only_where_the_project_has_some(uses_zones: bool) -> None:
    with override_settings(USE_TZ=uses_zones), timezone.override("Asia/Tokyo"):
        assert active_metadata() == (TOKYO if uses_zones else {})


def test_the_active_language_and_time_zone_travel_with_a_call_that_no_view_makes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given: list[object] = []

    def call(entry: object, payload: object, **options: Any) -> None:
        given.append(options["metadata"])

    monkeypatch.setattr("molt_accel.client.client_for", lambda pool: SimpleNamespace(call=call))
    with _both():
        offload("e")
        offload("e", metadata={"language": "fr", "tenant": "a"})
    offload("e")
    assert given == [{**GERMAN, **TOKYO}, {"language": "fr", **TOKYO, "tenant": "a"}, {}]
