"""A PyTorch program on a CUDA device: several lanes, in each of which one call at a time is uploaded, computed and downloaded.

While one lane computes, another uploads, and a third copies its answers out: as many as calls come at once.
"""

import logging
import queue
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch

from artifact.engines import EngineOptions
from artifact.engines.buckets import buckets, example
from artifact.engines.cuda.graphs import Graphs, Switch
from artifact.engines.cuda.memory import CudaMemory, Memory
from artifact.engines.cuda.staging import Staging, empty
from artifact.engines.cuda.streams import Answers, CudaStreams, Streams
from artifact.engines.devices import device_index
from artifact.engines.precision import allow_tf32, computing_in
from artifact.engines.tensors import as_declared, listed_outputs
from artifact.errors import DeviceLost, EngineFailed, EngineUnavailable, OutOfMemory
from artifact.signature import Signature

log = logging.getLogger("stateserve")

Call = Callable[..., object]
"""A program: its inputs in the signature's order -> a tensor, or several."""
Load = Callable[[torch.memory_format], Call]
"""Makes a program, its weights on the device and its filters in that layout."""

_IMAGES = 4
"""Dimensions of what convolutions take: batch, channels, height, width."""
_IMAGE_DTYPES = frozenset({torch.uint8, torch.float16, torch.float32, torch.float64})


@dataclass(frozen=True, slots=True)
class Device:
    """Where a program runs: a device, its memory, and the streams of each call that may come at once."""

    name: torch.device
    memory: Memory
    streams: Sequence[Streams]
    pinned: bool = True

    @classmethod
    def cuda(cls, options: EngineOptions) -> "Device":
        """The CUDA device that the options name. The memory's limit, and TF32, hold for the whole process.

        Raises:
            EngineUnavailable: PyTorch cannot run on it here.
        """
        name = torch.device("cuda", device_index(options.device))
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if name.index >= count:
            raise EngineUnavailable(
                f"PyTorch {torch.__version__} cannot run on {options.device} here: it sees {count} CUDA device(s); install "
                "PyTorch for CUDA and NVIDIA's driver, take one of those that are there, or run on the CPU"
            )
        allow_tf32(allowed=options.precision == "tf32")
        try:
            memory = CudaMemory(name, options.memory_bytes)
            return cls(name, memory, [CudaStreams(name) for _ in range(options.calls)])
        except RuntimeError as cause:
            raise EngineUnavailable(f"PyTorch {torch.__version__} cannot run on {options.device}: {cause}") from cause


@dataclass(frozen=True, slots=True)
class _Lane:
    """What one call at a time uses."""

    streams: Streams
    staging: Staging
    graphs: Graphs


