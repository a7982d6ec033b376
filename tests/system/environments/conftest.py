"""Fixtures that start workers of their own."""

from tests.support.pools import pool_log, serve, share, window

__all__ = ["pool_log", "serve", "share", "window"]
