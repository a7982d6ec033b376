"""Failpoints: named moments between two steps, where the kill matrix stops or kills a process.

A failpoint does nothing. The tests put another function in its place before any other module of the packages is
imported, so the source that they prove is the source that ships. Points on the path of every call stand in the native
core (`MOLT_FAILPOINT`), where a normal build compiles them away.
"""


def failpoint(name: str) -> None:
    """Mark the moment `name`, for example ``supervisor.killed``: who passes it, and which step is behind them."""
