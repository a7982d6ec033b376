"""A cable between two network devices, which loses, delays and slows down packets: what not every kernel can (netem).

    python wire.py OUTER INNER

Makes two TAP devices of these names, and passes frames from one to the other. Each line on standard input changes how:
the share of packets that is lost, the delay in s, and the bits a second (0: no limit). Ends with its input.
"""

import ctypes
import fcntl
import heapq
import itertools
import os
import random
import select
import struct
import sys
import time

_TUNSETIFF = 0x400454CA
_IFF_TAP, _IFF_NO_PI = 0x0002, 0x1000
_FRAME = 65536
_PR_SET_TIMERSLACK = 29


def tap(name: str) -> int:
    """Make a TAP device. Returns its descriptor."""
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH", name.encode(), _IFF_TAP | _IFF_NO_PI))
    return fd


def main(outer: str, inner: str) -> None:
    one, other = tap(outer), tap(inner)
    ends = {one: other, other: one}
    print("ready", flush=True)
    lost, delay_s, bits_s = 0.0, 0.0, 0.0
    waiting: list[tuple[float, int, int, bytes]] = []
    numbers = itertools.count()
    free_s = dict.fromkeys(ends, 0.0)  # when each direction has sent what it has
    # Delays are shorter than a millisecond, too: no poll, whose time is in those, and no slack of 50 us.
    ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)
    while True:
        wait_s = None if not waiting else max(0.0, waiting[0][0] - time.monotonic())
        for fd in select.select((*ends, 0), (), (), wait_s)[0]:
            if fd == 0:
                line = os.read(0, 4096)
                if not line:
                    return
                lost, delay_s, bits_s = map(float, line.decode().splitlines()[-1].split())
                continue
            try:
                frame = os.read(fd, _FRAME)
            except BlockingIOError:
                continue
            if random.random() < lost:
                continue
            due_s = time.monotonic() + delay_s
            if bits_s:
                due_s = free_s[fd] = max(due_s, free_s[fd]) + len(frame) * 8 / bits_s
            heapq.heappush(waiting, (due_s, next(numbers), ends[fd], frame))
        while waiting and waiting[0][0] <= time.monotonic():
            _, _, to, frame = heapq.heappop(waiting)
            try:
                os.write(to, frame)
            except OSError:  # that end is down, or full
                continue


if __name__ == "__main__":
    main(*sys.argv[1:])
