"""The worker: a supervisor and a pool of executor processes that run exported entrypoints."""

from molt_accel.forms.response import Response
from molt_worker.entrypoints.exports import export
from molt_worker.entrypoints.request import (
    InvalidInput,
    RequestCancelled,
    RequestStopped,
    RequestTimedOut,
    current_request,
)

__all__ = [
    "InvalidInput",
    "RequestCancelled",
    "RequestStopped",
    "RequestTimedOut",
    "Response",
    "current_request",
    "export",
]
