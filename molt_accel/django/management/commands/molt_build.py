"""``manage.py molt_build``: compiles a pool's entrypoints to native code."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandParser

from molt_accel.django.management.pool_command import PoolCommand, words
from molt_worker.cli import build


class Command(PoolCommand):
    """Compiles the modules of a pool's entrypoints ahead of time."""

    help = (
        "Compiles the modules of a pool's entrypoints to native code (mypyc). Exit codes: 0 built, or up to date; "
        "1 --check found that it isn't, or the build failed; 2 wrong usage or entrypoints."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the options of ``molt-worker build``."""
        super().add_arguments(parser)
        build.add_options(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        """Run ``molt-worker build``."""
        self.run(self.config_of(options["pool"]), "build", *words(build.add_options, options))
