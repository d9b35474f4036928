"""The engines: a loaded artifact that can run. One file per format; nothing is imported before its engine is asked for."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from artifact.errors import EngineUnavailable
from artifact.signature import Signature


class Engine(Protocol):
    """One model on one device. Runs may come from several threads at once."""

    name: str

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The outputs, by name, for inputs that the signature allows.

        Raises:
            EngineFailed: the engine refused or failed.
        """
        ...


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How an engine runs. `threads` is for one run; None leaves it to the engine (all physical cores).

    `calls` is how many runs come at once: they share the engine, its weights included. `device` is `cpu` or `cuda:NUMBER`.
    """

    threads: int | None = None
    calls: int = 1
    device: str = "cpu"


def _load_onnx(model: bytes, signature: Signature, options: EngineOptions) -> Engine:
    from artifact.engines.onnx import OnnxEngine

    return OnnxEngine(model, signature, options)


def _load_torchscript(model: bytes, signature: Signature, options: EngineOptions) -> Engine:
    from artifact.engines.torchscript import TorchScriptEngine

    return TorchScriptEngine(model, signature, options)


def _load_pt2(model: bytes, signature: Signature, options: EngineOptions) -> Engine:
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

INSTALL: Mapping[str, str] = {
    "onnx": "pip install 'stateserve[cpu]' (or [gpu])",
    "torchscript": "pip install torch",
    "pt2": "pip install torch",
}
"""Format -> what installs its engine's library."""


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
