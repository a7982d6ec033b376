"""Views of the test project: a baseline, its offloaded twins, and some that take as long as a test wants."""

import os
from collections.abc import Callable
from typing import Any, Final

from django.http import HttpRequest, HttpResponse, HttpResponseBase

from molt_accel import MoltError, molt_offload
from molt_accel import offload as call_offload
from molt_accel.client import default_client
from molt_accel.django import error_response, json_response

#: Longer than any test: these calls end because something ends them.
LONG_MS: Final = 200_000


def squares(request: HttpRequest, number: int) -> dict[str, Any]:
    """What the baseline answers and the offloaded views send through the worker."""
    return {"number": number, "squares": [each * each for each in range(number)], "text": "é" * number}


def path_of(request: HttpRequest) -> str:
    """The file that a long request shall make or wait for."""
    return request.GET["path"]


def baseline(request: HttpRequest, number: int) -> HttpResponse:
    """Answered in this process."""
    return json_response(squares(request, number))


@molt_offload(entry="to_json", payload_builder=squares, timeout_ms=LONG_MS)
def offload(request: HttpRequest, number: int) -> HttpResponseBase:
    """Answered by the worker: JSON, passed through."""
    raise AssertionError("no fallback is allowed")


@molt_offload(entry="echo", payload_builder=squares, timeout_ms=LONG_MS)
async def offload_async(request: HttpRequest, number: int) -> HttpResponseBase:
    """Answered by the worker: msgpack, made JSON here."""
    raise AssertionError("no fallback is allowed")


@molt_offload(entry="pid", timeout_ms=LONG_MS)
def executor_pid(request: HttpRequest) -> HttpResponseBase:
    """The process that ran it."""
    raise AssertionError("no fallback is allowed")


@molt_offload(entry="pid", timeout_ms=LONG_MS)
async def executor_pid_async(request: HttpRequest) -> HttpResponseBase:
    """The process that ran it."""
    raise AssertionError("no fallback is allowed")


@molt_offload(entry="clean_up", payload_builder=path_of, timeout_ms=LONG_MS)
def clean_up(request: HttpRequest) -> HttpResponseBase:
    """Makes a file, runs until it is stopped, and removes the file."""
    raise AssertionError("no fallback is allowed")


@molt_offload(entry="clean_up", payload_builder=path_of, timeout_ms=LONG_MS)
async def clean_up_async(request: HttpRequest) -> HttpResponseBase:
    """Makes a file, runs until it is stopped, and removes the file."""
    raise AssertionError("no fallback is allowed")


@molt_offload(entry="wait_for_file", payload_builder=path_of, timeout_ms=LONG_MS)
def wait_for_file(request: HttpRequest) -> HttpResponseBase:
    """Says that it runs, by a file beside it, and ends when the file is there."""
    raise AssertionError("no fallback is allowed")


@molt_offload(entry="wait_for_file", payload_builder=path_of, timeout_ms=LONG_MS)
async def wait_for_file_async(request: HttpRequest) -> HttpResponseBase:
    """Says that it runs, by a file beside it, and ends when the file is there."""
    raise AssertionError("no fallback is allowed")


def seconds_of(request: HttpRequest) -> float:
    """How long a request shall take."""
    return float(request.GET["seconds"])


@molt_offload(entry="sleep", payload_builder=seconds_of, timeout_ms=LONG_MS)
def sleep(request: HttpRequest) -> HttpResponseBase:
    """Takes so many seconds of an executor."""
    raise AssertionError("no fallback is allowed")


@molt_offload(entry="sleep", payload_builder=seconds_of, timeout_ms=LONG_MS, pool="second")
def sleep_in_second(request: HttpRequest) -> HttpResponseBase:
    """`sleep`, in the other pool."""
    raise AssertionError("no fallback is allowed")


@molt_offload(entry="wait_for_file", payload_builder=path_of, timeout_ms=LONG_MS, pool="second")
def wait_in_second(request: HttpRequest) -> HttpResponseBase:
    """`wait_for_file`, in the other pool."""
    raise AssertionError("no fallback is allowed")


@molt_offload(entry="wait_for_file", payload_builder=path_of, timeout_ms=LONG_MS, max_in_flight=1)
def wait_alone(request: HttpRequest) -> HttpResponseBase:
    """`wait_for_file`, for one at a time."""
    raise AssertionError("no fallback is allowed")


@molt_offload(entry="wait_for_file", payload_builder=path_of, timeout_ms=LONG_MS, max_in_flight=1)
async def wait_alone_async(request: HttpRequest) -> HttpResponseBase:
    """`wait_for_file`, for one at a time."""
    raise AssertionError("no fallback is allowed")


def plain_wait(request: HttpRequest) -> HttpResponse:
    """A view that is not decorated, and makes the call itself."""
    try:
        return json_response(call_offload("wait_for_file", path_of(request), timeout_ms=LONG_MS))
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


def processes(request: HttpRequest) -> HttpResponse:
    """This server process and its worker."""
    report = default_client().ping(timeout_ms=LONG_MS)
    return json_response({"server": os.getpid(), "worker": report["pid"]})
