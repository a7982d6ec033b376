"""How long an entrypoint usually runs: a running mean and mean deviation of what its requests took.

As TCP estimates round trips (Jacobson, "Congestion Avoidance and Control", 1988). The native core has a twin of
`Estimate.learn` in `ipc/shm/core/entries.h`; a property test holds one against the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from molt_accel.durations import NS_PER_MS

#: A new sample counts 1/16. With more, an entrypoint with two kinds of requests is misjudged; with less, a change of
#: load is followed too late.
GAIN_SHIFT: Final = 4
WARM_UP: Final = 2  #: each of the first samples replaces what was: imports and caches make them too long


#: An estimate of which nothing was learnt for so long, and for so many times of itself, is due for a trial.
TRIAL_NS: Final = 100 * NS_PER_MS
TRIAL_MEANS: Final = 4


def is_due(mean_ns: int, learnt_ns: int, now_ns: int) -> bool:
    """Whether a request shall be tried although it could not end in time, if what is known is true.

    Without that, an estimate that was once too high would have all requests refused in a pool that is never idle, and
    so never be found out. A trial each time takes a fifth of an executor at most.

    Args:
        mean_ns: What requests usually take.
        learnt_ns: When one ended last, by CLOCK_MONOTONIC.
        now_ns: By the same clock.
    """
    return now_ns - learnt_ns > max(TRIAL_NS, TRIAL_MEANS * mean_ns)


@dataclass(slots=True)
class Estimate:
    """What is known of one entrypoint. Times are nanoseconds.

    Attributes:
        mean_ns: What a request usually takes; 0: nothing is known.
        deviation_ns: By how much a request usually differs from that.
        samples: How many requests were learnt from.
        warm_up: So many of the first samples each replace what was.
    """

    mean_ns: int = 0
    deviation_ns: int = 0
    samples: int = 0
    warm_up: int = WARM_UP

    @property
    def is_warm(self) -> bool:
        return self.samples >= self.warm_up

    def learn(self, took_ns: int, *, stopped: bool = False) -> None:
        """Count what a request took. `stopped`: it was ended before its time, so it would have taken longer."""
        if stopped and took_ns <= self.mean_ns:
            return
        if not self.is_warm:
            self.mean_ns, self.deviation_ns = took_ns, took_ns // 2
        else:
            # The first ones count for more, so that the mean is soon near what it will be.
            shift = min(GAIN_SHIFT, self.samples.bit_length() - 1)
            error = took_ns - self.mean_ns
            self.mean_ns += error >> shift
            self.deviation_ns += (abs(error) - self.deviation_ns) >> shift
        self.samples += 1

    def left_ns(self, ran_ns: int) -> int:
        """What a request that has run for so long will still take."""
        return self.mean_ns - ran_ns if ran_ns < self.mean_ns else self.deviation_ns

    def least_ns(self) -> int:
        """What hardly any request takes less than: two deviations under the mean."""
        return max(0, self.mean_ns - 2 * self.deviation_ns)
