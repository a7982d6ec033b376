"""Tells Django of errors that are the server's fault, as if the view had raised them."""

from __future__ import annotations

import time
from typing import Final

from django.conf import settings
from django.core.signals import got_request_exception
from django.http import HttpRequest, HttpResponse
from django.utils.log import log_response
from django.views.debug import technical_500_response

from molt_accel.django.payload import unwrapped
from molt_accel.errors import MoltBusy, MoltError
from molt_accel.overload.episode import Episode

SERVER_ERROR: Final = 500  #: the lowest HTTP status of an error that is not the visitor's


#: The refusals that Django was told of.
_refused: Final = Episode()


def once_an_episode(request: HttpRequest, error: MoltBusy, response: HttpResponse) -> HttpResponse:
    """Have Django's log show the first refusal of an episode, and not each: a log that floods is one load more.

    Returns:
        `response`, which Django leaves out of its log ``django.request`` from now on.
    """
    if _refused.refused(error.reason, time.monotonic_ns()):
        log_response(
            "%s: %s (%s; more refusals are not shown)",
            *(response.reason_phrase, request.path, error.reason),
            response=response,
            request=unwrapped(request),
        )
    response._has_been_logged = True  # type: ignore[attr-defined]  # log_response sets it too
    return response


def as_raised(error: MoltError) -> MoltError:
    """Return an error of the call as reports should show it: with the name and the text of what the entrypoint raised.

    It is of a class of that name, derived from the error's own, and otherwise as the error. If the entrypoint has
    raised nothing, it is the error itself.
    """
    if error.failure is None:
        return error

    def reduce(self: MoltError) -> tuple[object, ...]:
        return (type(error), (self.detail,), vars(self))  # no other process has the class

    try:
        text = error.failure["text"]
        # sentry-sdk shows a `message` rather than a `detail`, and that rather than the text.
        names = {"__module__": error.failure["module"], "__reduce__": reduce, "message": text}
        made: MoltError = type(error.failure["class"], (type(error),), names)(text)
    except Exception:  # another release has sent it
        return error
    vars(made).update(vars(error))
    made.__cause__ = error.__cause__
    return made.with_traceback(error.__traceback__)


def report(request: HttpRequest, error: MoltError, response: HttpResponse, request_id: str) -> HttpResponse:
    """Tell Django of an error, once. Call it while the error is being handled.

    Sends ``got_request_exception``, which error trackers receive, and writes one line to ``django.request``, which
    they leave out therefore.

    Returns:
        With DEBUG Django's technical page, as for an error that nothing handles; else `response`.
    """
    shown = as_raised(error)
    if shown is error:
        return _tell(request, error, error, response, request_id)
    try:
        raise shown  # receivers ask for the exception that is being handled
    except MoltError:
        return _tell(request, error, shown, response, request_id)


def _tell(
    request: HttpRequest, error: MoltError, shown: MoltError, response: HttpResponse, request_id: str
) -> HttpResponse:
    request = unwrapped(request)
    got_request_exception.send(sender=None, request=request)
    if settings.DEBUG:
        status = response.status_code
        response = technical_500_response(request, type(shown), shown, shown.__traceback__, status)
    # Two ids: the one in the HTTP response, and the one in the worker's log.
    ids = f"request {request_id}, call {error.request_id}"
    log_response(
        *(
            "%s: %s (%s: %s: %s)",
            response.reason_phrase,
            request.path,
            ids,
            type(error).__name__,
            error.detail,
        ),
        response=response,
        request=request,
        exception=shown,
    )
    return response
