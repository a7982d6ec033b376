"""``manage.py molt_check``: the project's checks of its pools, and an import of their entrypoints."""

from __future__ import annotations

from typing import Any

from django.core.management import call_command

from molt_accel.django.management.pool_command import PoolCommand


class Command(PoolCommand):
    """Checks what can be checked before a server runs."""

    help = (
        "Runs the system checks with the tag 'molt', those of --deploy too, then imports a pool's entrypoints as its "
        "worker would, and lists them. Exit codes: 0 all is well, 1 a check failed, 2 they can't be imported."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        """Run ``check --tag molt --deploy``, then ``molt-worker --check``."""
        call_command("check", "--tag", "molt", "--deploy", stdout=self.stdout, stderr=self.stderr)
        self.run(self.config_of(options["pool"]), "--check")
