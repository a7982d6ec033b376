"""Handles of child processes: the page of stop words."""

from molt_worker.entrypoints.request import StopReason
from molt_worker.processes.handles import StopWords


def test_words_are_lent_once_each_cleared_and_can_be_given_back() -> None:
    words = StopWords(3)
    assert [words.lend() for _ in range(3)] == [0, 1, 2]
    assert words.left == 0
    words.word_of(1).stop(9, StopReason.TIMED_OUT)
    words.claim_of(1)[0] = 9
    assert words.claims() == {1: 9}
    words.give_back(1)
    assert words.left == 1
    assert words.lend() == 1
    assert words.word_of(1).reason(9) == 0
    assert words.claims() == {}  # the next executor does not have what the last one had


def test_the_lowest_free_slot_is_lent_first() -> None:
    words = StopWords(4)
    for _ in range(4):
        words.lend()
    for slot in (2, 0, 3):
        words.give_back(slot)
    assert [words.lend() for _ in range(3)] == [0, 2, 3]


def test_no_slot_reads_the_word_of_another() -> None:
    words = StopWords(600)
    for slot in range(600):
        words.word_of(slot).stop(slot + 1, StopReason.CANCELLED)
    for slot in range(600):
        assert words.word_of(slot).reason(slot + 1) == StopReason.CANCELLED


def test_each_word_has_a_cache_line_of_its_own() -> None:
    words = StopWords(2)
    words.word_of(1).stop(1, StopReason.CANCELLED)
    line = 64 // words.memory.itemsize
    assert [index for index, word in enumerate(words.memory) if word] == [line]


def test_a_channel_is_claimed_by_whoever_has_a_request_of_it() -> None:
    words = StopWords(2)
    words.claim_of(words.lend())[0] = 5 << 32 | 7  # channel and generation
    assert [words.is_claimed(channel) for channel in (5, 7, 0)] == [True, False, False]
