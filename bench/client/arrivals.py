"""When requests are due: at once, again and again (a closed loop), or at the moments of a Poisson process (an open loop)."""

import math
from array import array
from typing import Protocol

import numpy as np

NONE_DUE = -1.0


class Arrivals(Protocol):
    """What tells the load when to send. Moments are seconds of CLOCK_MONOTONIC."""

    def take(self, now_s: float) -> float:
        """The moment at which a request was due that is sent now: the longest waiting one. NONE_DUE if there is none."""
        ...

    def next_s(self) -> float:
        """The moment of the request that `take` gives next; infinity where that follows from `take` alone, or none is left."""
        ...

    def over(self, now_s: float) -> bool:
        """Whether no request will be due any more."""
        ...


class Closed:
    """A request is due whenever a connection is free, from a beginning to an end."""

    def __init__(self, begin_s: float, end_s: float) -> None:
        self._begin_s, self._end_s = begin_s, end_s

    def take(self, now_s: float) -> float:
        """Now, while the loop lasts."""
        return now_s if self._begin_s <= now_s < self._end_s else NONE_DUE

    def next_s(self) -> float:
        """Infinity."""
        return math.inf

    def over(self, now_s: float) -> bool:
        """Whether the end is reached."""
        return now_s >= self._end_s


class Open:
    """Requests are due at given moments before an end, in growing order, whatever the server does."""

    def __init__(self, moments_s: np.ndarray, end_s: float) -> None:
        self._end_s = end_s
        self._moments_s = array("d", moments_s.astype(np.float64).tobytes())
        self._moments_s.append(math.inf)
        self._place = 0

    def take(self, now_s: float) -> float:
        """The first moment that has come and was not taken."""
        due_s = self._moments_s[self._place]
        if due_s > now_s:
            return NONE_DUE
        self._place += 1
        return due_s

    def next_s(self) -> float:
        """The first moment that was not taken."""
        return self._moments_s[self._place]

    def over(self, now_s: float) -> bool:
        """Whether all were taken and the end is reached: a window is as long as it was said to be."""
        return now_s >= self._end_s and self._place == len(self._moments_s) - 1


def poisson(rate_per_s: float, duration_s: float, seed: tuple[int, ...]) -> np.ndarray:
    """The moments of a Poisson process between 0 and `duration_s`, the same for the same seed.

    Their number is Poisson-distributed, and given their number they are uniform and independent: no gaps need to be summed.
    """
    generator = np.random.default_rng(seed)
    return np.sort(generator.uniform(0.0, duration_s, generator.poisson(rate_per_s * duration_s)))
