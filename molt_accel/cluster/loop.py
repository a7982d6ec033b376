"""The event loop that a connection to a messaging system runs on: uvloop's, where it is installed.

A call to another host passes four turns of such loops. With uvloop its median over loopback falls by a seventh
(`tox -e bench-cluster`).
"""

from __future__ import annotations

import asyncio


def new_event_loop() -> asyncio.AbstractEventLoop:
    """Return a loop of its own for one thread, which that thread closes."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()
