"""The list endpoint as a dirty app, which gunicorn runs outside of its HTTP workers. For comparison."""

from __future__ import annotations

from typing import Any

import orjson
from gunicorn.dirty import DirtyApp, get_dirty_client  # type: ignore[import-untyped]

from demo.molt_worker_app.core import list_items
from demo.molt_worker_app.schema import ListParameters
from molt_worker.entrypoints import typed

APP = "demo.django_app.dirty:ListItems"


class ListItems(DirtyApp):  # type: ignore[misc]  # gunicorn has no type hints
    """Runs in gunicorn's dirty workers."""

    def list_items(self, payload: Any) -> bytes:
        """Return the page as JSON."""
        return orjson.dumps(list_items(typed.convert(payload, ListParameters)))


def call(payload: Any) -> bytes:
    """Return the page as JSON, made by a dirty worker."""
    page: bytes = get_dirty_client().execute(APP, "list_items", payload)
    return page
