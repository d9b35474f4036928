"""PyTorch's two formats on a CUDA device."""

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import torch
from torch.export.passes import move_to_device_pass

from artifact.engines import MODEL_FILES, EngineOptions
from artifact.engines.cuda.program import Call, CudaProgram, Device
from artifact.engines.cuda.weights import place_module, place_script
from artifact.engines.pt2 import load_program
from artifact.engines.torchscript import load_script, run_script
from artifact.errors import EngineUnavailable
from artifact.signature import Signature


class CudaEngine:
    """A program of PyTorch's on a CUDA device. `options.threads` is for the processor, which has nothing to compute here."""

    def __init__(self, name: str, program: CudaProgram) -> None:
        self.name = name
        self._program = program

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """See `Engine.run`."""
        return self._program.run(inputs)

    def empty(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """Pinned memory: see `host_memory`."""
        return self._program.empty(shape, dtype)

    @property
    def uses_graphs(self) -> bool:
        """Whether calls run by CUDA graphs."""
        return self._program.uses_graphs


def load_torchscript(model: bytes, signature: Signature, options: EngineOptions) -> CudaEngine:
    """The engine for a TorchScript program.

    Raises:
        EngineUnavailable: PyTorch cannot run on the device, or refuses the bytes.
    """
    return _engine("torchscript", partial(script_call, model), signature, options)


def load_pt2(model: bytes, signature: Signature, options: EngineOptions) -> CudaEngine:
    """The engine for an exported program.

    Raises:
        EngineUnavailable: PyTorch cannot run on the device, or refuses the bytes.
    """
    return _engine("pt2", partial(pt2_call, model), signature, options)


def _engine(
    name: str, load: Callable[[str, str, torch.memory_format], Call], signature: Signature, options: EngineOptions
) -> CudaEngine:
    device = Device.cuda(options)
    try:
        program = CudaProgram(partial(load, str(device.name), options.precision), signature, options, device)
    except RuntimeError as cause:
        raise EngineUnavailable(
            f"PyTorch {torch.__version__} cannot run {MODEL_FILES[name]} on {device.name}: {cause}"
        ) from cause
    return CudaEngine(name, program)


def script_call(model: bytes, device: str, precision: str, layout: torch.memory_format) -> Call:
    """A TorchScript program whose weights are on the device.

    Raises:
        EngineUnavailable: PyTorch refuses the bytes, or the device has no memory for them.
    """
    program = load_script(model, device)
    try:
        place_script(program, device, precision, layout)
    except RuntimeError as cause:
        raise EngineUnavailable(f"PyTorch {torch.__version__} cannot place model.pt on {device}: {cause}") from cause
    return partial(run_script, program)


def pt2_call(model: bytes, device: str, precision: str, layout: torch.memory_format) -> Call:
    """An exported program whose weights, and the devices that its export wrote into it, are the device's.

    Raises:
        EngineUnavailable: PyTorch refuses the bytes, or the device has no memory for them.
    """
    program = load_program(model)
    try:
        module = move_to_device_pass(program, device).module()
        place_module(module, precision, layout)  # type: ignore[arg-type]
    except RuntimeError as cause:
        raise EngineUnavailable(f"PyTorch {torch.__version__} cannot place model.pt2 on {device}: {cause}") from cause
    return module
