"""Tells Django of errors that are the server's fault, as if the view had raised them."""

from __future__ import annotations

from typing import Final

from django.conf import settings
from django.core.signals import got_request_exception
from django.http import HttpRequest, HttpResponse
from django.utils.log import log_response
from django.views.debug import technical_500_response

from molt_accel.django.payload import unwrapped
from molt_accel.errors import MoltError

SERVER_ERROR: Final = 500  #: the lowest HTTP status of an error that is not the visitor's


def report(request: HttpRequest, error: MoltError, response: HttpResponse, request_id: str) -> HttpResponse:
    """Tell Django of an error, once. Call it while the error is being handled.

    Sends ``got_request_exception``, which error trackers receive, and writes one line to ``django.request``, which
    they leave out therefore.

    Returns:
        With DEBUG Django's technical page, as for an error that nothing handles; else `response`.
    """
    request = unwrapped(request)
    got_request_exception.send(sender=None, request=request)
    if settings.DEBUG:
        status = response.status_code
        response = technical_500_response(request, type(error), error, error.__traceback__, status)
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
        exception=error,
    )
    return response
