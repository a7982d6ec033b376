"""Spectral norm of an infinite matrix by the power method. Calls and divisions in a double loop."""

from __future__ import annotations

from math import sqrt

from molt_worker import current_request


def _element(i: int, j: int) -> float:
    return 1.0 / ((i + j) * (i + j + 1) // 2 + i + 1)


def _times(vector: list[float], transposed: bool) -> list[float]:
    size = len(vector)
    product: list[float] = []
    for i in range(size):
        total = 0.0
        for j in range(size):
            total += (_element(j, i) if transposed else _element(i, j)) * vector[j]
        product.append(total)
    return product


def spectral_norm(size: int) -> float:
    """The norm of the matrix's first `size` rows and columns."""
    request = current_request()
    u = [1.0] * size
    v = u
    for _ in range(10):
        request.check()
        v = _times(_times(u, False), True)
        u = _times(_times(v, False), True)
    above = 0.0
    below = 0.0
    for i in range(size):
        above += u[i] * v[i]
        below += v[i] * v[i]
    return sqrt(above / below)
