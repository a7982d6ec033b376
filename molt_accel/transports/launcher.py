"""Starts a worker or attaches to one: with which command, in which process, how soon after a death."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from typing import Final

from molt_accel.config import Config
from molt_accel.errors import (
    AlreadyServed,
    MoltError,
    MoltStartFailed,
    MoltWorkerUnavailable,
    Status,
    from_wire,
    start_failure,
)
from molt_accel.ipc import control
from molt_accel.ipc.failpoint import failpoint
from molt_accel.ipc.frame import Fault, FrameError, FrameParser
from molt_accel.ipc.messages import STDIO_FROM_WORKER, StartFailed
from molt_accel.ipc.outcomes import exit_text, other_protocol
from molt_accel.ipc.shm.attach import connect
from molt_accel.process import identity
from molt_accel.transports import interpreter

#: After a worker that was ready and lived this long, the next one is started at once.
STABLE_S: Final = 1.0
FIRST_BACKOFF_S: Final = 0.1
MAX_BACKOFF_S: Final = 5.0
#: Failed starts in a row after which a start is tried only every LIMIT_BACKOFF_S.
RESTART_LIMIT: Final = 10
LIMIT_BACKOFF_S: Final = 30.0
_PIPE_BYTES: Final = 1024 * 1024
#: How long to wait for another process that starts the pool, and for another worker that has begun to serve it.
_STARTER_S: Final = 10.0
_TAKEOVER_S: Final = 1.0
_LAST_LINES: Final = 5  #: how much of what it wrote an error of a worker that didn't start has
_LOOK_S: Final = 0.01  #: how often to look whether a worker listens by now


class NeverListened(MoltStartFailed):
    """The worker was started, and nobody listens. The client tries again a few times: it may have stopped since."""


def worker_command(config: Config) -> list[str]:
    """Return the command that starts a worker: the configured one, else `molt-worker`.

    The script beside this environment's interpreter goes before the one on PATH, which may be of another environment.

    Raises:
        MoltStartFailed: nothing is configured, and there is neither.
    """
    configured = shlex.split(config.worker_cmd)
    if configured:
        return configured
    python = interpreter.find()
    beside = shutil.which("molt-worker", path=os.path.dirname(python)) if python else None
    script = beside or shutil.which("molt-worker")
    if script:
        return [script]
    if python:
        return [python, "-m", "molt_worker"]
    raise MoltStartFailed(
        f"no Python of this environment ({sys.prefix}) is found to start a worker with; this program is "
        f"{sys.executable or 'unknown'!r}. Set MOLT_WORKER_CMD, for example to '/path/to/python -m molt_worker'"
    )


def worker_environ(config: Config) -> dict[str, str]:
    """Return the environment of a worker that serves a pool of shared memory for this process and others like it.

    Raises MoltStartFailed: the working directory was deleted.
    """
    # Not its name, which a client in an entrypoint would take for the name of the pool that it wants.
    environ = {**config.inherited.environ, **config.environ(), "MOLT_TRANSPORT": "shm"}
    environ[identity.STARTER] = json.dumps(config.identity())
    return environ


def start_stdio_worker(config: Config) -> subprocess.Popen[bytes]:
    """Start a worker that speaks frames on its stdin and stdout. Its stderr is this process's.

    Raises MoltStartFailed if the command can't be run.
    """
    environ = {**config.inherited.environ, **config.environ(), "MOLT_TRANSPORT": "stdio"}
    # A private worker ends with its client, so it may write where the client does.
    process = _run(worker_command(config), subprocess.PIPE, environ, stderr=None)
    for pipe in (process.stdin, process.stdout):
        assert pipe is not None  # both were asked for
        os.set_blocking(pipe.fileno(), False)
        if hasattr(fcntl, "F_SETPIPE_SZ"):
            with contextlib.suppress(OSError):  # over the user's quota for pipes: the default size serves too
                fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    return process


def _run(
    command: list[str], stdin: int, environ: dict[str, str], *, stderr: int | None
) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            command,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=stderr,
            bufsize=0,
            env=environ,
            # So that Ctrl-C in a terminal reaches the server only, which then stops the worker.
            start_new_session=True,
        )
    except OSError as exc:
        raise MoltStartFailed(
            f"can't start the worker with {shlex.join(command)!r}: {exc.strerror}; set MOLT_WORKER_CMD, "
            "or install molt-accel where molt-worker is on PATH"
        ) from exc


def attach_or_start(config: Config, not_before_s: float = 0.0) -> socket.socket:
    """Connect to the control socket of the configured pool. Start the pool if no worker serves it.

    Any number of processes may do this at once: one of them starts the pool, and the others find it. If that one is
    killed or stopped, another one starts the pool. If there are two workers, a lock of theirs decides which one serves.

    Args:
        config: The configuration.
        not_before_s: Start no pool before this time (of time.monotonic); only look whether another process has.

    Raises:
        MoltStartFailed: the worker can't start; NoSharedMemory if only another transport can help.
        MoltWorkerUnavailable: the worker can't be reached or started.
    """
    directory, name = config.pool_directory, config.pool_name
    control.ensure_directory(directory)
    path = control.socket_path(directory, name)
    sock = connect(path)
    if sock is not None:
        return sock
    if not config.autostart:
        raise MoltWorkerUnavailable(
            f"nobody serves the pool {name!r} ({path}), and MOLT_WORKER_AUTOSTART is off; start it with "
            f"molt-worker --shm {name}"
        )
    until_s = time.monotonic() + config.start_timeout_ms / 1000
    lock_fd, sock = _become_starter(directory, name, path, until_s)
    try:
        while sock is None:
            while (sock := connect(path)) is None and time.monotonic() < min(until_s, not_before_s):
                time.sleep(_LOOK_S)
            if sock is not None:
                return sock
            failpoint("client.starting")
            try:
                _start_pool(config, name)
            except AlreadyServed:
                if time.monotonic() >= until_s:
                    raise
                not_before_s = time.monotonic() + _TAKEOVER_S
            else:
                sock = connect(path)
                if sock is None:
                    raise NeverListened(
                        f"the pool {name!r} was started, but does not listen on {path}; see its log"
                    )
    finally:
        if lock_fd is not None:
            os.close(lock_fd)
    return sock


def _become_starter(
    directory: str, name: str, path: str, until_s: float
) -> tuple[int | None, socket.socket | None]:
    """Wait until no other process starts the pool, or until it is served.

    A process that takes too long to start it may have been stopped; then this one goes ahead without the lock.

    Returns:
        The descriptor of the starter's lock, if it was free in time; and a socket, if a worker serves the pool.
    """
    until_s = min(until_s, time.monotonic() + _STARTER_S)
    while True:
        try:
            lock_fd = control.lock(directory, name, "starter", wait=False)
        except OSError as exc:
            raise control.no_place(f"can't lock {directory}/{name}.starter", exc) from exc
        try:
            sock = connect(path)  # another process may have started the pool meanwhile
        except BaseException:
            if lock_fd is not None:
                os.close(lock_fd)
            raise
        if lock_fd is not None or sock is not None or time.monotonic() >= until_s:
            return lock_fd, sock
        time.sleep(_LOOK_S)


def _start_pool(config: Config, name: str) -> None:
    """Start a pool and wait until it listens. From then on it belongs to no client, and outlives this one."""
    command = [*worker_command(config), "--shm", name, "--linger"]
    environ = worker_environ(config)
    with contextlib.ExitStack() as stack:
        said = None  # what the worker writes to standard error before it opens its log
        if config.log_file(outlives=True):
            said = os.memfd_create("molt-start")
            stack.callback(os.close, said)
        process = stack.enter_context(_run(command, subprocess.DEVNULL, environ, stderr=said))
        try:
            # The worker closes its stdout when it listens. Before that it may write why it can't.
            words, _ = process.communicate(timeout=config.start_timeout_ms / 1000)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise MoltStartFailed(
                f"the worker can't start: {shlex.join(command)!r} did not listen within "
                f"{config.start_timeout_ms} ms; {_last_lines(said)}"
            ) from None
        if process.returncode or words:
            raise _refusal(words, f"{how_it_exited(process.returncode)}; {_last_lines(said)}")


def _last_lines(said: int | None) -> str:
    """What a worker that didn't start wrote last, as the end of a sentence."""
    text = "" if said is None else os.pread(said, os.fstat(said).st_size, 0).decode(errors="replace")
    lines = text.strip().splitlines()[-_LAST_LINES:]
    return "it wrote: " + " | ".join(lines) if lines else "see its log"


