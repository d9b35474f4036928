"""What a call takes, measured on golden rows before the first request: it decides where calls run and how many rows they join."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median

import numpy as np

from artifact import Artifact

LOOP_CALL_S = 300e-6
"""A call that is shorter runs on the event loop: the way to a thread and back takes about as long (docs/adr/0009)."""

_ROUNDS = 7
_ROUNDS_S = 0.05
"""Seconds after which no further round of one size is begun."""


@dataclass(frozen=True, slots=True)
class WarmUp:
    """Seconds of one call by its rows (the median of up to seven), smallest first."""

    seconds: Mapping[int, float]

    def longest_within(self, limit_s: float) -> int | None:
        """The most rows whose call, and that of every smaller measured number, took no longer; None where not even the fewest."""
        found = None
        for rows, seconds in self.seconds.items():
            if seconds > limit_s:
                break
            found = rows
        return found


def warm_up(loaded: Artifact, max_rows: int, stop_s: float) -> WarmUp:
    """Measures 1, 2, 4, … `max_rows` rows (or the fewest that the model takes), until a call takes longer than `stop_s`."""
    seconds: dict[int, float] = {}
    for rows in _sizes(loaded, max_rows):
        inputs = golden_rows(loaded, rows)
        loaded.engine.run(inputs)  # the first call of a shape allocates
        seconds[rows] = _median_s(loaded, inputs)
        if seconds[rows] > stop_s:
            break
    return WarmUp(seconds)


def golden_rows(loaded: Artifact, rows: int) -> dict[str, np.ndarray]:
    """Inputs of so many rows, from the largest golden case. A model without a batch dimension has one row: the case itself."""
    inputs = max(loaded.cases, key=lambda case: sum(array.nbytes for array in case.inputs.values())).inputs
    if loaded.signature.batch_dim is None:
        return dict(inputs)
    return {name: array[np.arange(rows) % len(array)] for name, array in inputs.items()}


def _sizes(loaded: Artifact, max_rows: int) -> list[int]:
    if loaded.signature.batch_dim is None:
        return [1]
    dim = loaded.signature.dims[loaded.signature.batch_dim]
    sizes = [dim.min]
    while sizes[-1] * 2 < max_rows:
        sizes.append(sizes[-1] * 2)
    return [*sizes, max_rows] if max_rows > sizes[-1] else sizes


def _median_s(loaded: Artifact, inputs: Mapping[str, np.ndarray]) -> float:
    taken: list[float] = []
    while len(taken) < _ROUNDS and sum(taken) < _ROUNDS_S:
        began = time.perf_counter()
        loaded.engine.run(inputs)
        taken.append(time.perf_counter() - began)
    return median(taken)
