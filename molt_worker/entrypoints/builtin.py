"""The packaged exports: enough to see that a worker works."""

from __future__ import annotations

import os
import sys
from typing import Any


def health(payload: object) -> dict[str, Any]:
    """Says which executor answered. Takes anything."""
    return {"ok": True, "pid": os.getpid(), "python": sys.version.split()[0]}


def echo(payload: Any) -> Any:
    """Returns what it is given."""
    return payload
