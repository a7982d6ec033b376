"""Fixtures that start workers of their own."""

from tests.integration.peer import make_peer
from tests.integration.pools import pool_log, serve, share, window

__all__ = ["make_peer", "pool_log", "serve", "share", "window"]
