"""Fixtures that start workers of their own."""

from tests.support.driver import make_driver, make_module

__all__ = ["make_driver", "make_module"]
