"""Sets Django up for the demo's tests, and serves what several of them share."""

import os

import django
import pytest

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "demo.django_app.settings")
django.setup()


@pytest.fixture(autouse=True)
def _demo_settings(_project_root: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers that a test starts are of the demo's project."""
    monkeypatch.setenv("DJANGO_SETTINGS_MODULE", "demo.django_app.settings")
