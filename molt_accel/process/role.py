"""What this process is to a worker: nothing, its fork server, or one of its executors.

A client that starts or attaches to pools must know it. The fork server imports the project's modules; if one of them
calls an entrypoint at import, and that started a worker, which imports the same modules, there would be no end of
workers. An executor that calls its own pool may wait for itself, and would keep the pool alive for ever.
"""

from __future__ import annotations

import enum

from molt_accel.config import Config
from molt_accel.errors import MoltStartFailed


class Role(enum.Enum):
    """What a process is."""

    NONE = enum.auto()
    FORKSERVER = enum.auto()
    EXECUTOR = enum.auto()


_role = Role.NONE
_own_pool = ""


def become(role: Role, pool: str) -> None:
    """Say what this process is from now on, and of which pool."""
    global _role, _own_pool
    _role, _own_pool = role, pool


def imports_exports() -> bool:
    """Whether this process imports the exports for executors that are forked from it."""
    return _role is Role.FORKSERVER


def check(config: Config) -> None:
    """Refuse a pool that this process must not call.

    Raises:
        MoltStartFailed: the exports are being imported, or it is this executor's own pool.
    """
    if _role is Role.FORKSERVER:
        raise MoltStartFailed(
            "an entrypoint is called while a worker imports the exports, which would start worker after worker; "
            "call it from a function, or below a main guard"
        )
    if _role is Role.EXECUTOR and config.pool_name == _own_pool:
        raise MoltStartFailed(
            f"an entrypoint calls the pool {_own_pool!r} that it runs in, where it may wait for itself; call the "
            "function itself, or use another pool"
        )
