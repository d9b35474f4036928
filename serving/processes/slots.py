"""How a request lies in its slot, and the records in which two processes tell each other of it: the same on both sides.

A slot begins with one place for the mark that the engine was given the request, and its inputs and outputs each begin at a place.
Where they are follows from the sizes of the signature's named dimensions, so that a record is a handful of numbers. Processes of
one server run on one machine: numbers are as in memory, little-endian.
"""

import itertools
import math
import struct
from dataclasses import dataclass

import numpy as np

from artifact.signature import DTYPES, Signature, TensorSpec
from serving.processes.arena import PLACE_BYTES, rounded
from serving.protocols.asked import Arrays

WAITS, BEGUN = 0, 1
"""The mark, the slot's first byte. The front end writes the one, the engine process the other."""

PUT, LEAVE = 0, 1
"""What a front end says of a slot: run it, or that nobody waits for it any more."""

DONE = 0
"""An answered request's kind; any other number is an error's."""

HELLO = struct.Struct("<Q")
"""The first thing a front end sends, with the arena's descriptor: its bytes."""

_MOST_LAYOUTS = 1024

Sizes = tuple[int, ...]
"""Of the named dimensions of the inputs, in the order in which the signature names them."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a request of these sizes has what, in bytes from its slot's begin.

    `inputs` are name, shape, dtype, offset; `outputs` name, dtype, offset, and the bytes that there is room for. Requests of one
    `group` differ in rows only.
    """

    sizes: Sizes
    rows: int
    group: Sizes
    slot_bytes: int
    inputs: tuple[tuple[str, tuple[int, ...], np.dtype, int], ...]
    outputs: tuple[tuple[str, np.dtype, int, int], ...]


class Slots:
    """The slots of one signature, and its records.

    `asked` is what a front end sends: what it says, the priority's level, the slot's place, the deadline (a reading of
    `time.perf_counter`, or 0), and the sizes. `answered` is what comes back: a kind, seconds until a client should ask again, the
    place, the bytes of text behind the record, when the engine began and ended, and the outputs' shapes one after the other.
    """

    def __init__(self, signature: Signature) -> None:
        self._signature = signature
        where: dict[str, tuple[str, int]] = {}
        for spec in signature.inputs:
            for axis, dim in enumerate(spec.shape):
                if isinstance(dim, str):
                    where.setdefault(dim, (spec.name, axis))
        self._dims = tuple(where)
        self._where = tuple(where.values())
        self._layouts: dict[Sizes, Layout] = {}
        ends = np.cumsum([0, *(len(spec.shape) for spec in signature.outputs)]).tolist()
        self.shapes = tuple(slice(start, end) for start, end in itertools.pairwise(ends))
        """Where each output's shape stands among the numbers at the end of `answered`."""
        self.asked = struct.Struct(f"<BBId{len(self._dims)}I")
        self.answered = struct.Struct(f"<BHIIdd{ends[-1]}I")

    def sizes(self, inputs: Arrays) -> Sizes:
        """The sizes of a request, whose shapes were checked."""
        return tuple([inputs[name].shape[axis] for name, axis in self._where])

    def layout(self, sizes: Sizes) -> Layout:
        """Where a request of these sizes has what. A dimension that only outputs name has its largest size."""
        layout = self._layouts.get(sizes)
        if layout is None:
            if len(self._layouts) >= _MOST_LAYOUTS:
                self._layouts.clear()
            layout = self._layouts[sizes] = self._laid_out(sizes)
        return layout

    def _laid_out(self, sizes: Sizes) -> Layout:
        named = dict(zip(self._dims, sizes, strict=True))
        batch = self._signature.batch_dim
        known = {name: dim.max for name, dim in self._signature.dims.items()} | named
        end = PLACE_BYTES
        inputs, outputs = [], []
        for spec in self._signature.inputs:
            inputs.append((spec.name, spec.concrete(known), DTYPES[spec.dtype], end))
            end += rounded(_bytes(spec, known))
        for spec in self._signature.outputs:
            room_bytes = _bytes(spec, known)
            outputs.append((spec.name, DTYPES[spec.dtype], end, room_bytes))
            end += rounded(room_bytes)
        return Layout(
            sizes=sizes,
            rows=1 if batch is None else named[batch],
            group=tuple(size for name, size in named.items() if name != batch),
            slot_bytes=end,
            inputs=tuple(inputs),
            outputs=tuple(outputs),
        )


def _bytes(spec: TensorSpec, sizes: dict[str, int]) -> int:
    return math.prod(spec.concrete(sizes)) * DTYPES[spec.dtype].itemsize
