"""Rows of several requests as one engine call, and its answers split again. Synchronous: no clock, no queue, no event loop."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from artifact.engines import Engine
from artifact.errors import EngineFailed, InvalidInput
from artifact.signature import Signature
from serving.protocols.asked import Arrays

Outcome = Arrays | Exception


@dataclass(frozen=True, slots=True)
class JoinedEngine:
    """An engine that answers several requests at once. `padded` says how many rows a call for so many rows is given."""

    engine: Engine
    signature: Signature
    padded: Callable[[int], int]
    has_rows: bool = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "has_rows", self.signature.batch_dim is not None)

    def run(self, requests: Sequence[Arrays], rows: Sequence[int]) -> list[Outcome]:
        """Each request's outputs, or the error that is its own: one bad request never fails its neighbours.

        The requests' shapes differ in rows only. Values are checked on the joined rows; where one lies outside, each request is
        looked at and the others run. Where the engine fails, each request runs alone.
        """
        try:
            return self._together(requests, rows)
        except InvalidInput as error:
            return [error] if len(requests) == 1 else self._without_the_invalid(requests, rows)
        except Exception as error:  # noqa: BLE001 - whatever an engine raises belongs to the request, not to the queue's task
            return [error] if len(requests) == 1 else [self.run([r], [n])[0] for r, n in zip(requests, rows, strict=True)]

    def _without_the_invalid(self, requests: Sequence[Arrays], rows: Sequence[int]) -> list[Outcome]:
        faults = [self._fault(request) for request in requests]
        valid = [i for i, fault in enumerate(faults) if fault is None]
        answered = iter(self.run([requests[i] for i in valid], [rows[i] for i in valid]) if valid else ())
        return [next(answered) if fault is None else fault for fault in faults]

    def _fault(self, request: Arrays) -> InvalidInput | None:
        try:
            self.signature.validate_values(request)
        except InvalidInput as error:
            return error
        return None

    def _together(self, requests: Sequence[Arrays], rows: Sequence[int]) -> list[Outcome]:
        inputs = requests[0] if len(requests) == 1 else _concatenated(requests)
        self.signature.validate_values(inputs)
        if not self.has_rows:
            return [self.engine.run(inputs)]
        total = sum(rows)
        given = self.padded(total)
        outputs = self.engine.run(inputs if given == total else _with_rows(inputs, given))
        for name, array in outputs.items():
            if array.ndim == 0 or len(array) != given:
                raise EngineFailed(f'output "{name}" has shape {list(array.shape)} for {given} rows')
        if len(requests) == 1 and given == total:
            return [outputs]
        return _split(outputs, rows)


def _concatenated(requests: Sequence[Arrays]) -> Arrays:
    return {name: np.concatenate([request[name] for request in requests]) for name in requests[0]}


def _with_rows(inputs: Arrays, rows: int) -> Arrays:
    """The inputs with their last row repeated until there are `rows`: a real row is always one that the model takes."""
    return {name: np.concatenate([array, np.repeat(array[-1:], rows - len(array), axis=0)]) for name, array in inputs.items()}


def _split(outputs: Arrays, rows: Sequence[int]) -> list[Outcome]:
    split: list[Outcome] = []
    start = 0
    for count in rows:
        end = start + count
        split.append({name: array[start:end] for name, array in outputs.items()})
        start = end
    return split
