"""What Django views need around a call: request ids, payloads, responses, and whether the client is there."""

from django.conf import settings

from molt_accel.client import surroundings
from molt_accel.django import server
from molt_accel.django.active import active_metadata
from molt_accel.django.autoreload import source_files
from molt_accel.django.disconnect import cancel_check
from molt_accel.django.front.asgi import ShedASGI
from molt_accel.django.front.shedding import ShedMiddleware, ShedWSGI
from molt_accel.django.payload import default_payload, request_id_of
from molt_accel.django.responses import error_response, json_response
from molt_accel.django.travel import rebuilt_request, request_parts

__all__ = [
    "ShedASGI",
    "ShedMiddleware",
    "ShedWSGI",
    "cancel_check",
    "default_payload",
    "error_response",
    "json_response",
    "rebuilt_request",
    "request_id_of",
    "request_parts",
    "source_files",
]

server.watch()
# Before the settings are read nothing can be active.
surroundings.append(lambda: active_metadata() if settings.configured else {})
