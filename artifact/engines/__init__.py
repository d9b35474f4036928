"""The engines: a loaded artifact that can run. One file per format; nothing is imported before its engine is asked for."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from artifact.engines.devices import cuda_devices
from artifact.errors import EngineUnavailable
from artifact.signature import Signature

__all__ = [
    "INSTALL",
    "LOADERS",
    "MODEL_FILES",
    "Engine",
    "EngineOptions",
    "cuda_devices",
    "host_memory",
    "load_engine",
    "model_file",
]


class Engine(Protocol):
    """One model on one device. Runs may come from several threads at once."""

    name: str

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The outputs, by name, for inputs that the signature allows.

        Raises:
            EngineFailed: the engine refused or failed.
            OutOfMemory: the device has no memory for so many rows; the engine goes on.
            DeviceLost: the device fails in every call from now on.
        """
        ...


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How an engine runs. `threads` is for one run; None leaves it to the engine (all physical cores).

    `calls` is how many runs come at once: they share the engine, its weights included. `device` is `cpu` or `cuda:NUMBER`.
    `precision` is what is computed in: `float32`, `tf32`, `float16` or `bfloat16`. `memory_bytes` is what the engine may take of
    a CUDA device; None for all of it. `cuda_graphs`: whether PyTorch's formats capture their kernels into CUDA graphs.
    """

    threads: int | None = None
    calls: int = 1
    device: str = "cpu"
    precision: str = "float32"
    memory_bytes: int | None = None
    cuda_graphs: bool = True


def _load_onnx(model: bytes, signature: Signature, options: EngineOptions) -> Engine:
    if options.device != "cpu":
        from artifact.engines.cuda.session import CudaOnnxEngine

        return CudaOnnxEngine(model, signature, options)
    from artifact.engines.onnx import OnnxEngine

    return OnnxEngine(model, signature, options)


def _load_torchscript(model: bytes, signature: Signature, options: EngineOptions) -> Engine:
    if options.device != "cpu":
        from artifact.engines.cuda.engines import load_torchscript

        return load_torchscript(model, signature, options)
    from artifact.engines.torchscript import TorchScriptEngine

    return TorchScriptEngine(model, signature, options)


def _load_pt2(model: bytes, signature: Signature, options: EngineOptions) -> Engine:
    if options.device != "cpu":
        from artifact.engines.cuda.engines import load_pt2

        return load_pt2(model, signature, options)
    from artifact.engines.pt2 import Pt2Engine

    return Pt2Engine(model, signature, options)


LOADERS: Mapping[str, Callable[[bytes, Signature, EngineOptions], Engine]] = {
    "onnx": _load_onnx,
    "torchscript": _load_torchscript,
    "pt2": _load_pt2,
}
"""Format -> its engine, in the order of preference."""

MODEL_FILES: Mapping[str, str] = {"onnx": "model.onnx", "torchscript": "model.pt", "pt2": "model.pt2"}
"""Format -> the file that holds it. TorchServe takes TorchScript under the suffix .pt only."""

_HALF_FILES: Mapping[str, str] = {"onnx": "model.float16.onnx"}
"""Format -> the file whose weights are float16. PyTorch computes in float16 from float32 weights: its formats have one file."""

INSTALL: Mapping[str, str] = {
    "onnx": "pip install 'stateserve[cpu]' (or [gpu])",
    "torchscript": "pip install torch",
    "pt2": "pip install torch",
}
"""Format -> what installs its engine's library."""


def model_file(format_name: str, precision: str = "float32", device: str = "cpu") -> str:
    """The file of a format that runs in a precision on a device. The device changes nothing yet: one file runs on all.

    Raises:
        EngineUnavailable: the format has no such form.
    """
    if format_name == "onnx" and precision == "bfloat16":
        raise EngineUnavailable(
            f"engine onnx has no bfloat16 form for {device}: take engine torchscript or pt2, or precision float16 or float32"
        )
    half = _HALF_FILES.get(format_name) if precision == "float16" else None
    return half or MODEL_FILES[format_name]


Allocate = Callable[[tuple[int, ...], np.dtype], np.ndarray]
"""A shape and an element type -> an array with no values yet."""


def host_memory(engine: Engine) -> Allocate:
    """What allocates memory from which the engine takes inputs without another copy: pinned for a CUDA device, else any."""
    return getattr(engine, "empty", np.empty)


def load_engine(format_name: str, model: bytes, signature: Signature, options: EngineOptions | None = None) -> Engine:
    """Makes the engine that runs a model file's bytes.

    Raises:
        EngineUnavailable: the engine's library is not installed, or it refuses the bytes.
    """
    try:
        return LOADERS[format_name](model, signature, options or EngineOptions())
    except ModuleNotFoundError as cause:
        raise EngineUnavailable(
            f"engine {format_name} needs {cause.name}, which is not installed: {INSTALL[format_name]}"
        ) from cause
