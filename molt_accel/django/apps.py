"""The app ``molt_accel.django``: with it installed, modules named `entrypoints` of the other apps are the exports."""

from __future__ import annotations

from typing import Any, Final

from django.apps import AppConfig
from django.core.signals import setting_changed

from molt_accel.client import forget_clients


class MoltConfig(AppConfig):
    """The app's configuration, for Django."""

    name: Final = "molt_accel.django"
    label = "molt"
    verbose_name = "Molt Accel"

    def ready(self) -> None:
        """Follow changes of settings, which only tests make."""
        setting_changed.connect(_follow, dispatch_uid="molt_accel.follow_settings")


def _follow(*, setting: str, **kwargs: Any) -> None:
    del kwargs
    if setting.startswith("MOLT_"):
        forget_clients()
