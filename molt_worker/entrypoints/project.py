"""The Django project that a worker belongs to, if it belongs to one: its set-up, its entrypoints, and its requests.

An executor does around each request what Django does around each request of a server, but for signals: there is no
HTTP request that ``request_started`` could tell of.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import os
import sys
from collections.abc import Callable, Sequence
from datetime import datetime, tzinfo
from typing import Any, Final

from molt_accel import codec
from molt_accel.ipc.messages import METADATA_LANGUAGE, METADATA_TIME_ZONE
from molt_accel.process import testdb
from molt_worker.entrypoints.exports import ExportsError
from molt_worker.entrypoints.importer import find_source
from molt_worker.entrypoints.request import current_request

#: The app that makes modules of this name in other apps the exports.
APP: Final = "molt_accel.django"
MODULE: Final = "entrypoints"
_SETTINGS: Final = "DJANGO_SETTINGS_MODULE"

#: Writes to the worker's log: a level, an event and its fields. The project's LOGGING may have silenced loggers.
Say = Callable[[str, str, dict[str, object]], object]


def _named() -> bool:
    """Whether this process has a Django project: one that is set up, or one that the environment names."""
    conf = sys.modules.get("django.conf")
    if conf is not None and conf.settings.configured:
        return True
    return bool(os.environ.get(_SETTINGS)) and importlib.util.find_spec("django") is not None


def exports_of(reference: str) -> str:
    """Return an exports reference, or what an empty one means in this process's project.

    That is the modules named `entrypoints` of the installed apps if the app `APP` is installed, without an import of
    them; else the reference stays empty, which means the packaged exports.

    Raises ExportsError: the settings can't be read, or `APP` is installed and no app has such a module.
    """
    if reference or not _named():
        return reference
    from django.apps import AppConfig
    from django.conf import settings

    try:
        # Not from the registry of apps: a build must be in use before Django's set-up imports models.
        apps = [AppConfig.create(entry) for entry in settings.INSTALLED_APPS]
        if not any(app.name == APP for app in apps):
            return ""
        found = [module for app in apps if find_source(module := f"{app.name}.{MODULE}")]
    except Exception as exc:
        raise ExportsError(f"INSTALLED_APPS: {type(exc).__name__}: {exc}") from exc
    if not found:
        raise ExportsError(
            f"no installed app has a module named {MODULE!r}; make one, and mark functions in it with "
            "@molt_worker.export (or set MOLT_EXPORTS)"
        )
    return ",".join(found)


def set_up() -> bool:
    """Set up Django in a worker if there is a project. Returns whether there is.

    Raises ExportsError: the settings or an app can't be imported; the cause is chained.
    """
    if not _named():
        return False
    import django

    try:
        django.setup()
        testdb.use()
    except KeyboardInterrupt:
        raise
    except BaseException as exc:  # settings and apps may raise anything, also SystemExit
        where = f"{_SETTINGS}={os.environ.get(_SETTINGS)}"
        raise ExportsError(f"Django can't be set up with {where}: {type(exc).__name__}: {exc}") from exc
    for handler in _handlers():
        handler.addFilter(_RequestIds())
    return True


class Requests:
    """What an executor does before and after each request of a project, in the request's own context.

    To look for the connections that a thread has costs as much as a small request. So it is done once for each: they
    are the same when the next one begins.
    """

    def __init__(self, say: Say) -> None:
        from django.core.cache import caches
        from django.db import connections

        self._say: Final = say
        self._opened_caches: Final = functools.partial(caches.all, initialized_only=True)
        self._closes_caches: Final = _cache_closes()
        self._connected: Final = functools.partial(connections.all, initialized_only=True)
        self._connections: Sequence[Any] = self._connected()

    def begin(self, metadata: bytes) -> None:
        """Do what Django does before a request, and activate the language and time zone that its metadata has.

        What fails is logged, and all else is done. Nothing that the project's backends raise ends the executor.
        """
        for connection in self._connections:
            try:
                connection.queries_log.clear()
                connection.close_if_unusable_or_obsolete()
            except BaseException as exc:
                self._failed_before(exc)
        try:
            if metadata:
                _activate(codec.decode_metadata(metadata))
        except BaseException as exc:
            self._failed_before(exc)

    def _failed_before(self, exc: BaseException) -> None:
        self._say("error", "before_request_failed", {"error": f"{type(exc).__name__}: {exc}"})

    def end(self, entry: str) -> None:
        """Do what Django does after a request. Transactions that the entrypoint has left open are rolled back.

        What fails is logged, and all else is done. The entrypoint has ended: nothing takes its result away any more.
        """
        self._connections = self._attempt(entry, self._connected) or ()
        for connection in self._connections:
            self._attempt(entry, self._end_transaction, connection, entry)
            self._attempt(entry, connection.close_if_unusable_or_obsolete)
        if self._closes_caches:
            for cache in self._attempt(entry, self._opened_caches) or ():
                self._attempt(entry, cache.close)

    def _attempt(self, entry: str, step: Callable[..., Any], *arguments: object) -> Any:
        """Return what a step of a request's end returns; None: it has failed."""
        try:
            return step(*arguments)
        except BaseException as exc:
            self._say(
                "error", "after_request_failed", {"entry": entry, "error": f"{type(exc).__name__}: {exc}"}
            )
            return None

    def _end_transaction(self, connection: Any, entry: str) -> None:
        if not _in_transaction(connection):
            return
        what: dict[str, object] = {"entry": entry, "database": connection.alias, "hint": "it is rolled back"}
        self._say("warning", "transaction_left_open", what)
        # Else `close` would keep the connection that it closes, and nothing would open another one.
        connection.in_atomic_block = False
        connection.atomic_blocks, connection.savepoint_ids = [], []
        if connection.closed_in_transaction or connection.connection is None:  # by the entrypoint
            connection.connection = None
            return
        try:
            # A database ends the transaction of a connection that is closed some time later; this waits for it.
            connection.rollback()
            connection.set_autocommit(connection.settings_dict["AUTOCOMMIT"])  # one in memory is never closed
        finally:
            connection.close()


