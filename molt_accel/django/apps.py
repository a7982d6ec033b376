"""The app ``molt_accel.django``: with it installed, modules named `entrypoints` of the other apps are the exports."""

from __future__ import annotations

from typing import Final

from django.apps import AppConfig


class MoltConfig(AppConfig):
    """The app's configuration, for Django."""

    name: Final = "molt_accel.django"
    label = "molt"
    verbose_name = "Molt Accel"
