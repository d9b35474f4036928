"""What became of every request, one row each, and what of it belongs to the measured window."""

import struct
import time
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

_ROW = struct.Struct("=ddhqqq")
_COLUMNS = np.dtype([("due_s", "f8"), ("ended_s", "f8"), ("how", "i2"), ("rows", "i8"), ("sent", "i8"), ("received", "i8")])
_pack = _ROW.pack


@dataclass(frozen=True, slots=True)
class Window:
    """The measured time, in seconds of CLOCK_MONOTONIC. `by_due`: it has the requests due in it; else those that ended in it."""

    begin_s: float
    end_s: float
    by_due: bool

    def has(self, moments_s: np.ndarray) -> np.ndarray:
        """Which moments are in it: as many booleans."""
        return (moments_s >= self.begin_s) & (moments_s < self.end_s)


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
        self._table = bytearray()
        self._kinds: list[str] = [""]
        self._waited_s = array("d")
        self.errors = 0

    def __len__(self) -> int:
        return len(self._table) // _ROW.size

    def answered(self, due_s: float, ended_s: float, status: int, rows: int, sent: int, received: int) -> None:  # noqa: PLR0913, PLR0917
        """A request has its whole answer."""
        self._table += _pack(due_s, ended_s, status, rows, sent, received)
        if not 200 <= status < 300:
            self.errors += 1

    def failed(self, due_s: float, ended_s: float, kind: str, sent: int = 0, received: int = 0) -> None:
        """A request ended without an answer."""
        if kind not in self._kinds:
            self._kinds.append(kind)
        self.answered(due_s, ended_s, -self._kinds.index(kind), 0, sent, received)

    def waited(self, due_s: float) -> None:
        """A request found no free connection when it was due; what becomes of it is told later."""
        self._waited_s.append(due_s)

    def latencies_s(self, start: int) -> np.ndarray:
        """Of the requests answered with 2xx, from the row `start` on."""
        table = self._read(start)
        return (table["ended_s"] - table["due_s"])[_good(table)]

    def measured(self, window: Window) -> Measured:
        """What belongs to the window.

        In an open loop those are the requests due in it, whenever they ended. In a closed loop those that ended in it; of the
        others, begun in it and ended later, only what failed: so many as were under way at its beginning were counted instead.
        """
        table = self._read(0)
        decides_s = table["due_s"] if window.by_due else table["ended_s"]
        inside, in_time = window.has(decides_s), window.has(table["ended_s"]) & _good(table)
        if not window.by_due:
            inside |= ~_good(table) & (table["ended_s"] >= window.end_s)
        inside, good = table[inside], table[inside & _good(table)]
        told = {
            "offered": len(inside),
            "rows": int(good["rows"].sum()),
            "errors": self._named(inside["how"][~_good(inside)].tolist()),
            "sent_bytes": int(inside["sent"].sum()),
            "received_bytes": int(inside["received"].sum()),
            "in_time": int(np.count_nonzero(in_time)),
            "waited": int(np.count_nonzero(window.has(np.array(self._waited_s)))),
        }
        return Measured(good["ended_s"] - good["due_s"], good["ended_s"] - window.begin_s, told)

    def _read(self, start: int) -> np.ndarray:
        """A copy: the table can grow on."""
        return np.frombuffer(bytes(memoryview(self._table)[start * _ROW.size :]), _COLUMNS)

    def _named(self, how: Sequence[int]) -> dict[str, int]:
        counted = Counter(how).most_common()
        return {f"status {code}" if code > 0 else self._kinds[-code]: count for code, count in counted}


def _good(table: np.ndarray) -> np.ndarray:
    return (table["how"] >= 200) & (table["how"] < 300)


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
