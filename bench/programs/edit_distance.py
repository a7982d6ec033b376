"""Edit distances between all of some words. Lists of integers in a double loop."""

from __future__ import annotations

from molt_worker import current_request


def _distance(left: str, right: str) -> int:
    others = [ord(letter) for letter in right]
    width = len(others)
    last = list(range(width + 1))
    for number, char in enumerate(left):
        letter = ord(char)
        row = [number + 1]
        for column in range(width):
            edits = last[column]
            if letter != others[column]:
                edits += 1
            if last[column + 1] + 1 < edits:
                edits = last[column + 1] + 1
            if row[column] + 1 < edits:
                edits = row[column] + 1
            row.append(edits)
        last = row
    return last[width]


def edit_distance(count: int) -> int:
    """The sum of the distances between each two of so many made-up words."""
    request = current_request()
    words = ["".join(chr(97 + (n * 7 + i * i * 3) % 26) for i in range(4 + n % 9)) for n in range(count)]
    total = 0
    for left in words:
        request.check()
        for right in words:
            total += _distance(left, right)
    return total
