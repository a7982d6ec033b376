"""What each command would run."""

from collections.abc import Callable
from typing import Any

import pytest
from django.conf import settings
from django.core.management import call_command

from molt_accel import Config
from molt_accel.django.management.pool_command import PoolCommand
from tests.support.views import _project  # noqa: F401

Ran = Callable[..., tuple[list[str], bool]]


@pytest.fixture
def ran(_project: None, monkeypatch: pytest.MonkeyPatch) -> Ran:  # noqa: F811
    """Runs a command of the app; returns molt-worker's arguments, and whether it replaces this process."""
    monkeypatch.setattr("molt_accel.config._django_settings", lambda: settings)
    monkeypatch.setattr(
        "django.core.management.get_commands",
        lambda: dict.fromkeys(
            ("molt_worker", "molt_status", "molt_build", "molt_check"), "molt_accel.django"
        ),
    )

    def run(name: str, *arguments: str) -> tuple[list[str], bool]:
        given: list[Any] = []
        monkeypatch.setattr(
            PoolCommand,
            "run",
            lambda self, config, *words, replace=False: given.append((list(words), replace)),
        )
        call_command(name, *arguments)
        (one,) = given
        return one  # type: ignore[no-any-return]

    return run


@pytest.fixture
def pool_name(ran: Ran) -> str:
    return Config.load().pool_name
