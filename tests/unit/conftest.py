"""Fixtures for the unit tests."""

from __future__ import annotations

import pytest

from molt_accel import config


@pytest.fixture(autouse=True)
def _no_project(monkeypatch: pytest.MonkeyPatch) -> None:
    """No Django settings, whatever project other tests have set this process up for."""
    monkeypatch.setattr(config, "_django_settings", lambda: None)
