"""The worker's log on stderr: one line for each event, as text or as JSON.

Executors and fork server log by `write_blocking`, the supervisor by `LogSink`. `LogSink` never blocks, because a full
stderr pipe must not stop requests. It drops and counts the lines that it can't write. A poll before the write is not
enough: an executor may fill the pipe in between.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import select
import stat
import time
from collections import deque
from typing import TYPE_CHECKING, Final

from molt_accel.config import Config

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer

STDERR_FD: Final = 2
#: A pipe that polls writable takes this many bytes without blocking (POSIX).
_ATOMIC_BYTES: Final = select.PIPE_BUF
_MAX_LINES: Final = 1000
#: Characters of the longest value in a line. A longer value keeps its first and its last half of this.
_MAX_VALUE: Final = 16_384
_PREVIOUS: Final = ".1"  #: what is appended to a log file's name for what was in it before
_MAX_FILE_BYTES: Final = 4 * 1024 * 1024
#: To open a pipe must not block, and a terminal must not become this process's own.
_NO_SURPRISE: Final = os.O_NONBLOCK | os.O_NOCTTY
_LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}


def format_line(as_json: bool, level: str, event: str, fields: dict[str, object]) -> bytes:
    """Return one log line. Long values are cut, so that no line can flood the log."""
    now = time.time()
    fields = {key: _cut(value) if isinstance(value, str) else value for key, value in fields.items()}
    if as_json:
        row = {"ts": round(now, 6), "level": level, "event": event, **fields}
        return json.dumps(row, default=str, separators=(",", ":")).encode() + b"\n"
    # In UTC: the local time of executors is what the project's TIME_ZONE has made of it.
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now * 1000) % 1000:03d}Z"
    text = " ".join(f"{key}={_plain(value)}" for key, value in fields.items())
    return f"{stamp} molt-worker {level} {event} {text}\n".encode(errors="backslashreplace")


def _cut(text: str) -> str:
    if len(text) <= _MAX_VALUE:
        return text
    half = _MAX_VALUE // 2
    return f"{text[:half]} [{len(text) - 2 * half} characters left out] {text[-half:]}"


def _plain(value: object) -> str:
    text = str(value)
    return text if text and text.isprintable() and " " not in text else json.dumps(text)


def write_blocking(config: Config, level: str, event: str, fields: dict[str, object]) -> None:
    """Log from an executor or the fork server. Both may block on stderr."""
    if _LEVELS[level] < _LEVELS[config.log_level]:
        return
    line = format_line(config.log_json, level, event, fields)
    if _own_file:
        mend_stderr()
    try:
        os.write(STDERR_FD, line)
    except OSError:  # stderr is gone, so nobody can be told
        mend_stderr()


#: The file that standard error was moved to, in this process or before it was forked, and flags to open it with.
_own_file: tuple[str, int] | None = None


def mend_stderr() -> None:
    """Have standard error, and standard output where it is the same, take what is written.

    A log file that was removed is made again. Where nobody reads any more, everything is dropped: what entrypoints
    and the programs that they start print must not fail a request.
    """
    poll = select.poll()
    poll.register(STDERR_FD, 0)
    with contextlib.suppress(OSError):
        if any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0)):
            fd = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        elif _own_file and not os.fstat(STDERR_FD).st_nlink:
            fd = _open(*_own_file)
        else:
            return
        both = os.path.sameopenfile(1, STDERR_FD)
        os.dup2(fd, STDERR_FD)
        if both:
            os.dup2(fd, 1)
        os.close(fd)


def _open(path: str, flags: int) -> int:
    """Open a log file. Raises OSError: it can't be, or is a pipe or socket, which may block or lose its reader."""
    try:
        fd = os.open(
            path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | _NO_SURPRISE | flags, 0o600
        )
    except OSError as exc:
        if exc.errno == errno.ENXIO:
            raise _no_file() from exc
        raise
    mode = os.fstat(fd).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISCHR(mode):  # /dev/null is one of these
        os.close(fd)
        raise _no_file()
    os.set_blocking(fd, True)
    return fd


def _no_file() -> OSError:
    return OSError(errno.EINVAL, "it is no regular file")


