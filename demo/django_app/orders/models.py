"""Orders, who has placed them, and of what."""

from __future__ import annotations

import uuid

from django.db import models


class Customer(models.Model):
    """Who places orders."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    name = models.CharField(max_length=80)


class Product(models.Model):
    """What is ordered."""

    sku = models.CharField(max_length=20, unique=True)
    price = models.DecimalField(max_digits=9, decimal_places=2)


class Order(models.Model):
    """A customer's order of some pieces of a product."""

    class Status(models.TextChoices):
        """How far it is."""

        OPEN = "open"
        SHIPPED = "shipped"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    customer = models.ForeignKey(Customer, on_delete=models.CASCADE)
    product = models.ForeignKey(Product, on_delete=models.CASCADE)
    status = models.CharField(max_length=10, choices=Status.choices)
    quantity = models.IntegerField()
    total = models.DecimalField(max_digits=11, decimal_places=2)
    placed = models.DateTimeField()
    shipped = models.DateTimeField(null=True)
    due = models.DateField()
