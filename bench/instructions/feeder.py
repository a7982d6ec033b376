"""A bare client for the case `serve`: publishes one request after the other on the arena that it inherits.

python -m bench.instructions.feeder DESCRIPTOR
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from molt_accel.ipc.messages import Codec, Request
from molt_accel.ipc.shm import arena

_TIMEOUT_NS = 30_000_000_000
_LOOK_NS = 1_000_000_000  # how often it looks whether its parent is there


def main() -> None:
    """Publish until this process is killed, or its parent has ended."""
    core: Any = arena.native()
    channel = core.Channel(arena.attach(int(sys.argv[1])), 0, 65536)
    number, parent = 0, os.getppid()
    while True:
        number += 1
        now_ns = time.monotonic_ns()
        deadline_ns = now_ns + _TIMEOUT_NS
        channel.publish(Request(number, "echo", b"\x07", Codec.MSGPACK, 0, deadline_ns, now_ns), 1, 0)
        while channel.wait(time.monotonic_ns() + _LOOK_NS) != core.OUTCOME:
            if os.getppid() != parent:
                return
        channel.take()
        channel.clear()


if __name__ == "__main__":
    main()
