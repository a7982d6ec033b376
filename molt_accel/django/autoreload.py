"""Servers that reload themselves watch the modules that they have imported. Executors import others.

A server process that restarts attaches to its pool anew, and gets executors with the code that is there then. So all
that is needed is that it restarts when a source of its pools has changed.
"""

from __future__ import annotations

import functools
import importlib
import logging
import weakref
from pathlib import Path
from typing import Any, Final

from django.core.signals import request_finished
from django.utils.autoreload import BaseReloader

from molt_accel.client import Client, shared_clients
from molt_accel.config import Config, ConfigError, pool_names
from molt_accel.errors import MoltError

log: Final = logging.getLogger("molt_accel")


def source_files() -> list[str]:
    """Return the paths of the sources that the executors of this project's pools may import.

    They stand in the folders of the exports' modules, of the modules that this process has imported, and of those that
    the pools have imported that it has used.
    """
    # By name: the client library depends on the worker's for nothing else but calls inline.
    sources = importlib.import_module("molt_worker.processes.sources")
    told = [folder for client in shared_clients() for folder in _folders(client)]
    found: set[str] = set()
    for name in pool_names():
        try:
            found.update(sources.of_project(Config.load(pool=name).exports, told))
        except (MoltError, ConfigError, ValueError) as exc:
            log.warning("changes of the code of the pool %r are not watched: %s", name, exc)
    return sorted(found)


def watch(sender: BaseReloader, **kwargs: Any) -> None:
    """Have Django's reloader watch `source_files`, now and when a request was the first to use a pool.

    A receiver of ``autoreload_started``.
    """
    _add_files(sender)
    asked: weakref.WeakSet[Client] = weakref.WeakSet()
    request_finished.connect(functools.partial(_look, sender, asked), weak=False)


def _look(reloader: BaseReloader, asked: weakref.WeakSet[Client], **kwargs: Any) -> None:
    fresh = [client for client in shared_clients() if client not in asked and _folders(client)]
    if fresh:
        asked.update(fresh)
        _add_files(reloader)


def _folders(client: Client) -> list[str]:
    try:
        return client.folders()
    except MoltError:  # it can't start: the next request will tell
        return []


def _add_files(reloader: BaseReloader) -> None:
    # Another set, because the reloader's thread may be reading this one.
    reloader.extra_files = reloader.extra_files | {Path(file) for file in source_files()}
