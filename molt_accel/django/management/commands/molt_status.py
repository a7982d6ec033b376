"""``manage.py molt_status``: what a pool is doing."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandParser

from molt_accel.django.management.pool_command import PoolCommand, words
from molt_worker.cli import status


class Command(PoolCommand):
    """Shows what a pool of the project is doing, once or live."""

    help = (
        "Shows what a pool of shared memory is doing. It only reads the pool's memory, which costs the pool nothing. "
        "Exit codes: 0 shown, 1 nobody serves the pool, 2 wrong usage or settings."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the options of ``molt-worker status``."""
        super().add_arguments(parser)
        status.add_options(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        """Run ``molt-worker status``."""
        config = self.config_of(options["pool"])
        self.run(config, "status", "--name", config.pool_name, *words(status.add_options, options))
