"""How well an item's name answers the words somebody searched for."""

from __future__ import annotations

import re
from typing import Final

EXACT: Final = 100
PREFIX: Final = 60
INSIDE: Final = 30
ONE_EDIT: Final = 20
# An early word of a name says more about the thing than a late one.
PLACE_BONUS: Final = 8

_WORD: Final = re.compile(r"[^\W_]+")
# One edit turns any short word into any other, so short words must be spelt right.
_SHORTEST_FUZZY: Final = 4


def words_of(text: str) -> list[str]:
    """The words of `text` in lower case: runs of letters and digits of any script."""
    return _WORD.findall(text.casefold())


def score_name(wanted: list[str], name: str) -> int:
    """Score `name` against the wanted words: higher is better, 0 when a wanted word is found nowhere."""
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
    """Score one word against one wanted word: EXACT, PREFIX, INSIDE, ONE_EDIT or 0."""
    if wanted == word:
        return EXACT
    if word.startswith(wanted):
        return PREFIX
    if wanted in word:
        return INSIDE
    if len(wanted) >= _SHORTEST_FUZZY and one_edit_apart(wanted, word):
        return ONE_EDIT
    return 0


def one_edit_apart(left: str, right: str) -> bool:
    """Whether at most one letter must be added, dropped, changed or swapped with its neighbour."""
    if len(left) > len(right):
        left, right = right, left
    gap = len(right) - len(left)
    if gap > 1:
        return False
    same = 0
    while same < len(left) and left[same] == right[same]:
        same += 1
    if gap == 1:
        return left[same:] == right[same + 1 :]
    if left[same + 1 :] == right[same + 1 :]:
        return True
    swapped = left[same + 1 : same + 2] + left[same : same + 1]
    return swapped == right[same : same + 2] and left[same + 2 :] == right[same + 2 :]
