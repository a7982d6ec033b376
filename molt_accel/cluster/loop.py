"""The event loop that a connection to a messaging system runs on: uvloop's, where it is installed.

A call to another host passes several turns of such loops, here and in the bridge, and uvloop's take less: `tox -e
bench-cluster` has rows for bare NATS on both.
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
