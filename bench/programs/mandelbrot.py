"""Mandelbrot set as a bitmap. Floating-point arithmetic in local variables."""

from __future__ import annotations

import zlib

from molt_worker import current_request

_ITERATIONS = 50


def mandelbrot(size: int) -> list[int]:
    """How many of size x size points are in the set, and a checksum of the bitmap."""
    request = current_request()
    bitmap = bytearray()
    inside = 0
    for row in range(size):
        request.check()
        ci = 2.0 * row / size - 1.0
        byte = 0
        for column in range(size):
            is_in = _is_in(2.0 * column / size - 1.5, ci)
            byte = (byte << 1) + (1 if is_in else 0)
            if is_in:
                inside += 1
            if column % 8 == 7:
                bitmap.append(byte)
                byte = 0
    return [inside, zlib.crc32(bitmap)]


def _is_in(cr: float, ci: float) -> bool:
    zr = 0.0
    zi = 0.0
    for _ in range(_ITERATIONS):
        rr = zr * zr
        ii = zi * zi
        if rr + ii > 4.0:
            return False
        zi = 2.0 * zr * zi + ci
        zr = rr - ii + cr
    return True
