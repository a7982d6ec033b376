"""What this process is to a worker: nothing, its fork server, or one of its executors.

A client that starts or attaches to pools must know it. The fork server imports the project's modules; if one of them
calls an entrypoint at import, and that started a worker, which imports the same modules, there would be no end of
workers. An executor that calls its own pool may wait for itself, and would keep the pool alive for ever. What is true
of them is true of the programs that they start, which learn it from the environment.
"""

from __future__ import annotations

import enum
import os
from typing import TYPE_CHECKING

from molt_accel.errors import MoltStartFailed

if TYPE_CHECKING:
    from molt_accel.config import Config

#: Tells programs that fork servers and executors start what they are part of: ``ROLE:POOL``. Workers start without it.
VARIABLE = "MOLT_ROLE"


class Role(enum.Enum):
    """What a process is."""

    NONE = enum.auto()
    FORKSERVER = enum.auto()
    EXECUTOR = enum.auto()


def _of_parent() -> tuple[Role, str]:
    name, _, pool = os.environ.get(VARIABLE, "").partition(":")
    return Role.__members__.get(name, Role.NONE), pool


_role, _own_pool = _of_parent()


def become(role: Role, pool: str) -> None:
    """Say what this process is from now on, and of which pool."""
    global _role, _own_pool
    _role, _own_pool = role, pool
    os.environ[VARIABLE] = "" if role is Role.NONE else f"{role.name}:{pool}"


def imports_exports() -> bool:
    """Whether this process imports the exports for executors that are forked from it."""
    return _role is Role.FORKSERVER


def is_nested() -> bool:
    """Whether this process belongs to a worker, and must not keep other pools alive by itself."""
    return _role is not Role.NONE


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