def _cache_closes() -> bool:
    """Whether closing one of the project's caches does anything: for those that keep a connection."""
    from django.conf import settings
    from django.core.cache.backends.base import BaseCache
    from django.utils.module_loading import import_string

    try:
        classes = [import_string(cache["BACKEND"]) for cache in settings.CACHES.values()]
        return any(each.close is not BaseCache.close for each in classes)
    except Exception:  # whoever uses the cache is told
        return True


def _activate(told: codec.Metadata) -> None:
    from django.utils import timezone, translation

    language, time_zone = (told.get(each) for each in (METADATA_LANGUAGE, METADATA_TIME_ZONE))
    if language:
        translation.activate(str(language))
    elif language is not None:
        translation.deactivate_all()
    if time_zone:
        name = str(time_zone)
        timezone.activate(_offset(name) if name.startswith(("+", "-")) else name)


def _offset(text: str) -> tzinfo:
    offset = datetime.strptime(text, "%z").tzinfo
    assert offset is not None
    return offset


def _in_transaction(connection: Any) -> bool:
    if connection.in_atomic_block:  # also one whose connection a pool has back already
        return True
    is_open = connection.connection is not None
    return is_open and bool(connection.settings_dict["AUTOCOMMIT"] and not connection.autocommit)


def _handlers() -> set[logging.Handler]:
    loggers = [logging.root, *logging.root.manager.loggerDict.values()]
    return {handler for each in loggers if isinstance(each, logging.Logger) for handler in each.handlers}


class _RequestIds(logging.Filter):
    """Gives each record the id of the request, for formats with ``{request_id}``; a record's own stays."""

    def filter(self, record: logging.LogRecord) -> bool:
        if not hasattr(record, "request_id"):
            record.request_id = current_request().log_id
        return True
