"""A frame stream over file descriptors: the stdio transport's floor, used by client, supervisor and executor.

Works on blocking and on non-blocking descriptors. Sending never waits on a non-blocking one: what the
kernel doesn't take stays queued here, whole frames in order, and `flush` goes on with it.
"""

from __future__ import annotations

import os
import select
from collections import deque
from typing import Final

from molt_accel.ipc.frame import DEFAULT_MAX_FRAME_BYTES, Decoder, FrameError, FrameParser, Item, encode_parts

_READ_BYTES: Final = 64 * 1024
_LARGE_READ_BYTES: Final = 1024 * 1024
#: writev takes at most IOV_MAX parts a call; 1024 on Linux and macOS, 16 by POSIX.
_PARTS: Final = 16
#: Payloads up to this size are joined to their header: one part costs less than a longer writev.
_JOIN_BYTES: Final = 16 * 1024


class FrameStream:
    """Frames in from one descriptor, frames out to another (which may be the same socket).

    Not thread-safe: its owner serialises `send` and `flush`; `fill` and `frames` may run beside them.

    Args:
        max_frame_bytes: Largest frame in either direction.
        messages: The control messages that may come; None: none may.
    """

    def __init__(
        self,
        read_fd: int,
        write_fd: int,
        max_frame_bytes: int = DEFAULT_MAX_FRAME_BYTES,
        messages: Decoder | None = None,
    ) -> None:
        self.read_fd = read_fd
        self.write_fd = write_fd
        self._max = max_frame_bytes
        self._parser = FrameParser(max_frame_bytes, messages)
        self._out: deque[bytes | memoryview] = deque()
        self._flushing = False
        self.pending_bytes = 0  #: bytes that wait to be written
        #: The other end died without having read all that was sent (Linux tells; elsewhere it stays False).
        self.was_reset = False

    def fill(self) -> int | None:
        """Read once what is there. Returns the bytes read, 0 if nothing was there; None at the end."""
        size = _LARGE_READ_BYTES if self._parser.missing > _READ_BYTES else _READ_BYTES
        try:
            data = os.read(self.read_fd, size)
        except BlockingIOError:
            return 0
        except ConnectionResetError:
            self.was_reset = True
            return None
        except OSError:  # EIO, EBADF: whatever it is, nothing can be read here any more
            return None
        if not data:
            return None
        self._parser.feed(data)
        return len(data)

    def wait_readable(self, timeout_s: float) -> bool:
        """Whether there is something to `fill`, or comes within the time; the end of the stream counts."""
        poll = select.poll()
        poll.register(self.read_fd, select.POLLIN)
        return bool(poll.poll(timeout_s * 1000))

    def frames(self) -> list[Item | FrameError]:
        """What the frames carry that `fill` has completed; in the place of each malformed one its error."""
        return self._parser.frames()

    @property
    def mid_frame(self) -> bool:
        """Whether part of a frame was read."""
        return self._parser.mid_frame

    def send(self, item: Item) -> None:
        """Queue what a frame shall carry, and write as much as goes.

        Raises:
            FrameError: the frame is not valid or over the limit; nothing was queued.
            BrokenPipeError: the other end is gone.
        """
        head, payload = encode_parts(item, self._max)
        if len(payload) <= _JOIN_BYTES:
            self._queue(head + payload)
        else:
            self._queue(head, payload)
        self.flush()

    def _queue(self, *parts: bytes | memoryview) -> None:
        # One step for all parts: a signal handler that sends too must not get between them.
        self._out.extend(parts)
        self.pending_bytes += sum(map(len, parts))

    def discard(self) -> None:
        """Drop what waits to be written: the other end will never read it."""
        self._out.clear()
        self.pending_bytes = 0

    def flush(self) -> bool:
        """Write queued bytes until none is left (True) or the descriptor takes no more (False).

        Raises:
            BrokenPipeError: the other end is gone.
        """
        if self._flushing:
            return False  # a signal handler sends: the flush that it interrupted takes its frame along
        self._flushing = True
        try:
            return self._flush()
        finally:
            self._flushing = False

    def _flush(self) -> bool:
        out = self._out
        while out:
            try:
                if len(out) == 1:
                    written = os.write(self.write_fd, out[0])
                else:
                    written = os.writev(self.write_fd, [out[i] for i in range(min(len(out), _PARTS))])
            except BlockingIOError:
                return False
            except BrokenPipeError:
                raise
            except OSError as exc:  # reset, disk full, closed: nothing can be written here any more
                raise BrokenPipeError(*exc.args) from exc
            self.pending_bytes -= written
            while written:
                part = out[0]
                if written < len(part):
                    out[0] = memoryview(part)[written:]
                    break
                written -= len(part)
                out.popleft()
        return True
