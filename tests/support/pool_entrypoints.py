"""Entrypoints for tests of shared pools: those that all tests have, and some whose moment the test chooses."""

import contextlib
import os
import stat
import time
from pathlib import Path
from typing import Any

from molt_worker import export
from tests.support.entrypoints import (  # noqa: F401  # they are exported from here too
    announce_and_sleep,
    append,
    big,
    check_loop,
    clean_up,
    count_up,
    crash,
    echo,
    echo_raw,
    never_stops,
    pid,
    sleep,
    swallow_stop,
    wait_for_file,
)


@export(codec_out="raw")
def big_when(order: dict[str, Any]) -> bytes:
    """Says that it runs (path + .running), waits until the file exists, and returns so many bytes."""
    Path(order["path"] + ".running").write_text(str(os.getpid()))
    while not os.path.exists(order["path"]):
        time.sleep(0.001)
    return (bytes(range(251)) * (order["size"] // 251 + 1))[: order["size"]]


@export
def take_descriptors(path: str) -> int:
    """Close all pipes of others, and have their numbers stand for a file from now on. Returns how many it has."""
    limit = max(map(int, os.listdir("/proc/self/fd"))) + 1
    for fd in range(10, limit):
        with contextlib.suppress(OSError):
            if stat.S_ISFIFO(os.fstat(fd).st_mode):
                os.close(fd)
    fds = [os.open(path, os.O_WRONLY | os.O_CREAT)]
    while fds[-1] < limit:
        fds.append(os.dup(fds[-1]))
    return len(fds)
