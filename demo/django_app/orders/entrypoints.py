"""What executors run for the views of orders: the query, the serializer and the rendering, all of it."""

from __future__ import annotations

from typing import Any

from rest_framework.renderers import JSONRenderer

from demo.django_app.orders.models import Order
from demo.django_app.orders.serializers import OrderSerializer
from molt_worker import export


def shown(status: str | None) -> Any:
    """Return the orders of a status, or all, as the serializer shows them."""
    orders = Order.objects.select_related("customer", "product").order_by("placed", "id")
    return OrderSerializer(orders.filter(status=status) if status else orders, many=True).data


@export(codec_out="json")
def list_orders(status: str | None) -> bytes:
    """Return the orders of a status, or all, as JSON that goes out as it is."""
    text: bytes = JSONRenderer().render(shown(status))
    return text
