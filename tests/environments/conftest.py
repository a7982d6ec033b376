"""Fixtures that start workers of their own."""

from tests.integration.pools import pool_log, serve, share, window

__all__ = ["pool_log", "serve", "share", "window"]
