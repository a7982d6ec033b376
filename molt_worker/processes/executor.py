"""An executor process: takes requests from its endpoint, one at a time, on its main thread."""

from __future__ import annotations

import contextlib
import contextvars
import ctypes
import functools
import os
import signal
from typing import Final

from molt_accel.config import Config
from molt_accel.errors import MoltInvalidInput, Status
from molt_accel.ipc.failpoint import failpoint
from molt_accel.ipc.frame import FrameError
from molt_accel.ipc.messages import Request, Response
from molt_worker.entrypoints import project
from molt_worker.entrypoints.exports import ExportTable
from molt_worker.entrypoints.request import StopWord
from molt_worker.entrypoints.runner import Runner, error_response
from molt_worker.processes.endpoint import Endpoint
from molt_worker.processes.late_imports import LateImports
from molt_worker.runtime import log

INTERRUPT_SIGNAL = signal.SIGUSR1  #: the soft interrupt
_M_TRIM_THRESHOLD: Final = -1  # glibc's numbers for mallopt(3)
_M_MMAP_THRESHOLD: Final = -3
_KEPT_BYTES: Final = 64 * 1024 * 1024  #: freed memory that an executor keeps


def serve(
    endpoint: Endpoint,
    exports: ExportTable,
    word: StopWord,
    number: int,
    config: Config,
    late_imports: LateImports,
    *,
    in_project: bool = False,
) -> int:
    """Serve requests until the endpoint has no more. Returns the exit code.

    `in_project`: Django is set up here; see `molt_worker.entrypoints.project`.
    """
    forked = []  # filled in a process that an entrypoint forks
    os.register_at_fork(after_in_child=lambda: forked.append(True))
    _heed_sigterm_in_children()
    _keep_freed_memory()

    say = functools.partial(log.write_blocking, config)

    def log_traceback(request_id: str, entry: str, text: str) -> None:
        fields: dict[str, object] = {"request_id": request_id, "entry": entry, "traceback": text}
        say("error", "entrypoint_raised", fields)

    runner = Runner(exports, word, log_traceback, number=number)
    signal.signal(INTERRUPT_SIGNAL, runner.interrupt)
    # Each request gets a copy, so none sees what another has set in its own.
    context, run = contextvars.copy_context(), runner.run
    for module, exc in late_imports.run(number):
        failed: dict[str, object] = {"module": module, "error": f"{type(exc).__name__}: {exc}"}
        say("warning", "late_import_failed", failed)
    if in_project:
        requests = project.Requests(say)

        def end(entry: str) -> None:
            if not forked:  # an entrypoint's child: connections are its parent's
                requests.end(entry)

        runner.before, runner.after = requests.begin, end
    try:
        endpoint.announce()
        while (item := endpoint.receive()) is not None:
            if isinstance(item, FrameError):
                # Answer a frame that can't be read under the id that it claims.
                claimed = Request(item.raw_id, "", generation=item.raw_generation)
                endpoint.answer(claimed, error_response(claimed, MoltInvalidInput(item.detail)))
                continue
            response = context.copy().run(run, item, endpoint.serial)
            if forked:
                os._exit(0)  # this is the entrypoint's child: only its parent answers
            endpoint.answer(item, response)
            if response.status is not Status.OK and (why := _why_to_leave(runner, response)):
                fields: dict[str, object] = {"executor": number, "why": why}
                if runner.spoiled:
                    name = runner.interrupted_import
                    what = f"import {name}" if name else "do what it initialises"
                    fields["hint"] = f"{what} at the top of the exports' module"
                    if name:
                        late_imports.tell(number, name)
                say("warning", "executor_leaves", fields)
                break
        failpoint("executor.leaving")
    except BrokenPipeError:
        return 0  # the other end is gone, so is whoever waited for the answer
    return 0


def _why_to_leave(runner: Runner, response: Response) -> str:
    """Why this executor must exit after a request that didn't end well; empty: it need not.

    The pool starts another one, and the fork server kills the process group that this one leaves running.
    """
    if runner.spoiled:
        return "a stop interrupted an import"
    stopped = response.status in (Status.TIMEOUT, Status.CANCELLED)
    if stopped and hasattr(os, "waitid"):  # not on macOS before 3.13
        with contextlib.suppress(ChildProcessError):  # there are none
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            return "a request that was stopped left processes running"
    return ""


def _keep_freed_memory() -> None:
    """Have the allocator keep memory that was freed, up to `_KEPT_BYTES`, for the next large payloads and results.

    glibc returns it to the kernel, and then most of the time of a large request goes into page faults.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES // 2)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)


def _heed_sigterm_in_children() -> None:
    """An executor ignores SIGTERM, but an entrypoint must be able to terminate what it forks."""
    only = {signal.SIGTERM}

    def in_child() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, only)

    # Blocked during the fork: a SIGTERM that comes at once must not meet the executor's handler.
    os.register_at_fork(
        before=lambda: signal.pthread_sigmask(signal.SIG_BLOCK, only),
        after_in_parent=lambda: signal.pthread_sigmask(signal.SIG_UNBLOCK, only),
        after_in_child=in_child,
    )
