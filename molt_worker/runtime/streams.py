"""The standard streams of a process that was forked while other threads ran.

A thread that writes at the moment of the fork holds the stream's lock, and in the child nobody releases it: the first
`print` or log line there would wait for ever. Python renews the locks of `logging` at a fork, but not those of streams.
Agents that a `sitecustomize` starts are such threads, in every process.
"""

from __future__ import annotations

import io
import logging
import sys
from typing import Any, Final

from molt_worker.runtime.log import LossyFile

_kept: Final[list[Any]] = []  # a stream that is destroyed writes its buffer, which takes the lock


def renew() -> None:
    """Give this process streams of its own, with nothing buffered, in `sys` and in the handlers of `logging`.

    They are written line by line, because executors may be killed. What nobody takes any more is dropped, and what the
    encoding doesn't have is escaped: a `print` must not fail a request.
    """
    fresh: dict[int, io.TextIOWrapper] = {}
    for fd, name in ((1, "stdout"), (2, "stderr")):
        names = (name, f"__{name}__")
        old = [stream for each in names if isinstance(stream := getattr(sys, each), io.TextIOWrapper)]
        if not old:
            continue  # user code has put something else in its place
        buffer = io.BufferedWriter(LossyFile(fd, "w", closefd=False))
        new = io.TextIOWrapper(buffer, old[0].encoding, "backslashreplace", line_buffering=True)
        for each in names:
            if getattr(sys, each) in old:
                setattr(sys, each, new)
        _kept.extend(old)
        fresh.update((id(stream), new) for stream in old)
    for reference in logging._handlerList:  # type: ignore[attr-defined]  # every handler, of whatever logger
        handler = reference()
        if isinstance(handler, logging.StreamHandler) and id(handler.stream) in fresh:
            handler.stream = fresh[id(handler.stream)]  # its setStream would flush the old one
