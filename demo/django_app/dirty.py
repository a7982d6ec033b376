"""Handler cores as a dirty app, which gunicorn runs outside of its HTTP workers. For comparison."""

from __future__ import annotations

from typing import Any

import orjson
from gunicorn.dirty import DirtyApp, get_dirty_client  # type: ignore[import-untyped]

from demo.molt_worker_app.core import list_items
from demo.molt_worker_app.cost import spend
from demo.molt_worker_app.schema import Cost, ListParameters
from molt_worker.entrypoints import typed

APP = "demo.django_app.dirty:Cores"


class Cores(DirtyApp):  # type: ignore[misc]  # gunicorn has no type hints
    """Runs in gunicorn's dirty workers."""

    def list_items(self, payload: Any) -> bytes:
        """Return the page as JSON."""
        return orjson.dumps(list_items(typed.convert(payload, ListParameters)))

    def spend(self, iterations: int) -> bytes:
        """Return as JSON what `spend` gives for so many iterations."""
        return orjson.dumps(spend(Cost(iterations)))


def call(action: str, payload: Any) -> bytes:
    """Return the JSON that a dirty worker made, by a method of the app."""
    made: bytes = get_dirty_client().execute(APP, action, payload)
    return made
