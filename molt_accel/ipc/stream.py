"""A stream of frames over file descriptors. The stdio transport's client, supervisor and executors use it.

The descriptors may be blocking or not. Sending never waits on a non-blocking one: what the kernel doesn't take stays
queued here in order, and `flush` goes on with it.
"""

from __future__ import annotations

import os
import select
from collections import deque
from typing import Final

from molt_accel.ipc.frame import DEFAULT_MAX_FRAME_BYTES, Decoder, FrameError, FrameParser, Item, encode_parts

_READ_BYTES: Final = 64 * 1024
_LARGE_READ_BYTES: Final = 1024 * 1024
_PARTS: Final = 16  #: writev takes at most IOV_MAX parts a call; 1024 on Linux and macOS, 16 by POSIX
#: Payloads up to this size are joined to their header: one part costs less than a longer writev.
_JOIN_BYTES: Final = 16 * 1024


class FrameStream:
    """Frames in from one descriptor, frames out to another (which may be the same socket).

    Not thread-safe: its owner serialises `send` and `flush`. Another thread may call `fill` and `frames` meanwhile.

    Args:
        max_frame_bytes: Largest frame in either direction.
        messages: Decodes the control messages that may come; None: none may.
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
        #: The other end died before it had read all that was sent (False on systems that don't tell).
        self.was_reset = False

    def fill(self) -> int | None:
        """Read once. Returns how many bytes were read, 0 if there were none; None at the end of the stream."""
        size = _LARGE_READ_BYTES if self._parser.missing > _READ_BYTES else _READ_BYTES
        try:
            data = os.read(self.read_fd, size)
        except BlockingIOError:
            return 0
        except ConnectionResetError:
            self.was_reset = True
            return None
        except OSError:  # EIO, EBADF: nothing can be read any more
            return None
        if not data:
            return None
        self._parser.feed(data)
        return len(data)

    def wait_readable(self, timeout_s: float) -> bool:
        """Whether `fill` finds bytes or the end of the stream within the time."""
        poll = select.poll()
        poll.register(self.read_fd, select.POLLIN)
        return bool(poll.poll(timeout_s * 1000))

    def frames(self) -> list[Item | FrameError]:
        """The items of the frames that `fill` has completed, and an error for each malformed one."""
        return self._parser.frames()

    @property
    def mid_frame(self) -> bool:
        return self._parser.mid_frame

    def send(self, item: Item) -> None:
        """Queue an item's frame, and write as much as the descriptor takes.

        Raises:
            FrameError: the frame is not valid or over the limit; nothing was queued.
            BrokenPipeError: the other end is gone.
        """
        head, payload = encode_parts(item, self._max)
        # In one step: a signal handler that sends too must not get between the two parts.
        self._out.extend((head + payload,) if len(payload) <= _JOIN_BYTES else (head, payload))
        self.pending_bytes += len(head) + len(payload)
        self.flush()

    def discard(self) -> None:
        """Drop the queued bytes, because the other end will never read them."""
        self._out.clear()
        self.pending_bytes = 0

    def flush(self) -> bool:
        """Write queued bytes until none is left (True) or the descriptor takes no more (False).

        Raises:
            BrokenPipeError: the other end is gone.
        """
        if self._flushing:
            return False  # a signal handler sends: the flush that it interrupted writes its frame too
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
            except OSError as exc:  # reset, disk full, closed: nothing can be written any more
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
