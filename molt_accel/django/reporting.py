"""Tells Django of errors that are the server's fault, as if the view had raised them."""

from __future__ import annotations

from django.conf import settings
from django.core.signals import got_request_exception
from django.http import HttpRequest, HttpResponse
from django.views.debug import technical_500_response

from molt_accel.django.payload import unwrapped
from molt_accel.errors import MoltError


def tell(request: HttpRequest, error: MoltError) -> HttpResponse | None:
    """Send ``got_request_exception``, which error trackers receive. Call it while the error is being handled.

    Returns Django's page for errors if DEBUG is on, as Django does for an error that nothing handles; else None.
    """
    request = unwrapped(request)
    got_request_exception.send(sender=None, request=request)
    if not settings.DEBUG:
        return None
    return technical_500_response(request, type(error), error, error.__traceback__)
