"""molt_accel.django.reporting: what Django is told of an error."""

import pickle
import sys
from collections.abc import Callable
from typing import Any

import pytest
from django.conf import settings
from django.core.signals import got_request_exception
from django.http import HttpRequest, HttpResponse

from molt_accel.django import reporting
from molt_accel.errors import MoltError, MoltInternalError, Status, from_wire, to_wire


@pytest.fixture
def debug(_project: None) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        yield lambda value: patch.setattr(settings, "DEBUG", value)


def test_error_trackers_are_told_and_with_debug_django_s_page_is_shown(
    get: HttpRequest, debug: Callable[[bool], None]
) -> None:
    told: list[object] = []

    def receive(request: HttpRequest, **_: object) -> None:
        told.append((request, sys.exc_info()[1]))

    def tell() -> tuple[MoltError, HttpResponse]:
        try:
            raise from_wire(Status.INTERNAL_ERROR, to_wire(failed), "id-of-the-call")
        except MoltError as error:
            return error, reporting.report(get, error, own, "id-of-the-view")

    own = HttpResponse("own", status=503)
    failed = MoltInternalError("'f' raised KeyError")
    failed.remote_traceback = "the line of the executor"
    got_request_exception.connect(receive)
    try:
        debug(False)
        quiet, answer = tell()
        debug(True)
        shown, page = tell()
    finally:
        got_request_exception.disconnect(receive)
    assert told == [(get, quiet), (get, shown)]
    assert answer is own
    assert page.status_code == 503
    assert b"the line of the executor" in page.content


def test_reports_name_the_exception_of_the_entrypoint_and_its_place(
    get: HttpRequest, debug: Callable[[bool], None]
) -> None:
    def shown(failure: object) -> tuple[BaseException | None, HttpResponse]:
        told: list[BaseException | None] = []

        def receive(**_: object) -> None:
            told.append(sys.exc_info()[1])

        failed = MoltInternalError("'f' raised KeyError", request_id="id-of-the-call")
        failed.failure = failure  # type: ignore[assignment]
        got_request_exception.connect(receive)
        try:
            raise failed
        except MoltError as error:
            page = reporting.report(get, error, HttpResponse(status=500), "id-of-the-view")
        finally:
            got_request_exception.disconnect(receive)
        return told[0], page

    debug(True)
    frames = [[__file__, 1, "lookup", "shop.entrypoints"]]
    error, page = shown({"class": "KeyError", "module": "builtins", "text": "'chair'", "frames": frames})
    assert isinstance(error, MoltInternalError)
    assert (type(error).__name__, type(error).__module__, str(error)) == ("KeyError", "builtins", "'chair'")
    assert (error.detail, error.request_id) == ("'f' raised KeyError", "id-of-the-call")
    assert b"<title>KeyError" in page.content
    sent = pickle.loads(pickle.dumps(error))  # as test runners that have several processes do
    assert (type(sent), sent.detail, sent.failure) == (MoltInternalError, error.detail, error.failure)
    for odd in ({}, {"class": "\0", "module": "m", "text": "t"}, {"class": 7, "module": [], "text": "t"}):
        assert type(shown(odd)[0]) is MoltInternalError
