"""The exports that a worker serves if it is given none: enough to see that it works."""

from __future__ import annotations

import os
import sys
from typing import Any


def health(payload: object) -> dict[str, Any]:
    """Return the process id and Python version of the executor that answers. Accepts any payload."""
    return {"ok": True, "pid": os.getpid(), "python": sys.version.split()[0]}


def echo(payload: Any) -> Any:
    """Return the payload unchanged."""
    return payload
