"""The demo's views: each handler core served in process and through the worker, and the worker's health.

Both ways build the same payload, run the same function and answer with the same content as JSON.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import orjson
from asgiref.sync import sync_to_async
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.http import require_POST, require_safe

from demo.django_app import metrics, process_pool
from demo.molt_worker_app.core import list_items
from demo.molt_worker_app.cost import spend
from demo.molt_worker_app.schema import Cost, ListParameters
from demo.molt_worker_app.table import data_summary
from molt_accel import codec, molt_offload
from molt_accel.client import default_client
from molt_accel.django import error_response, json_response, request_id_of
from molt_accel.errors import MoltError, MoltInternalError, MoltInvalidInput, Status
from molt_accel.options import CallMetrics
from molt_worker import InvalidInput
from molt_worker.entrypoints import typed

log = logging.getLogger("demo.views")

# Long timeouts: a saturated demo queues requests and doesn't fail them, so a benchmark measures the wait.
LIST_TIMEOUT_MS: Final = 5_000
DATA_TIMEOUT_MS: Final = 10_000
HEALTH_TIMEOUT_MS: Final = 2_000


def list_payload(request: HttpRequest) -> dict[str, list[str]]:
    """Return the list endpoint's payload: each parameter's name with its values."""
    return {name: [str(value) for value in values] for name, values in request.GET.lists()}


def data_payload(request: HttpRequest) -> bytes:
    """Return the data path's payload: the request's body, not yet decoded."""
    return request.body


@require_safe
def baseline(request: HttpRequest) -> HttpResponse:
    """The list endpoint, run in this process."""
    return _run_here(request, "baseline", "list_items", list_items, list_payload(request), _parameters)


@require_safe
def baseline_orjson(request: HttpRequest) -> HttpResponse:
    """The list endpoint, run in this process and encoded with orjson."""
    payload = list_payload(request)
    return _run_here(request, "baseline", "list_items", list_items, payload, _parameters, _orjson)


@require_safe
def in_process_pool(request: HttpRequest) -> HttpResponse:
    """The list endpoint in a ProcessPoolExecutor."""
    page = process_pool.submit(process_pool.list_page, list_payload(request))
    return HttpResponse(page.result(LIST_TIMEOUT_MS / 1000), content_type="application/json")


@require_safe
def in_dirty_app(request: HttpRequest) -> HttpResponse:
    """The list endpoint in a dirty app of gunicorn."""
    from demo.django_app import dirty  # older versions of gunicorn have no dirty apps

    return HttpResponse(dirty.call("list_items", list_payload(request)), content_type="application/json")


@require_safe
def light(request: HttpRequest) -> HttpResponse:
    """A view that costs little, to measure how other views slow it down."""
    return JsonResponse({"status": "ok", "path": request.path, "items": [1, 2, 3]})


def _iterations(request: HttpRequest) -> int:
    text = request.GET.get("iterations", "0")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 9 else 0


_offload_cost = partial(
    molt_offload,
    timeout_ms=DATA_TIMEOUT_MS,
    payload_builder=lambda request: {"iterations": _iterations(request)},
)


@require_safe
def cost_baseline(request: HttpRequest) -> HttpResponse:
    """A handler that costs as many iterations as the query says, run in this process."""
    return HttpResponse(
        codec.encode("json", spend(Cost(_iterations(request)))), content_type="application/json"
    )


@require_safe
@_offload_cost(entry="spend")
def cost_offload(request: HttpRequest) -> HttpResponse:
    """The same handler, run by the worker. The body is a fallback, which is not enabled."""
    return cost_baseline(request)


@require_safe
@_offload_cost(entry="spend")
async def cost_offload_async(request: HttpRequest) -> HttpResponse:
    """The same, while this event loop serves other requests."""
    return await sync_to_async(cost_baseline)(request)


@require_safe
@_offload_cost(entry="spend_limited")
async def cost_limited_async(request: HttpRequest) -> HttpResponse:
    """The same by the entrypoint of which one request runs at a time."""
    return await sync_to_async(cost_baseline)(request)


@require_safe
@_offload_cost(entry="spend_low")
async def cost_low_async(request: HttpRequest) -> HttpResponse:
    """The same by the entrypoint that others go before."""
    return await sync_to_async(cost_baseline)(request)


@require_safe
def cost_in_process_pool(request: HttpRequest) -> HttpResponse:
    """The same handler in a ProcessPoolExecutor."""
    spent = process_pool.submit(process_pool.spent, _iterations(request))
    return HttpResponse(spent.result(DATA_TIMEOUT_MS / 1000), content_type="application/json")


@require_safe
async def cost_in_process_pool_async(request: HttpRequest) -> HttpResponse:
    """The same, while this event loop serves other requests."""
    spent = asyncio.wrap_future(process_pool.submit(process_pool.spent, _iterations(request)))
    body = await asyncio.wait_for(spent, DATA_TIMEOUT_MS / 1000)
    return HttpResponse(body, content_type="application/json")


@require_safe
def cost_in_dirty_app(request: HttpRequest) -> HttpResponse:
    """The same handler in a dirty app of gunicorn."""
    from demo.django_app import dirty  # older versions of gunicorn have no dirty apps

    return HttpResponse(dirty.call("spend", _iterations(request)), content_type="application/json")


@require_safe
@molt_offload(
    entry="list_items",
    timeout_ms=LIST_TIMEOUT_MS,
    payload_builder=list_payload,
    metrics_hook=metrics.recorder("offload"),
)
def offload(request: HttpRequest) -> HttpResponse:
    """The list endpoint, run by the worker. The body is a fallback, which is not enabled."""
    return baseline(request)


@require_safe
@molt_offload(
    entry="list_items",
    timeout_ms=LIST_TIMEOUT_MS,
    payload_builder=list_payload,
    metrics_hook=metrics.recorder("offload-async"),
)
async def offload_async(request: HttpRequest) -> HttpResponse:
    """The list endpoint, run by the worker while this event loop serves other requests."""
    return await sync_to_async(baseline)(request)


@require_POST
def data_baseline(request: HttpRequest) -> HttpResponse:
    """The data path, run in this process."""
    payload = data_payload(request)
    return _run_here(request, "data-baseline", "data_summary", data_summary, payload, _decoded, json_response)


@require_POST
@molt_offload(
    entry="data_summary",
    codec="json",
    timeout_ms=DATA_TIMEOUT_MS,
    payload_builder=data_payload,
    metrics_hook=metrics.recorder("data-offload"),
)
def data_offload(request: HttpRequest) -> HttpResponse:
    """The data path, run by the worker. The body is a fallback, which is not enabled."""
    return data_baseline(request)


@require_safe
def healthz(request: HttpRequest) -> HttpResponse:
    """Report whether the worker answers: an executor a trivial call, the supervisor a ping."""
    try:
        client = default_client()
        executor = client.call("health", timeout_ms=HEALTH_TIMEOUT_MS)
        worker = client.ping(timeout_ms=HEALTH_TIMEOUT_MS)
    except MoltError as exc:
        log.warning("not healthy: %s: %s", type(exc).__name__, exc.detail)
        response = error_response(exc, request_id=request_id_of(request))
        # Always 503: whatever the error, a load balancer must send no requests here now.
        response.status_code = 503
        return response
    return json_response({"status": "ok", "worker": worker, "executor": executor})


def _orjson(result: Any) -> HttpResponse:
    return HttpResponse(orjson.dumps(result), content_type="application/json")


def _parameters(payload: Any) -> ListParameters:
    """Convert the payload as the worker does."""
    parameters: ListParameters = typed.convert(payload, ListParameters)
    return parameters


def _decoded(body: Any) -> object:
    try:
        return codec.decode("json", body)
    except codec.DecodeError as exc:
        raise InvalidInput(f"the payload is {exc}") from exc


def _run_here(
    request: HttpRequest,
    endpoint: str,
    entry: str,
    core: Callable[[Any], object],
    payload: object,
    decode: Callable[[Any], object],
    respond: Callable[[Any], HttpResponse] = JsonResponse,
) -> HttpResponse:
    """Run `core` in this process, and answer and record metrics as an offloaded view does."""
    request_id = request_id_of(request)
    started = decoded = handled = time.monotonic_ns()
    status = Status.OK
    try:
        value = decode(payload)
        decoded = handled = time.monotonic_ns()
        result = core(value)
        handled = time.monotonic_ns()
        response = respond(result)
    except InvalidInput as exc:
        handled = time.monotonic_ns()
        status = Status.INVALID_INPUT
        response = error_response(MoltInvalidInput(str(exc)), request_id=request_id)
    except Exception as exc:
        # As in the worker, the log gets the traceback, and the client only the exception's type.
        log.exception("%s failed for request %s", entry, request_id)
        handled = time.monotonic_ns()
        status = Status.INTERNAL_ERROR
        error = MoltInternalError(f"{entry!r} raised {type(exc).__name__}")
        response = error_response(error, request_id=request_id)
    ended = time.monotonic_ns()
    metrics.recorder(endpoint)(
        CallMetrics(
            entry=entry,
            status=status.label,
            request_id=request_id,
            ts_ms=time.time_ns() // 1_000_000,
            decode_us=(decoded - started) // 1000,
            handler_us=(handled - decoded) // 1000,
            encode_us=(ended - handled) // 1000,
            exec_us=(ended - started) // 1000,
            payload_bytes=len(payload) if isinstance(payload, bytes) else 0,
            response_bytes=len(response.content),
            client_us=(ended - started) // 1000,
        )
    )
    return response
