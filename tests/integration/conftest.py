"""Fixtures that start workers of their own."""

from tests.support.driver import make_driver, make_module
from tests.support.peer import make_peer
from tests.support.pools import pool_log, serve, share, window

__all__ = ["make_driver", "make_module", "make_peer", "pool_log", "serve", "share", "window"]
