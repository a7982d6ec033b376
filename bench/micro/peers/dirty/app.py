"""What the benchmark's gunicorn serves: a dirty app that echoes, and the WSGI application it can't lack."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from gunicorn.dirty import DirtyApp  # type: ignore[import-untyped]


class Echo(DirtyApp):  # type: ignore[misc]  # gunicorn has no type hints
    """Runs in gunicorn's dirty workers."""

    def echo(self, payload: object) -> object:
        """Returns what it is given."""
        return payload


def application(_environ: object, start_response: Callable[..., object]) -> Iterable[bytes]:
    """Nobody asks it anything."""
    start_response("204 No Content", [])
    return []
