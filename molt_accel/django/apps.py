"""The app ``molt_accel.django``: with it installed, modules named `entrypoints` of the other apps are the exports."""

from __future__ import annotations

from typing import Final

from django.apps import AppConfig
from django.utils.autoreload import autoreload_started

from molt_accel.django import autoreload


class MoltConfig(AppConfig):
    """The app's configuration, for Django."""

    name: Final = "molt_accel.django"
    label = "molt"
    verbose_name = "Molt Accel"

    def ready(self) -> None:
        """Have ``runserver`` watch the pools' sources too."""
        autoreload_started.connect(autoreload.watch)
