"""The language and time zone that are active, which travel with a call if they are not those of the settings.

Where nothing is active, which is so for most requests, to ask Django costs as much as the whole call: it finds that
out by exceptions. But whatever activates something sets a context variable. So the variables are looked at, and Django
is asked only where one is set.
"""

from __future__ import annotations

import contextvars
import datetime
import functools
import zoneinfo
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from django.conf import settings
from django.core.signals import setting_changed
from django.dispatch import receiver
from django.utils import timezone, translation

from molt_accel.ipc.messages import METADATA_LANGUAGE, METADATA_TIME_ZONE

Variables = tuple[contextvars.ContextVar[Any], ...]
_UNSET: Final = object()


def active_metadata() -> dict[str, Any]:
    """Return the active language and time zone, if they are not those of the settings."""
    metadata: dict[str, Any] = {}
    if _may_be_set(_of_language):
        language = translation.get_language()
        if language != settings.LANGUAGE_CODE:
            metadata[METADATA_LANGUAGE] = language or ""  # empty: nothing is translated
    if _may_be_set(_of_time_zone) and settings.USE_TZ:
        time_zone = _travelling(timezone.get_current_timezone())
        if time_zone != settings.TIME_ZONE:
            metadata[METADATA_TIME_ZONE] = time_zone
    return metadata


def _travelling(time_zone: datetime.tzinfo) -> str:
    """What a time zone is called on the way: its name, or its offset from UTC if that is fixed, such as ``+0200``."""
    if isinstance(time_zone, zoneinfo.ZoneInfo) and time_zone.key:
        return time_zone.key
    if isinstance(time_zone, datetime.timezone) and time_zone is not datetime.UTC:
        return f"{datetime.datetime.now(time_zone):%z}"
    return timezone.get_current_timezone_name()


@functools.cache
def _of_language() -> Variables:
    return _set_by(translation.deactivate_all)  # despite its name it activates one, which translates nothing


@functools.cache
def _of_time_zone() -> Variables:
    return _set_by(timezone.activate, datetime.UTC)


@receiver(setting_changed)
def _forget(**_: object) -> None:
    """Learn it anew: with other settings, which tests override, Django keeps the language in another variable."""
    _of_language.cache_clear()
    _of_time_zone.cache_clear()


def _set_by(activate: Callable[..., object], *args: object) -> Variables:
    """The context variables that a function sets. None: it keeps what is active elsewhere, or keeps nothing.

    It is called in a thread of its own, so that it activates nothing here wherever it keeps that.

    Raises RuntimeError: no thread can be started; and what the function raises.
    """
    context = contextvars.Context()
    with ThreadPoolExecutor(1) as thread:
        thread.submit(context.run, activate, *args).result()
    return tuple(context)


def _may_be_set(find: Callable[[], Variables]) -> bool:
    try:
        variables = find()
    except Exception:  # the next call tries again
        return True
    for variable in variables:  # mostly one: `any` would cost more than the look
        if variable.get(_UNSET) is not _UNSET:
            return True
    return not variables
