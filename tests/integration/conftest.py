"""Fixtures that start workers of their own."""

from tests.integration.driver import make_driver, make_module

__all__ = ["make_driver", "make_module"]
