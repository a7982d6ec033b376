"""Scores how well an item's name matches the words of a search."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:  # i64 is a machine integer in compiled code, and an int in Python
    from mypy_extensions import i64

EXACT: Final = 100
PREFIX: Final = 60
INSIDE: Final = 30
#: The score of a misspelt word, and what each wrong letter takes off it.
FUZZY: Final = 25
EDIT: Final = 5
# An early word of a name says more about the thing than a late one.
PLACE_BONUS: Final = 8

_WORD: Final = re.compile(r"[^\W_]+")
# A short word may have fewer edits than a long one: two edits turn it into almost any other. Search engines do so too.
# Source: https://www.elastic.co/guide/en/elasticsearch/reference/current/common-options.html#fuzziness (AUTO).
_LETTERS_FOR_ONE_EDIT: Final = 3
_LETTERS_FOR_TWO_EDITS: Final = 6


def words_of(text: str) -> list[str]:
    """Return the words of `text` in lower case: runs of letters and digits of any script."""
    return _WORD.findall(text.casefold())


def score_name(wanted: list[str], name: str) -> int:
    """Score `name` against the wanted words. Higher is better; 0: a wanted word is not in it."""
    words = words_of(name)
    total = 0
    for target in wanted:
        best = 0
        for place, word in enumerate(words):
            score = score_word(target, word)
            if score > 0:
                if place < PLACE_BONUS:
                    score += PLACE_BONUS - place
                if score > best:
                    best = score
        if best == 0:
            return 0
        total += best
    return total


def score_word(wanted: str, word: str) -> int:
    """Score one word against one wanted word: EXACT, PREFIX, INSIDE, FUZZY less its edits, or 0."""
    if wanted == word:
        return EXACT
    if word.startswith(wanted):
        return PREFIX
    if wanted in word:
        return INSIDE
    allowed = (len(wanted) >= _LETTERS_FOR_ONE_EDIT) + (len(wanted) >= _LETTERS_FOR_TWO_EDITS)
    if allowed == 0 or abs(len(wanted) - len(word)) > allowed:
        return 0
    edits = edit_distance(wanted, word)
    return FUZZY - EDIT * edits if edits <= allowed else 0


def edit_distance(left: str, right: str) -> int:
    """Return how many letters must be added, dropped, changed or swapped with a neighbour to get the other word.

    This is the optimal string alignment distance: no letter is edited twice, so "ca" to "abc" takes three.
    """
    width: i64 = len(right)
    others = [ord(letter) for letter in right]
    # Three rows of the table take turns: `last` is for one letter less, `before` for two less, `row` for this one.
    last = list(range(width + 1))
    before, row = last[:], last[:]
    previous: i64 = -1
    for char in left:
        letter: i64 = ord(char)
        diagonal: i64 = last[0]
        edits: i64 = diagonal + 1
        row[0] = edits
        other_before: i64 = -1
        for j in range(width):
            # Conditions and no min(): a call would cost more than the rest of this inner loop.
            other: i64 = others[j]
            above: i64 = last[j + 1]
            best = diagonal
            if letter != other:
                if above < best:
                    best = above
                if edits < best:
                    best = edits
                if letter == other_before and previous == other and before[j - 1] < best:
                    best = before[j - 1]
                best += 1
            row[j + 1] = edits = best
            diagonal, other_before = above, other
        before, last, row, previous = last, row, before, letter
    return last[width]
