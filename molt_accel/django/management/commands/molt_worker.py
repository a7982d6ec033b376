"""``manage.py molt_worker``: runs a pool of shared memory in the foreground."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandError

from molt_accel.django.management.pool_command import NOT_RUN, PoolCommand


class Command(PoolCommand):
    """Runs the worker that the project's views would start, until it is told to stop."""

    help = (
        "Runs a pool's worker in the foreground (Linux), for systemd, a container or a terminal. Views of this project "
        "find it, and start none of their own while it runs. SIGTERM finishes what was accepted, SIGINT stops at once, "
        "SIGHUP imports the entrypoints anew without losing a request."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        """Become the worker."""
        config = self.config_of(options["pool"])
        if config.transport in ("stdio", "inline"):
            text = (
                f"MOLT_TRANSPORT is {config.transport}: views would not look for this pool; set it to auto or shm, or "
                "leave the worker to the server, which starts its own"
            )
            raise CommandError(text, returncode=NOT_RUN)
        self.run(config, "--shm", config.pool_name, replace=True)
