"""``manage.py molt_check``: the project's checks of its pools, and an import of their entrypoints."""

from __future__ import annotations

import contextlib
from typing import Any

from django.core.management import call_command

from molt_accel.django.management.pool_command import PoolCommand
from molt_worker.entrypoints.exports import ExportsError, look_in, resolve
from molt_worker.entrypoints.project import exports_of


class Command(PoolCommand):
    """Checks what can be checked before a server runs."""

    help = (
        "Imports a pool's entrypoints, runs the system checks with the tag 'molt', those of --deploy too, and lists "
        "the entrypoints as the pool's worker finds them. Exit codes: 0 all is well, 1 a check failed, 2 the "
        "entrypoints can't be imported."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        """Run ``check --tag molt --deploy``, then ``molt-worker --check``."""
        config = self.config_of(options["pool"])
        with contextlib.suppress(ExportsError):  # the checks, or the worker, say so
            look_in(config.path)
            resolve(exports_of(config.exports))  # so that the checks need not guess what they offer
        call_command("check", "--tag", "molt", "--deploy", stdout=self.stdout, stderr=self.stderr)
        self.run(config, "--check")
