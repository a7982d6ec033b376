"""A handler whose cost the request sets, as a number of edit distances. It measures what offloading costs."""

from __future__ import annotations

from molt_worker import current_request

from .ranking import edit_distance
from .schema import Cost, Spent

_WORDS = ("amber", "basket", "lantern", "garden", "silver", "marble", "chair", "wooden")


def spend(cost: Cost) -> Spent:
    """Compute `cost.iterations` edit distances and return their sum."""
    request = current_request()
    total = 0
    for number in range(cost.iterations):
        if number % 64 == 0:
            request.check()
        total += edit_distance(_WORDS[number % 8], _WORDS[number * 3 % 7])
    return {"iterations": cost.iterations, "total": total}


def spend_limited(cost: Cost) -> Spent:
    """The same as an entrypoint of its own, of which one request runs at a time."""
    return spend(cost)


def spend_low(cost: Cost) -> Spent:
    """The same as an entrypoint of its own, which others go before."""
    return spend(cost)
