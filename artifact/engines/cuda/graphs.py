"""CUDA graphs of a program, one for each batch bucket: a call queues one graph instead of hundreds of kernels.

A graph reads and writes always the same memory. So there is one landing for each shape of a row, as long as the largest batch:
a bucket's graph reads its first rows. Those beyond what a call uploads are of earlier calls, or the row that it was filled with:
rows that the model takes, whose answers nobody sees.
"""

import bisect
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from artifact.engines.buckets import MAX_BYTES
from artifact.engines.cuda.memory import Memory
from artifact.engines.cuda.streams import Answers, Streams

log = logging.getLogger("stateserve")

MAX_SHAPES = 16
"""Shapes of a row that have graphs; what comes later runs without. Each has a landing, and a graph for each bucket seen.

So has no shape whose landing would take more than `MAX_BYTES`: the device's memory is for the calls.
"""

Run = Callable[[Sequence[torch.Tensor]], Answers]
"""Inputs on the device -> the signature's outputs there; the inputs are left as they are."""
Shapes = tuple[tuple[int, ...], ...]


class Switch:
    """Whether a program's graphs are used: they are, until one cannot be captured."""

    def __init__(self, *, is_on: bool) -> None:
        self.is_on = is_on

    def turn_off(self, reason: Exception) -> None:
        """From now on the program runs without graphs; the log says so once."""
        if self.is_on:
            self.is_on = False
            log.warning("the program runs without CUDA graphs, since it cannot be captured: %s", _first_line(reason))


@dataclass(slots=True)
class _Landing:
    """Where rows of one shape are uploaded to, and the graphs that read it; None for a bucket that had too little memory."""

    inputs: list[torch.Tensor]
    graphs: dict[int, "tuple[Callable[[], None], Answers] | None"] = field(default_factory=dict)


class Graphs:
    """One lane's graphs. `sizes` are the buckets, smallest first; where there are none, no dimension counts rows."""

    def __init__(self, run: Run, sizes: Sequence[int], streams: Streams, memory: Memory, switch: Switch) -> None:
        self._run, self._sizes = run, sizes
        self._streams, self._memory, self._switch = streams, memory, switch
        self._landings: dict[Shapes, _Landing | None] = {}

    @property
    def captured(self) -> Mapping[Shapes, Sequence[int]]:
        """The buckets that have a graph, by the shapes of the inputs' rows."""
        return {
            shapes: [bucket for bucket, graph in landing.graphs.items() if graph]
            for shapes, landing in self._landings.items()
            if landing is not None
        }

    def run(self, inputs: Sequence[torch.Tensor], device: torch.device) -> Answers | None:
        """Queues a graph for inputs of the host, and gives its answers, those of the bucket's other rows included.

        None where there is none for it: the program is to run without. The first call of a bucket captures its graph.
        """
        bucket = self._bucket(inputs)
        if bucket is None or not self._switch.is_on:
            return None
        landing = self._landing(inputs, device)
        if landing is None:
            return None
        if bucket not in landing.graphs:
            landing.graphs[bucket] = self._captured(landing, bucket)
        graph = landing.graphs[bucket]
        if graph is None:
            return None
        self._upload(inputs, landing)
        replay, answers = graph
        with self._streams.computing():
            replay()
        return answers

    def _bucket(self, inputs: Sequence[torch.Tensor]) -> int | None:
        if not self._sizes:
            return 0
        place = bisect.bisect_left(self._sizes, len(inputs[0]))
        return self._sizes[place] if place < len(self._sizes) else None

    def _landing(self, inputs: Sequence[torch.Tensor], device: torch.device) -> _Landing | None:
        """Where the inputs' rows land; None where there are enough shapes, or no memory for the largest batch of this one."""
        shapes = tuple(tuple(tensor.shape[1:] if self._sizes else tensor.shape) for tensor in inputs)
        if shapes not in self._landings and len(self._landings) < MAX_SHAPES:
            self._landings[shapes] = self._made(inputs, device)
        return self._landings.get(shapes)

    def _made(self, inputs: Sequence[torch.Tensor], device: torch.device) -> _Landing | None:
        """A landing that is filled with the inputs' last row."""
        if self._sizes and sum(tensor[-1:].nbytes for tensor in inputs) * self._sizes[-1] > MAX_BYTES:
            return None
        try:
            with self._streams.computing():
                landing = _Landing([self._filled(tensor, device) for tensor in inputs])
            self._streams.finish()
        except RuntimeError as error:
            if not self._memory.ran_out(error):
                raise
            self._memory.release()
            return None
        return landing

    def _filled(self, tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
        if not self._sizes:
            return tensor.to(device, copy=True)
        return tensor[-1:].to(device).repeat(self._sizes[-1], *[1] * (tensor.dim() - 1))

    def _captured(self, landing: _Landing, bucket: int) -> "tuple[Callable[[], None], Answers] | None":
        """The bucket's graph. A program that fails by itself raises; one that cannot be captured turns graphs off."""
        inputs = [tensor[:bucket] for tensor in landing.inputs] if self._sizes else landing.inputs
        try:
            self._streams.warm(lambda: self._run(inputs))
        except RuntimeError as error:
            if not self._memory.ran_out(error):
                raise
            self._memory.release()
            return None
        try:
            return self._streams.capture(lambda: self._run(inputs))
        except RuntimeError as error:
            if self._memory.ran_out(error):
                self._memory.release()
            else:
                self._switch.turn_off(error)
            return None

    def _upload(self, inputs: Sequence[torch.Tensor], landing: _Landing) -> None:
        with self._streams.uploading():
            for tensor, place in zip(inputs, landing.inputs, strict=True):
                target = place[: len(tensor)] if self._sizes else place
                target.copy_(tensor, non_blocking=True)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
