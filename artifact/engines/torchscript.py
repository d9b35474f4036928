"""TorchScript: a legacy format, deprecated by PyTorch since 2.10 (see docs/adr/0007)."""

import io
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch.jit._fuser import optimized_execution

from artifact.engines import EngineOptions
from artifact.engines.precision import computing_in
from artifact.engines.tensors import as_declared, copied_tensors, listed_outputs, named_arrays
from artifact.errors import EngineFailed, EngineUnavailable
from artifact.signature import Signature


class TorchScriptEngine:
    """A frozen TorchScript program on the CPU.

    `options.threads` sets PyTorch's thread count, for the whole process.
    """

    name = "torchscript"

    def __init__(self, model: bytes, signature: Signature, options: EngineOptions) -> None:
        self._inputs = [spec.name for spec in signature.inputs]
        self._outputs = signature.outputs
        self._precision = options.precision
        if options.threads is not None:
            torch.set_num_threads(options.threads)
        self._program = load_script(model, "cpu")

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """See `Engine.run`."""
        arguments = copied_tensors(inputs, self._inputs)
        try:
            with torch.inference_mode(), computing_in(self._precision, "cpu"):
                answer = run_script(self._program, *arguments)
        except RuntimeError as cause:
            raise EngineFailed(f"TorchScript failed: {cause}") from cause
        found = listed_outputs(answer, [spec.name for spec in self._outputs])
        return named_arrays(found if self._precision == "float32" else as_declared(found, self._outputs), self._outputs)


def load_script(model: bytes, device: str) -> Any:
    """The program, its weights on the device.

    Raises:
        EngineUnavailable: PyTorch refuses the bytes.
    """
    try:
        with warnings.catch_warnings():
            # The deprecation is a decision that is recorded in docs/adr/0007, not news for every start.
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.simplefilter("ignore", FutureWarning)
            return torch.jit.load(io.BytesIO(model), map_location=device)
    except RuntimeError as cause:
        raise EngineUnavailable(f"PyTorch {torch.__version__} refuses model.pt: {cause}") from cause


def run_script(program: Any, *arguments: torch.Tensor) -> object:
    """The program's answer, by the same path in every run.

    With the optimising executor the first runs of each shape are profiled and later ones are compiled anew: slower where shapes
    vary, and other bits than those that were proven.
    """
    with optimized_execution(should_optimize=False):
        return program(*arguments)
