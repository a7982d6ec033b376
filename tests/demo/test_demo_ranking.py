"""Ranking: words, the four ways a word may match, and edit distance against its definition."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from demo.molt_worker_app.ranking import (
    EDIT,
    EXACT,
    FUZZY,
    INSIDE,
    PREFIX,
    edit_distance,
    score_name,
    score_word,
    words_of,
)


def test_words_are_runs_of_letters_and_digits_in_lower_case() -> None:
    assert words_of("  Oak-Chair_2, CAFÉ\0straße!") == ["oak", "chair", "2", "café", "strasse"]
    assert words_of("?! \0") == []


@pytest.mark.parametrize(
    ("wanted", "word", "score"),
    [
        ("chair", "chair", EXACT), ("ch", "chair", PREFIX), ("air", "chair", INSIDE),
        ("chiar", "chair", FUZZY - EDIT), ("cair", "chair", FUZZY - EDIT),
        ("chairs", "chair", FUZZY - EDIT), ("cheir", "chair", FUZZY - EDIT),
        ("cushiosn", "cushion", FUZZY - EDIT), ("cuhsiosn", "cushion", FUZZY - 2 * EDIT),
        ("chhaiir", "chair", FUZZY - 2 * EDIT), ("oka", "oak", FUZZY - EDIT), ("xkat", "oak", 0),
        ("ab", "ba", 0), ("lamp", "chair", 0),
    ],
)  # fmt: skip
def test_a_word_matches_in_one_of_four_ways(wanted: str, word: str, score: int) -> None:
    assert score_word(wanted, word) == score


def test_every_wanted_word_must_be_found_and_early_words_count_more() -> None:
    assert score_name(["oak", "lamp"], "oak chair") == 0
    assert score_name(["oak"], "oak chair") == EXACT + 8
    assert score_name(["chair"], "oak chair") == EXACT + 7
    assert score_name(["oak", "chair"], "oak chair") == 2 * EXACT + 15
    assert score_name(["lamp"], " ".join(["oak"] * 12 + ["lamp"])) == EXACT


def _neighbours(word: str, alphabet: str) -> set[str]:
    """All that one edit makes of a word, by the definition."""
    cuts = [(word[:at], word[at:]) for at in range(len(word) + 1)]
    found = {word}
    found.update(left + right[1:] for left, right in cuts if right)
    found.update(left + right[1] + right[0] + right[2:] for left, right in cuts if len(right) > 1)
    found.update(left + letter + right[1:] for left, right in cuts if right for letter in alphabet)
    found.update(left + letter + right for left, right in cuts for letter in alphabet)
    return found


@given(st.text("ab", max_size=6), st.text("ab", max_size=6))
@example("abab", "baba")
def test_a_distance_of_one_is_what_one_edit_makes(left: str, right: str) -> None:
    assert (edit_distance(left, right) <= 1) == (right in _neighbours(left, "ab"))


@given(st.text("abc", max_size=6), st.text("abc", max_size=6))
@example("ca", "abc")
def test_the_distance_is_that_of_its_definition(left: str, right: str) -> None:
    def distance(i: int, j: int) -> int:
        if not i or not j:
            return i + j
        found = [
            distance(i - 1, j) + 1,
            distance(i, j - 1) + 1,
            distance(i - 1, j - 1) + (left[i - 1] != right[j - 1]),
        ]
        if i > 1 and j > 1 and left[i - 1] == right[j - 2] and left[i - 2] == right[j - 1]:
            found.append(distance(i - 2, j - 2) + 1)
        return min(found)

    assert edit_distance(left, right) == distance(len(left), len(right))
