"""molt_accel.cluster.pulse: a host that is there is not taken for lost."""

from molt_accel.cluster.pulse import BEAT_S, LOOK_S, SILENCE_S


def test_three_beats_may_get_lost_before_a_host_counts_as_lost() -> None:
    assert SILENCE_S >= 3 * BEAT_S
    assert LOOK_S < BEAT_S