def _refusal(words: bytes, otherwise: str) -> MoltWorkerUnavailable:
    parser = FrameParser(messages=STDIO_FROM_WORKER)
    parser.feed(words)
    for item in parser.frames():
        if isinstance(item, StartFailed):
            return start_failure(from_wire(Status.INTERNAL_ERROR, item.error))
        if isinstance(item, FrameError) and item.fault is Fault.VERSION:
            return other_protocol(item.detail)
    return MoltStartFailed(f"the worker can't start: {otherwise}")


def how_it_exited(code: int) -> str:
    """A sentence for a process's exit code, which is negative for a signal."""
    return f"it exited with code {code}" if code >= 0 else f"it was killed by {exit_text(code)}"


class RestartPolicy:
    """Decides when a worker may be started again.

    After a worker that lived, it is at once; after one that died when it was just ready, after a short pause. After
    failed starts the pauses grow, and after RESTART_LIMIT of them in a row they are long.

    Times are seconds of one monotonic clock. Not thread-safe: its owner holds a lock.
    """

    def __init__(self) -> None:
        self.failed_starts = 0
        self.not_before_s = 0.0  #: before this time nothing may be started
        self._kind = MoltWorkerUnavailable  # of the error that the last worker ended with
        self._reason = ""

    def check(self, now_s: float) -> None:
        """Raise MoltWorkerUnavailable, of the last worker's kind, if it is too early for another start."""
        if now_s < self.not_before_s:
            left_s = self.not_before_s - now_s
            raise self._kind(f"{self._reason} (the next start is tried in {left_s:.1f} s)")

    def died(self, now_s: float, lived_s: float, error: MoltError, *, was_ready: bool) -> None:
        """Note that a worker ended `lived_s` seconds after its start."""
        self._kind = type(error) if isinstance(error, MoltWorkerUnavailable) else MoltWorkerUnavailable
        self._reason = error.detail
        if was_ready:
            self.failed_starts = 0
            delay = 0.0 if lived_s >= STABLE_S else FIRST_BACKOFF_S
        else:
            self.failed_starts += 1
            delay = min(MAX_BACKOFF_S, FIRST_BACKOFF_S * 2 ** (self.failed_starts - 1))
            if self.failed_starts > RESTART_LIMIT:
                delay = LIMIT_BACKOFF_S
        self.not_before_s = now_s + delay
