"""Fannkuch: the most flips that any permutation takes. Integers in small lists."""

from __future__ import annotations

from molt_worker import current_request


def fannkuch(size: int) -> list[int]:
    """A checksum over all permutations of `size` numbers, and the most flips."""
    request = current_request()
    permutation = list(range(size))
    counts = [0] * size
    most = 0
    checksum = 0
    number = 0
    left = size
    while True:
        while left > 1:
            counts[left - 1] = left
            left -= 1
        if number % 256 == 0:
            request.check()
        flips = _flips(permutation)
        if flips > most:
            most = flips
        checksum += flips if number % 2 == 0 else -flips
        number += 1
        while True:
            if left == size:
                return [checksum, most]
            first = permutation[0]
            for i in range(left):
                permutation[i] = permutation[i + 1]
            permutation[left] = first
            counts[left] -= 1
            if counts[left] > 0:
                break
            left += 1


def _flips(permutation: list[int]) -> int:
    row = permutation[:]
    flips = 0
    first = row[0]
    while first:
        low = 0
        high = first
        while low < high:
            row[low], row[high] = row[high], row[low]
            low += 1
            high -= 1
        flips += 1
        first = row[0]
    return flips
