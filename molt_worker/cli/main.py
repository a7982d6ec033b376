"""The console script ``molt-worker``: hands its arguments to the command that they name."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from molt_worker.runtime import process


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Returns its exit code, of which 2 is always wrong usage, settings or exports."""
    if arguments is None:
        process.begin()
        arguments = sys.argv[1:]
    command = arguments[0] if arguments else ""
    # Each command imports its own module only: a worker has no use for what `status` and `build` need.
    if command == "status":
        from molt_worker.cli import status

        return status.main(arguments[1:])
    if command == "build":
        from molt_worker.cli import build

        return build.main(arguments[1:])
    if command == "bridge":
        from molt_worker.cli import bridge

        return bridge.main(arguments[1:])
    from molt_worker.cli import serve

    return serve.main(arguments)
