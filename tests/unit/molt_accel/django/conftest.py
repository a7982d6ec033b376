"""Fixtures for the tests of views that need no server."""

from tests.support.views import _project, get, inline_client, offloaded  # noqa: F401
