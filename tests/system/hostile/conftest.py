"""Fixtures that start workers of their own."""

from tests.support.peer import make_peer
from tests.support.pools import pool_log, serve, share, window

__all__ = ["make_peer", "pool_log", "serve", "share", "window"]
