"""Entrypoints for tests of shared pools: those that all tests have, and some whose moment the test chooses."""

import os
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
