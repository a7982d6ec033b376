"""``manage.py molt_build``: compiles a pool's entrypoints to native code."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandParser

from molt_accel.django.management.pool_command import PoolCommand


class Command(PoolCommand):
    """Compiles the modules of a pool's entrypoints ahead of time."""

    help = (
        "Compiles the modules of a pool's entrypoints to native code (mypyc). Exit codes: 0 built, or up to date; "
        "1 --check found that it isn't, or the build failed; 2 wrong usage or entrypoints."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the options of ``molt-worker build``."""
        super().add_arguments(parser)
        parser.add_argument(
            "--check", action="store_true", help="build nothing; say if the build is up to date"
        )
        parser.add_argument("--strict", action="store_true", help="fail if a module is left in Python")
        parser.add_argument(
            "--include",
            action="append",
            default=[],
            metavar="MODULE",
            help="compile this module or package too, if the entrypoints import it; repeatable",
        )
        parser.add_argument(
            "--verify",
            metavar="CALLS",
            help="run the calls of this file in Python and compiled, and leave modules in Python that answer otherwise",
        )
        parser.add_argument("--force", action="store_true", help="build anew what is up to date")

    def handle(self, *args: Any, **options: Any) -> None:
        """Run ``molt-worker build``."""
        given = [f"--{flag}" for flag in ("check", "strict", "force") if options[flag]]
        given += [word for module in options["include"] for word in ("--include", module)]
        given += ["--verify", options["verify"]] if options["verify"] else []
        self.run(self.config_of(options["pool"]), "build", *given)
