"""How an order is shown."""

from __future__ import annotations

from typing import ClassVar

from rest_framework import serializers

from demo.django_app.orders.models import Customer, Order, Product


class CustomerSerializer(serializers.ModelSerializer):
    """A customer within an order."""

    class Meta:
        model = Customer
        fields: ClassVar = ["id", "name"]


class ProductSerializer(serializers.ModelSerializer):
    """A product within an order."""

    class Meta:
        model = Product
        fields: ClassVar = ["sku", "price"]


class OrderSerializer(serializers.ModelSerializer):
    """An order with its customer and its product."""

    customer = CustomerSerializer()
    product = ProductSerializer()

    class Meta:
        model = Order
        fields: ClassVar = [
            "id", "customer", "product", "status", "quantity", "total", "placed", "shipped", "due",
        ]  # fmt: skip
