"""A bare client for the case `serve`: publishes one request after the other on the arena that it inherits.

python -m bench.instructions.feeder DESCRIPTOR
"""

from __future__ import annotations

import sys
import time
from typing import Any

from molt_accel.ipc.messages import Codec, Request
from molt_accel.ipc.shm import arena
from molt_accel.ipc.shm.layout import NEVER

_TIMEOUT_NS = 30_000_000_000


def main() -> None:
    """Publish until this process is killed."""
    core: Any = arena.native()
    channel = core.Channel(arena.attach(int(sys.argv[1])), 0, 65536)
    number = 0
    while True:
        number += 1
        now_ns = time.monotonic_ns()
        deadline_ns = now_ns + _TIMEOUT_NS
        channel.publish(Request(number, "echo", b"\x07", Codec.MSGPACK, 0, deadline_ns, now_ns), 1, 0)
        channel.wait(NEVER)
        channel.take()
        channel.clear()


if __name__ == "__main__":
    main()
