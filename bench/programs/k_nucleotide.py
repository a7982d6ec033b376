"""K-nucleotide: how often each fragment is found in a DNA sequence. Slices of a text as keys of a dict."""

from __future__ import annotations

from molt_worker import current_request


def _sequence(length: int) -> str:
    letters: list[str] = []
    state = 42
    for _ in range(length):
        state = (state * 3877 + 29573) % 139968
        letters.append("ACGT"[state * 4 // 139968])
    return "".join(letters)


def _counts(sequence: str, width: int) -> dict[str, int]:
    found: dict[str, int] = {}
    for start in range(len(sequence) - width + 1):
        fragment = sequence[start : start + width]
        found[fragment] = found.get(fragment, 0) + 1
    return found


def k_nucleotide(length: int) -> dict[str, int]:
    """The counts of some fragments in a sequence of this length that is always the same."""
    request = current_request()
    sequence = _sequence(length)
    result: dict[str, int] = {}
    for width in (1, 2, 4, 8):
        request.check()
        found = _counts(sequence, width)
        for fragment in sorted(found)[:4]:
            result[fragment] = found[fragment]
    return result
