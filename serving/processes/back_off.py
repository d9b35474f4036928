"""How long to wait before a process that ended is started again."""

_SHORT_LIFE_S = 10.0
_SHORTEST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 30.0


class BackOff:
    """The pauses of one place, whichever process has it.

    Not at all at first. One that ends again and again before it was ready waits longer each time; one that had been ready is
    missed by those who ask, and waits a second at most.
    """

    def __init__(self) -> None:
        self._unready_ends = self._quick_ends = 0

    def pause_s(self, lived_s: float, *, was_ready: bool) -> float:
        """Seconds to wait after a life of `lived_s`."""
        self._quick_ends = self._quick_ends + 1 if lived_s < _SHORT_LIFE_S else 0
        self._unready_ends = 0 if was_ready else self._unready_ends + 1
        if self._quick_ends <= 1:
            return 0.0
        return _SHORTEST_PAUSE_S if was_ready else longer_pause_s(self._unready_ends - 2)


def longer_pause_s(failures: int) -> float:
    """Seconds before what failed is tried again: 1 after none before it (or fewer), twice as long after each, 30 at most."""
    return min(_SHORTEST_PAUSE_S * 2.0 ** max(0, failures), _LONGEST_PAUSE_S)


def soon(pause_s: float) -> str:
    """When that is, for people."""
    return f"in {pause_s:g} s" if pause_s else "now"
