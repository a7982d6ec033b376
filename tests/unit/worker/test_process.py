"""Handles of child processes: the page of stop words and exit codes in words."""

from __future__ import annotations

import itertools

import pytest

from molt_worker.process import StopWords, exit_facts, exit_text
from molt_worker.request import StopReason, StopWord


def test_words_are_lent_once_each_cleared_and_can_be_given_back() -> None:
    words = StopWords(3)
    lent = [words.lend() for _ in range(3)]
    assert len(set(lent)) == 3
    assert words.left == 0
    StopWord(words.words, lent[1]).stop(9, StopReason.TIMED_OUT)
    words.give_back(lent[1])
    assert words.left == 1
    assert words.lend() == lent[1]
    assert StopWord(words.words, lent[1]).reason(9) == 0


def test_each_word_has_a_cache_line_of_its_own() -> None:
    words = StopWords(600)
    lent = sorted(words.lend() for _ in range(600))
    assert {b - a for a, b in itertools.pairwise(lent)} == {8}
    StopWord(words.words, lent[-1]).stop(1, StopReason.CANCELLED)


@pytest.mark.parametrize(
    ("code", "text", "facts"),
    [
        (0, "exit code 0", {"exit_code": 0}),
        (3, "exit code 3", {"exit_code": 3}),
        (-9, "signal 9 (SIGKILL)", {"signal": 9}),
        (-11, "signal 11 (SIGSEGV)", {"signal": 11}),
        (-35, "signal 35", {"signal": 35}),
    ],
)
def test_an_exit_code_in_words_and_facts(code: int, text: str, facts: dict[str, int]) -> None:
    assert exit_text(code) == text
    assert exit_facts(code) == facts
