"""The app ``molt_accel.django``: with it installed, modules named `entrypoints` of the other apps are the exports."""

from __future__ import annotations

from typing import Any, Final

from django.apps import AppConfig
from django.core.checks import CheckMessage, Tags, register
from django.utils.autoreload import autoreload_started

from molt_accel.django import autoreload


class MoltConfig(AppConfig):
    """The app's configuration, for Django."""

    name: Final = "molt_accel.django"
    label = "molt"
    verbose_name = "Molt Accel"

    def ready(self) -> None:
        """Have ``runserver`` watch the pools' sources too, and ``check`` look at the pools."""
        autoreload_started.connect(autoreload.watch)
        register(_check_pools, "molt")
        register(_check_deployment, "molt", Tags.security, deploy=True)


# Imported as they run: a server has no use for what they need of the worker's packages.


def _check_pools(**_: Any) -> list[CheckMessage]:
    from molt_accel.django import checks

    return checks.check_pools()


def _check_deployment(**_: Any) -> list[CheckMessage]:
    from molt_accel.django import checks

    return checks.check_deployment()