class LossyFile(io.FileIO):
    """A file that takes everything, and drops what it can't write."""

    def write(self, data: Buffer) -> int:
        try:
            written = super().write(data)
            # None: it would have to wait, because somebody has made the descriptor non-blocking.
            if written is not None:
                return written
        except OSError:
            mend_stderr()
        return memoryview(data).nbytes


def _own_end(fd: int) -> int:
    """Open the pipe at `fd` again, so that O_NONBLOCK applies to this process only. If not possible, return `fd`."""
    try:
        if stat.S_ISFIFO(os.fstat(fd).st_mode):
            return os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK)
    except OSError:  # not Linux, another user's pipe, or nobody reads it
        pass
    return fd


class LogSink:
    """The supervisor's log. It writes to `fd` only what `fd` takes without blocking."""

    def __init__(self, *, as_json: bool, level: str, fd: int = STDERR_FD) -> None:
        self.as_json = as_json
        self._threshold = _LEVELS[level]
        self._given_fd = fd
        self._fd = _own_end(fd)
        self._lines: deque[bytes] = deque()
        self._dropped = 0
        self._bounded = ""  # the path of the log file, if this object keeps it small
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)

    def wants(self, level: str) -> bool:
        """Whether lines of this level are written at all."""
        return _LEVELS[level] >= self._threshold

    def log(self, level: str, event: str, /, **fields: object) -> None:
        """Queue a line, and write as much as stderr takes without blocking."""
        if not self.wants(level):
            return
        if len(self._lines) >= _MAX_LINES:
            self._dropped += 1
            return
        line = format_line(self.as_json, level, event, fields)
        for start in range(0, len(line), _ATOMIC_BYTES):
            self._lines.append(line[start : start + _ATOMIC_BYTES])
        self.flush()

    def move_to(self, path: str, *, bounded: bool) -> None:
        """Make a file standard error, of this process and those that it forks, and log there.

        Args:
            path: The file. What was written to standard error so far is moved there, if that was a file of its own.
            bounded: Begin with an empty file, and keep the present one beside it, now and whenever it is full.

        Raises OSError: the file can't be opened, or is a pipe.
        """
        if bounded:
            with contextlib.suppress(FileNotFoundError):
                os.replace(path, path + _PREVIOUS)
        global _own_file  # standard error is one for the process, too
        own_file = os.path.abspath(path), os.O_NOFOLLOW * bounded
        fd = _open(*own_file)
        with contextlib.suppress(OSError):  # it can't be read
            os.write(fd, os.pread(STDERR_FD, _MAX_VALUE, 0))
        os.dup2(fd, STDERR_FD)
        os.close(fd)
        self.close()
        self._fd = self._given_fd = STDERR_FD
        self._bounded = path if bounded else ""
        _own_file = own_file

    def bound(self) -> None:
        """If the log file was removed, make it again. If it is full, move what is in it to the file beside it."""
        if _own_file:
            mend_stderr()
        if self._bounded and os.fstat(STDERR_FD).st_size > _MAX_FILE_BYTES:
            previous = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
            # The worker's other processes have the file open for appending, so it can only be emptied.
            with contextlib.suppress(OSError), open(f"/proc/self/fd/{STDERR_FD}", "rb") as file:
                file.seek(-_MAX_FILE_BYTES, os.SEEK_END)
                with open(os.open(self._bounded + _PREVIOUS, previous, 0o600), "wb") as kept:
                    kept.write(file.read(_MAX_FILE_BYTES))
            os.truncate(STDERR_FD, 0)

    @property
    def pending(self) -> bool:
        """Whether lines wait for stderr."""
        return bool(self._lines)

    def flush(self) -> None:
        """Write queued pieces until stderr takes no more."""
        while self._lines and self._poll.poll(0):
            try:
                os.write(self._fd, self._lines[0])
            except BlockingIOError:
                return
            except OSError:
                self._lines.clear()  # stderr is gone
                return
            self._lines.popleft()
        if self._dropped and not self._lines:
            dropped, self._dropped = self._dropped, 0
            self.log("warning", "log_lines_dropped", count=dropped)

    def close(self) -> None:
        """Close the descriptor, if this object has opened it."""
        if self._fd != self._given_fd:
            os.close(self._fd)
