"""Views that take executors, places and threads, and their addresses beside those of the test project."""

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.urls import URLPattern, path

import molt_accel
from molt_accel import MoltError, molt_offload
from molt_accel.django import error_response, json_response
from tests.integration.django import urls, views


def seconds_of(request: HttpRequest) -> float:
    """How long a request shall take."""
    return float(request.GET["seconds"])


@molt_offload(entry="sleep", payload_builder=seconds_of, timeout_ms=views.LONG_MS)
def sleep(request: HttpRequest) -> HttpResponseBase:
    """Takes so many seconds of an executor."""
    raise AssertionError("no fallback is allowed")


@molt_offload(entry="sleep", payload_builder=seconds_of, timeout_ms=views.LONG_MS, pool="second")
def sleep_in_second(request: HttpRequest) -> HttpResponseBase:
    """`sleep`, in the other pool."""
    raise AssertionError("no fallback is allowed")


@molt_offload(entry="wait_for_file", payload_builder=views.path_of, timeout_ms=views.LONG_MS, pool="second")
def wait_in_second(request: HttpRequest) -> HttpResponseBase:
    """`wait_for_file`, in the other pool."""
    raise AssertionError("no fallback is allowed")


@molt_offload(entry="wait_for_file", payload_builder=views.path_of, timeout_ms=views.LONG_MS, max_in_flight=1)
def wait_alone(request: HttpRequest) -> HttpResponseBase:
    """`wait_for_file`, for one at a time."""
    raise AssertionError("no fallback is allowed")


@molt_offload(entry="wait_for_file", payload_builder=views.path_of, timeout_ms=views.LONG_MS, max_in_flight=1)
async def wait_alone_async(request: HttpRequest) -> HttpResponseBase:
    """`wait_for_file`, for one at a time."""
    raise AssertionError("no fallback is allowed")


def plain_wait(request: HttpRequest) -> HttpResponse:
    """A view that is not decorated, and makes the call itself."""
    try:
        return json_response(
            molt_accel.offload("wait_for_file", views.path_of(request), timeout_ms=views.LONG_MS)
        )
    except MoltError as error:
        return error_response(error)


def late_middleware(
    get_response: Callable[[HttpRequest], HttpResponse],
) -> Callable[[HttpRequest], HttpResponse]:
    """Says in each answer that the request has passed it."""

    def middleware(request: HttpRequest) -> HttpResponse:
        response = get_response(request)
        response["X-Passed"] = "yes"
        return response

    return middleware


urlpatterns: list[URLPattern] = [
    *urls.urlpatterns,
    path("offload/sleep/", sleep),
    path("second/sleep/", sleep_in_second),
    path("second/wait/", wait_in_second),
    path("offload/alone/", wait_alone),
    path("async/alone/", wait_alone_async),
    path("plain/wait/", plain_wait),
]
