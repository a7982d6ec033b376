"""The console script ``molt-worker``: hands its arguments to the command that they name."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from molt_worker.runtime.log import STDERR_FD


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Returns its exit code, of which 2 is always wrong usage, settings or exports."""
    _ensure_stderr()
    arguments = sys.argv[1:] if arguments is None else arguments
    command = arguments[0] if arguments else ""
    # Each command imports its own module only: a worker has no use for what `status` and `build` need.
    if command == "status":
        from molt_worker.cli import status

        return status.main(arguments[1:])
    if command == "build":
        from molt_worker.cli import build

        return build.main(arguments[1:])
    from molt_worker.cli import serve

    return serve.main(arguments)


def _ensure_stderr() -> None:
    """Open /dev/null as stderr if it is closed: else the next file opened would get its number, and the log."""
    try:
        os.fstat(STDERR_FD)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), STDERR_FD)
        sys.stderr = os.fdopen(STDERR_FD, "w", closefd=False)
