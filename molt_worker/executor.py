"""An executor process: takes requests from its socket, one at a time, on its main thread."""

from __future__ import annotations

import os
import signal
import socket

from molt_accel.config import Config
from molt_accel.errors import MoltInternalError
from molt_accel.ipc.frame import HELLO, Fault, Frame, FrameError, Kind
from molt_accel.ipc.stream import FrameStream
from molt_worker import log
from molt_worker.exports import ExportTable
from molt_worker.request import StopWord
from molt_worker.runner import Runner, error_response

#: The soft interrupt.
INTERRUPT_SIGNAL = signal.SIGUSR1


def serve(sock: socket.socket, exports: ExportTable, word: StopWord, number: int, config: Config) -> int:
    """Serve requests until the supervisor closes its end. Returns the exit code."""
    forked = []  # filled in a process that an entrypoint forks
    os.register_at_fork(after_in_child=lambda: forked.append(True))
    _heed_sigterm_in_children()
    stream = FrameStream(sock.fileno(), sock.fileno(), config.max_frame_bytes)

    def log_traceback(request_id: str, entry: str, text: str) -> None:
        fields: dict[str, object] = {"request_id": request_id, "entry": entry, "traceback": text}
        log.write_blocking(config, "error", "entrypoint_raised", fields)

    runner = Runner(exports, word, log_traceback, number=number)
    signal.signal(INTERRUPT_SIGNAL, runner.interrupt)
    try:
        stream.send(Frame(Kind.CONTROL, number, HELLO))
        while stream.fill() is not None:
            for item in stream.frames():
                if isinstance(item, FrameError):
                    raise item  # a bug of ours: the supervisor only sends frames it has parsed
                response = runner.run(item)
                if forked:
                    os._exit(0)  # this is the entrypoint's child: only its parent answers
                _answer(stream, item, response)
    except BrokenPipeError:
        return 0  # the supervisor is gone, so is whoever waited for the answer
    return 0


def _heed_sigterm_in_children() -> None:
    """An executor ignores SIGTERM, but an entrypoint must be able to terminate what it forks."""
    only = {signal.SIGTERM}

    def in_child() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, only)

    # Held back meanwhile: one that is sent at once must not meet the old handler.
    os.register_at_fork(
        before=lambda: signal.pthread_sigmask(signal.SIG_BLOCK, only),
        after_in_parent=lambda: signal.pthread_sigmask(signal.SIG_UNBLOCK, only),
        after_in_child=in_child,
    )


def _answer(stream: FrameStream, request: Frame, response: Frame) -> None:
    try:
        stream.send(response)
    except FrameError as exc:
        if exc.fault is not Fault.TOO_LARGE:
            raise
        stream.send(error_response(request, MoltInternalError(f"the result is {exc.detail}")))
