"""The list of orders, made in this process and by an executor. Both answer the same bytes."""

from __future__ import annotations

from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from demo.django_app.orders.entrypoints import list_orders, shown
from molt_accel import molt_offload


def wanted(request: Request) -> str | None:
    """Return the status that the query asks for; None: any."""
    status: str | None = request.query_params.get("status")
    return status


class Baseline(APIView):
    """The orders, queried, serialized and rendered in this process."""

    def get(self, request: Request) -> Response:
        """All orders, or those of ``?status=``."""
        return Response(shown(wanted(request)))


class Offload(APIView):
    """The orders, from an executor. The body is a fallback, which is not enabled."""

    @molt_offload(entry=list_orders, payload_builder=wanted, timeout_ms=10_000)
    def get(self, request: Request) -> Response:
        """All orders, or those of ``?status=``."""
        return Response(shown(wanted(request)))