class CudaProgram:
    """A program whose weights are on the device. Runs may come from any number of threads; as many as lanes go on at once.

    Inputs are uploaded in their own element types. Images and filters are laid out channels last, the layout that the device's
    convolutions are fastest in, unless the program fails with it.
    """

    def __init__(self, load: Load, signature: Signature, options: EngineOptions, device: Device) -> None:
        self._signature, self._device = signature, device
        self._precision = options.precision
        self._has_rows = signature.batch_dim is not None
        self._names = [spec.name for spec in signature.outputs]
        self._sizes = buckets(signature)
        self._switch = Switch(is_on=options.cuda_graphs)
        self._lanes = [self._lane(streams) for streams in device.streams]
        self._layout = torch.channels_last
        self._call = self._loaded(load)
        self._settle(load)
        self._free: queue.LifoQueue[_Lane] = queue.LifoQueue()  # one thread alone uses the same lane, and its warm buffers
        for lane in reversed(self._lanes):
            self._warm(lane)
            self._free.put(lane)

    @property
    def uses_graphs(self) -> bool:
        """Whether calls run by CUDA graphs, where there is one for their shape."""
        return self._switch.is_on

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """See `Engine.run`; waits for a lane where more calls come at once than were announced.

        Raises:
            OutOfMemory, DeviceLost, EngineFailed: see there.
        """
        lane = self._free.get()
        try:
            return self._run(lane, inputs)
        finally:
            self._free.put(lane)

    def empty(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """An array in pinned memory, from which `run` uploads without another copy."""
        size = int(np.prod(shape)) * dtype.itemsize
        return empty(size, pinned=self._device.pinned).numpy().view(dtype).reshape(shape)

    def _lane(self, streams: Streams) -> _Lane:
        sizes = self._sizes if self._has_rows else ()
        graphs = Graphs(self._answers, sizes, streams, self._device.memory, self._switch)
        return _Lane(streams, Staging(pinned=self._device.pinned), graphs)

    def _loaded(self, load: Load) -> Call:
        """The program. It is placed on a lane's stream: no other waits for what the default one was told to do."""
        streams = self._lanes[0].streams
        with streams.computing():
            call = load(self._layout)
        streams.finish()
        return call

    def _settle(self, load: Load) -> None:
        """Does without channels last where the program fails with it: one that views an image's memory as rows does.

        And without graphs where it waits for the device: PyTorch does not recover from a capture that fails.
        """
        if (error := self._failure(nullcontext())) is not None:
            self._layout = torch.contiguous_format
            self._call = self._loaded(load)
            if self._failure(nullcontext()) is not None:
                return  # it is not for the layout: the golden replay tells
            log.warning("the program does not run with images laid out channels last, and runs without: %s", error)
        if self._switch.is_on and (error := self._failure(self._lanes[0].streams.never_waiting())) is not None:
            self._switch.turn_off(error)

    def _failure(self, context: AbstractContextManager[None]) -> Exception | None:
        """Why the program does not run in a context, with the fewest rows; want of memory is told by the warm-up."""
        lane, inputs = self._lanes[0], example(self._signature, self._sizes[0])
        try:
            with torch.inference_mode():
                hosts = [lane.staging.put(spec.name, inputs[spec.name]) for spec in self._signature.inputs]
                with context:
                    self._computed(lane, hosts)
        except (RuntimeError, EngineFailed) as error:
            if not isinstance(error, RuntimeError) or not self._device.memory.ran_out(error):
                return error
            self._device.memory.release()
        finally:
            lane.streams.finish()
        return None

    def _warm(self, lane: _Lane) -> None:
        """One call of every bucket, the largest first: smaller graphs use its memory. What fails is told by the golden replay."""
        for rows in reversed(self._sizes):
            try:
                self._run(lane, example(self._signature, rows))
            except EngineFailed as error:
                log.warning("the warm-up of %d row(s) on %s failed: %s", rows, self._device.name, error)

    def _run(self, lane: _Lane, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        try:
            with torch.inference_mode():
                return self._answered(lane, inputs)
        except RuntimeError as error:
            if self._device.memory.ran_out(error):
                self._device.memory.release()
                raise OutOfMemory(f"{self._device.name} has no memory for this call: {error}") from error
            self._require_device(lane)
            raise EngineFailed(f"the program failed on {self._device.name}: {error}") from error

    def _require_device(self, lane: _Lane) -> None:
        """Raises DeviceLost where even waiting fails: a failed kernel takes all of the process's work on the device along."""
        try:
            lane.streams.finish()
        except RuntimeError as error:
            raise DeviceLost(f"{self._device.name} is lost to this process, which is to be started again: {error}") from error

    def _answered(self, lane: _Lane, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Uploads, computes and downloads; waits once, at the end. The answers' arrays are the caller's own."""
        rows = len(next(iter(inputs.values()))) if self._has_rows else None
        try:
            hosts = [lane.staging.put(spec.name, inputs[spec.name]) for spec in self._signature.inputs]
            answers = lane.graphs.run(hosts, self._device.name)
            if answers is None:
                answers = self._computed(lane, hosts)
            with lane.streams.computing():
                parts = answers if rows is None else [answer[:rows] for answer in answers]
                copies = [self._download(lane, name, part) for name, part in zip(self._names, parts, strict=True)]
        finally:  # nothing may be used again that is still being copied
            lane.streams.finish()
        return {name: copy.numpy().copy() for name, copy in zip(self._names, copies, strict=True)}

    @staticmethod
    def _download(lane: _Lane, name: str, answer: torch.Tensor) -> torch.Tensor:
        return lane.staging.take(f"output {name}", answer.shape, answer.dtype).copy_(answer, non_blocking=True)

    def _computed(self, lane: _Lane, hosts: Sequence[torch.Tensor]) -> Answers:
        """The answers without a graph. Memory is taken where it is used, on the computing stream, and given back there."""
        with lane.streams.computing():
            inputs = [torch.empty_like(host, device=self._device.name) for host in hosts]
        with lane.streams.uploading():
            for tensor, host in zip(inputs, hosts, strict=True):
                tensor.copy_(host, non_blocking=True)
        with lane.streams.computing():
            return self._answers(inputs)

    def _answers(self, inputs: Sequence[torch.Tensor]) -> Answers:
        """The program's outputs. It is given copies: it may write into its inputs, and a graph reads the same ones again."""
        given = [tensor.clone(memory_format=self._layout_of(tensor)) for tensor in inputs]
        with computing_in(self._precision, self._device.name.type):
            found = listed_outputs(self._call(*given), self._names)
        return [tensor.contiguous() for tensor in as_declared(found, self._signature.outputs)]

    def _layout_of(self, tensor: torch.Tensor) -> torch.memory_format:
        is_image = tensor.dim() == _IMAGES and tensor.dtype in _IMAGE_DTYPES
        return self._layout if is_image else torch.contiguous_format
