"""The known state in which a worker begins, whatever process started it.

| of the process | in the worker |
|---|---|
| signals that are ignored or blocked | none: all as in a Python that was started from a shell |
| descriptors | standard input, output and error; others that were inherited are closed |
| real-time scheduling | the normal class: an executor that computes must not keep its supervisor from running |
| soft limit of open files | raised to `OPEN_FILES`: that of a shell would not be enough for what a server starts |
| other limits, niceness, processors, umask, directory, environment | inherited: they are how a service is set up |
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import signal
import sys
from typing import Final

from molt_accel.process.identity import open_files

_STREAMS: Final = {0: ("stdin", "r"), 1: ("stdout", "w"), 2: ("stderr", "w")}
#: Python itself ignores these, so that writing fails with an error instead.
_IGNORED: Final = frozenset({signal.SIGPIPE, *filter(None, (getattr(signal, "SIGXFSZ", None),))})
if sys.platform == "linux":
    _NORMAL_CLASSES: Final = frozenset({os.SCHED_OTHER, os.SCHED_BATCH, os.SCHED_IDLE})


def begin() -> None:
    """Put this process, which has no thread yet but this one, into that state."""
    _open_streams()
    _close_inherited()
    for number in signal.valid_signals() - _IGNORED:
        if signal.getsignal(number) is signal.SIG_IGN:  # a handler is none that could be inherited
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < open_files(hard):
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (open_files(hard), hard))
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # a sandbox forbids it
            if os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK not in _NORMAL_CLASSES:
                os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def _open_streams() -> None:
    """Open /dev/null as each standard stream that is closed: else the next file opened would get its number."""
    for fd, (name, mode) in _STREAMS.items():
        try:
            os.fstat(fd)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != fd:
                os.dup2(null, fd)
                os.close(null)
            os.set_inheritable(fd, True)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(fd, mode, closefd=False))


def _close_inherited() -> None:
    """Close what was open when this program began, and is no standard stream. Python's own descriptors are not
    inheritable."""
    for text in os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else ():
        fd = int(text)
        with contextlib.suppress(OSError):
            if fd > max(_STREAMS) and not fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC:
                os.close(fd)
