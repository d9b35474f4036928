"""Rows of several requests as one engine call, and its answers split again. Synchronous: no clock, no queue, no event loop."""

from collections.abc import Callable, Sequence

import numpy as np

from artifact.engines import Engine, host_memory
from artifact.errors import EngineFailed, InvalidInput, OutOfMemory
from artifact.signature import Signature
from serving.protocols.asked import Arrays

Outcome = Arrays | Exception

_KEPT_BYTES = 128 << 20
"""Shapes that differ in more than rows have buffers of their own; together they are kept up to here."""


class Padding:
    """How many rows a call for so many is given: a preferred size where one is near above, and always one that was proven.

    Several engines share it, and may ask in threads while it is cut.
    """

    def __init__(self, signature: Signature, preferred: Sequence[int], most: int) -> None:
        """`most` are the rows of one call; `preferred` sizes ascend."""
        self._dim = None if signature.batch_dim is None else signature.dims[signature.batch_dim]
        self._preferred = preferred
        self._padded: dict[int, int] = {}
        self._fill(most)

    def __call__(self, rows: int) -> int:
        """As many rows as are asked for, or a few more."""
        return self._padded.get(rows, rows)

    def cut(self, most: int) -> int:
        """From now on no call is given more rows, or as few as the model takes: how many that are.

        What was to be larger already, stays so.
        """
        if self._dim is None:
            return 1
        sizes = [size for size in range(self._dim.min, self._dim.max + 1) if self._dim.allows(size)]
        most = max((size for size in sizes if size <= most), default=sizes[0])
        self._fill(most)
        return most

    def _fill(self, most: int) -> None:
        dim = self._dim
        if dim is None:
            return
        preferred = [size for size in self._preferred if size <= most and dim.allows(size)]
        padded = {rows: size for rows, size in self._padded.items() if rows > most}
        if preferred or dim.min > 1 or dim.multiple > 1:
            allowed = [size for size in range(dim.min, most + 1) if dim.allows(size)]
            for rows in range(1, most + 1):
                size = next((size for size in preferred if size >= rows), None)
                padded[rows] = size or next((size for size in allowed if size >= rows), most)
        self._padded = padded


class JoinedEngine:
    """An engine that answers several requests at once, one call at a time.

    `padded` says how many rows a call for so many rows is given. Joined rows are gathered in buffers that the next call uses
    again: fresh memory for each call would cost more than the copying.
    """

    def __init__(self, engine: Engine, signature: Signature, padded: Callable[[int], int]) -> None:
        self._engine = engine
        self._signature = signature
        self._padded = padded
        self._empty = host_memory(engine)
        self._has_rows = signature.batch_dim is not None
        self._buffers: dict[tuple[str, tuple[int, ...]], np.ndarray] = {}

    def run(self, requests: Sequence[Arrays], rows: Sequence[int]) -> list[Outcome]:
        """Each request's outputs, or the error that is its own: one bad request never fails its neighbours.

        The requests' shapes differ in rows only. Values are checked on the joined rows; where one lies outside, each request is
        looked at and the others run. Where the engine fails, each request runs alone; where it has no memory, none does: the
        next calls are to be smaller.
        """
        try:
            return self._together(requests, rows)
        except InvalidInput as error:
            return [error] if len(requests) == 1 else self._without_the_invalid(requests, rows)
        except OutOfMemory as error:
            return [error, *(OutOfMemory(str(error)) for _ in requests[1:])]
        except Exception as error:  # noqa: BLE001 - whatever an engine raises belongs to the request, not to the queue's task
            return [error] if len(requests) == 1 else [self.run([r], [n])[0] for r, n in zip(requests, rows, strict=True)]

    def run_one(self, inputs: Arrays, rows: int) -> Arrays:
        """One request's outputs.

        Raises:
            InvalidInput: a value is not in its declared range.
            EngineFailed: the engine failed, or gave an output of other length; OutOfMemory: the device has not enough for it.
        """
        if self._has_rows and self._padded(rows) != rows:
            (outcome,) = self.run([inputs], [rows])
            if isinstance(outcome, Exception):
                raise outcome
            return outcome
        self._signature.validate_values(inputs)
        return self._checked(self._engine.run(inputs), rows)

    def _checked(self, outputs: Arrays, rows: int) -> Arrays:
        if self._has_rows:
            for name, array in outputs.items():
                if array.ndim == 0 or len(array) != rows:
                    raise EngineFailed(f'output "{name}" has shape {list(array.shape)} for {rows} rows')
        return outputs

    def _without_the_invalid(self, requests: Sequence[Arrays], rows: Sequence[int]) -> list[Outcome]:
        faults = [self._fault(request) for request in requests]
        valid = [i for i, fault in enumerate(faults) if fault is None]
        answered = iter(self.run([requests[i] for i in valid], [rows[i] for i in valid]) if valid else ())
        return [next(answered) if fault is None else fault for fault in faults]

    def _fault(self, request: Arrays) -> InvalidInput | None:
        try:
            self._signature.validate_values(request)
        except InvalidInput as error:
            return error
        return None

    def _together(self, requests: Sequence[Arrays], rows: Sequence[int]) -> list[Outcome]:
        if not self._has_rows:
            self._signature.validate_values(requests[0])
            return [self._engine.run(requests[0])]
        total = sum(rows)
        given = self._padded(total)
        is_whole = len(requests) == 1 and given == total
        inputs = requests[0] if is_whole else {name: self._gathered(name, requests, given) for name in requests[0]}
        self._signature.validate_values(inputs)
        outputs = self._checked(self._engine.run(inputs), given)
        if is_whole:
            return [outputs]
        return _split({name: self._own(array, inputs) for name, array in outputs.items()}, rows)

    def _gathered(self, name: str, requests: Sequence[Arrays], given: int) -> np.ndarray:
        """One input's rows of all requests, then its last row again, up to `given`: a row that was sent is one that is taken."""
        arrays = [request[name] for request in requests]
        last = arrays[-1]
        key = (name, last.shape[1:])
        buffer = self._buffers.get(key)
        if buffer is None or len(buffer) < given:
            buffer = self._empty((given, *last.shape[1:]), last.dtype)
            if sum(kept.nbytes for kept in self._buffers.values()) + buffer.nbytes > _KEPT_BYTES:
                self._buffers.clear()
            self._buffers[key] = buffer
        total = sum(map(len, arrays))
        np.concatenate(arrays, out=buffer[:total])
        buffer[total:given] = last[-1]
        return buffer[:given]

    @staticmethod
    def _own(output: np.ndarray, inputs: Arrays) -> np.ndarray:
        """The output in memory that the next call does not write to: an engine may give back an input as it came."""
        is_shared = any(np.may_share_memory(output, array) for array in inputs.values())
        return output.copy() if is_shared else output


def _split(outputs: Arrays, rows: Sequence[int]) -> list[Outcome]:
    split: list[Outcome] = []
    start = 0
    for count in rows:
        end = start + count
        split.append({name: array[start:end] for name, array in outputs.items()})
        start = end
    return split
