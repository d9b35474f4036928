"""What became of every request, one row each, and what of it belongs to the measured window."""

import time
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

SUCCESS = range(200, 300)


@dataclass(frozen=True, slots=True)
class Window:
    """The measured time, in seconds of CLOCK_MONOTONIC. `by_due`: it has the requests due in it; else those that ended in it."""

    begin_s: float
    end_s: float
    by_due: bool


@dataclass(frozen=True, slots=True)
class Measured:
    """What a window has, as `bench.client.load.Outcome` explains it; what is not in an array is in `told`, ready for JSON."""

    latencies_s: np.ndarray
    answered_s: np.ndarray
    told: Mapping[str, object]


class Tally:
    """A growing table: when a request was due, when it ended and how, its rows and bytes.

    How it ended is a status, or the negative place of a kind in `kinds`.
    """

    def __init__(self) -> None:
        self._due_s, self._ended_s = array("d"), array("d")
        self._how, self._rows = array("h"), array("q")
        self._sent, self._received = array("q"), array("q")
        self._kinds: list[str] = [""]
        self.errors = 0

    def __len__(self) -> int:
        return len(self._due_s)

    def answered(self, due_s: float, ended_s: float, status: int, rows: int, sent: int, received: int) -> None:  # noqa: PLR0913, PLR0917
        """A request has its whole answer."""
        self._due_s.append(due_s)
        self._ended_s.append(ended_s)
        self._how.append(status)
        self._rows.append(rows)
        self._sent.append(sent)
        self._received.append(received)
        if status not in SUCCESS:
            self.errors += 1

    def failed(self, due_s: float, ended_s: float, kind: str, sent: int = 0, received: int = 0) -> None:
        """A request ended without an answer."""
        if kind not in self._kinds:
            self._kinds.append(kind)
        self.answered(due_s, ended_s, -self._kinds.index(kind), 0, sent, received)

    def latencies_s(self, start: int) -> np.ndarray:
        """Of the requests answered with 2xx, from the row `start` on."""
        how = np.array(self._how[start:])
        taken = np.array(self._ended_s[start:]) - np.array(self._due_s[start:])
        return taken[(how >= SUCCESS.start) & (how < SUCCESS.stop)]

    def measured(self, window: Window) -> Measured:
        """What belongs to the window.

        In an open loop those are the requests due in it, whenever they ended. In a closed loop those that ended in it; of the
        others, begun in it and ended later, only what failed: so many as were under way at its beginning were counted instead.
        """
        due_s, ended_s, how = np.array(self._due_s), np.array(self._ended_s), np.array(self._how)
        good = (how >= SUCCESS.start) & (how < SUCCESS.stop)
        if window.by_due:
            inside = (due_s >= window.begin_s) & (due_s < window.end_s)
        else:
            inside = (ended_s >= window.begin_s) & ((ended_s < window.end_s) | ~good)
        good &= inside
        told = {
            "offered": int(inside.sum()),
            "rows": int(np.array(self._rows)[good].sum()),
            "errors": self._named(how[inside & ~good].tolist()),
            "sent_bytes": int(np.array(self._sent)[inside].sum()),
            "received_bytes": int(np.array(self._received)[inside].sum()),
        }
        return Measured((ended_s - due_s)[good], ended_s[good] - window.begin_s, told)

    def _named(self, how: Sequence[int]) -> dict[str, int]:
        counted = Counter(how).most_common()
        return {f"status {code}" if code > 0 else self._kinds[-code]: count for code, count in counted}


class Busy:
    """The share of a core that this process uses in a window, from samples taken as often as one likes."""

    def __init__(self, begin_s: float, end_s: float) -> None:
        self._begin_s, self._end_s = begin_s, end_s
        self._first = self._last = (begin_s, time.process_time())

    def sample(self, now_s: float) -> None:
        """Looks at the process's CPU time now."""
        if now_s <= self._begin_s:
            self._first = self._last = (now_s, time.process_time())
        elif self._last[0] < self._end_s:
            self._last = (now_s, time.process_time())

    @property
    def share(self) -> float:
        """CPU seconds in a second of the window; more than 1 is not possible: there is one thread."""
        seconds = self._last[0] - self._first[0]
        return (self._last[1] - self._first[1]) / seconds if seconds > 0 else 0.0
