"""What the management commands share: they run `molt-worker` for a pool of the project, with the project's settings."""

from __future__ import annotations

import argparse
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from django.core.management.base import BaseCommand, CommandError, CommandParser

from molt_accel.config import Config, ConfigError, pool_names
from molt_accel.errors import MoltError
from molt_accel.transports.launcher import worker_command, worker_environ

NOT_RUN: Final = 2  #: the exit code of molt-worker for wrong usage, settings or exports


class PoolCommand(BaseCommand):
    """A command about one pool. Its own options go on to `molt-worker`."""

    #: A worker must be able to run where a check of the project fails, and tells what is wrong itself.
    requires_system_checks: Any = ()

    def add_arguments(self, parser: CommandParser) -> None:
        """Add ``--pool``."""
        parser.add_argument(
            "--pool", default="default", help=f"which of MOLT_POOLS (here: {', '.join(_known())})"
        )

    def config_of(self, pool: str) -> Config:
        """Return a pool's configuration. Raises CommandError: a setting is not valid."""
        try:
            return Config.load(pool=pool)
        except ConfigError as exc:
            raise CommandError(str(exc), returncode=NOT_RUN) from exc

    def run(self, config: Config, *arguments: str, replace: bool = False) -> None:
        """Run ``molt-worker`` with these arguments, as the worker of a pool would be run.

        Args:
            replace: In the place of this process, so that signals reach it. Then this doesn't return.

        Raises CommandError, with its exit code: it failed.
        """
        try:
            command, environ = [*worker_command(config), *arguments], worker_environ(config)
        except MoltError as exc:
            raise CommandError(exc.detail, returncode=NOT_RUN) from exc
        try:
            if replace:
                self.stdout.flush()
                os.execvpe(command[0], command, environ)  # the project's own worker
            done = subprocess.run(command, env=environ, check=False)
        except OSError as exc:
            text = f"can't run {command[0]}: {exc.strerror}; set MOLT_WORKER_CMD"
            raise CommandError(text, returncode=NOT_RUN) from exc
        if done.returncode:
            # molt-worker has said why.
            raise SystemExit(done.returncode if done.returncode > 0 else 128 - done.returncode)


def words(
    add_options: Callable[[argparse.ArgumentParser], None], options: Mapping[str, Any]
) -> Iterator[str]:
    """Return options that were parsed as words again, for the command of `molt-worker` whose options they are."""
    parser = argparse.ArgumentParser(add_help=False)
    add_options(parser)
    for action in parser._actions:
        flag, value = action.option_strings[0], options[action.dest]
        for each in value if isinstance(value, list) else [value]:
            if each is True:
                yield flag
            elif each is not None and each is not False:
                yield f"{flag}={each}"


def _known() -> list[str]:
    try:
        return pool_names()
    except Exception:  # settings may raise anything; the command itself says so
        return ["default"]
