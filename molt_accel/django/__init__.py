"""What Django views need around a call: request ids, payloads, responses, and whether the client is there."""

from molt_accel.django.autoreload import source_files
from molt_accel.django.disconnect import cancel_check
from molt_accel.django.payload import default_payload, request_id_of
from molt_accel.django.responses import error_response, json_response

__all__ = [
    "cancel_check",
    "default_payload",
    "error_response",
    "json_response",
    "request_id_of",
    "source_files",
]
