"""One line for an episode of shedding."""

from molt_accel.overload.episode import PAUSE_NS, Episode

S = 1_000_000_000


def test_only_the_first_refusal_of_an_episode_is_logged() -> None:
    episode = Episode()
    assert episode.refused("queue_delay", 100 * S) == {"reason": "queue_delay"}
    for second in range(101, 160, 9):
        assert episode.refused("deadline", second * S) is None
    assert episode.by_reason == {"queue_delay": 1, "deadline": 7}


def test_the_next_one_says_what_the_last_one_was() -> None:
    episode = Episode()
    for at in (100, 101.5, 102.5):
        episode.refused("queue_full", int(at * S))
    later = int(102.5 * S) + PAUSE_NS
    assert episode.refused("deadline", later) == {"reason": "deadline", "last_refused": 3, "last_s": 2.5}
    assert episode.refused("deadline", later + PAUSE_NS) == {
        "reason": "deadline",
        "last_refused": 1,
        "last_s": 0.0,
    }


def test_refusals_that_are_just_near_enough_are_one_episode() -> None:
    episode = Episode()
    episode.refused("deadline", 0)  # a clock may begin at 0
    assert episode.refused("deadline", PAUSE_NS - 1) is None
    assert episode.refused("deadline", 2 * PAUSE_NS - 2) is None
