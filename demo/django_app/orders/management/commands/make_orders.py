"""Makes the tables of the orders, and fills them: the same orders each time."""

from __future__ import annotations

import random
import uuid
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandParser

from demo.django_app.orders.models import Customer, Order, Product

_BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
_CITIES = ("Århus", "Köln", "Łódź", "São Paulo", "東京")


class Command(BaseCommand):
    """``manage.py make_orders``."""

    help = "Make the tables of the orders anew and fill them."

    def add_arguments(self, parser: CommandParser) -> None:
        """Take the number of orders."""
        parser.add_argument("--count", type=int, default=5_000)

    def handle(self, *args: Any, **options: Any) -> None:
        """Make them."""
        call_command("migrate", run_syncdb=True, verbosity=0)
        Customer.objects.all().delete()
        Product.objects.all().delete()
        chance = random.Random(1)
        customers = Customer.objects.bulk_create(
            Customer(id=_uuid(chance), name=f"Customer {number} of {_CITIES[number % 5]}")
            for number in range(200)
        )
        products = Product.objects.bulk_create(
            Product(sku=f"SKU-{number:05}", price=Decimal(chance.randrange(99, 99_999)) / 100)
            for number in range(100)
        )
        orders = [_order(chance, customers, products, number) for number in range(options["count"])]
        Order.objects.bulk_create(orders, batch_size=500)
        self.stdout.write(f"{len(orders)} orders")


def _uuid(chance: random.Random) -> uuid.UUID:
    return uuid.UUID(int=chance.getrandbits(128), version=4)


def _order(chance: random.Random, customers: list[Customer], products: list[Product], number: int) -> Order:
    product, quantity = chance.choice(products), chance.randint(1, 9)
    placed = _BEGAN + timedelta(minutes=number, microseconds=chance.randrange(1_000_000))
    shipped = placed + timedelta(hours=chance.randint(1, 99)) if chance.random() < 0.7 else None
    return Order(
        id=_uuid(chance),
        customer=chance.choice(customers),
        product=product,
        status=Order.Status.SHIPPED if shipped else Order.Status.OPEN,
        quantity=quantity,
        total=product.price * quantity,
        placed=placed,
        shipped=shipped,
        due=(placed + timedelta(days=7)).date(),
    )
