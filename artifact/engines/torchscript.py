"""TorchScript: a legacy format, deprecated by PyTorch since 2.10 (see docs/adr/0007)."""

import io
import warnings
from collections.abc import Mapping

import numpy as np
import torch
from torch.jit._fuser import optimized_execution

from artifact.engines import EngineOptions
from artifact.engines.tensors import copied_tensors, named_outputs
from artifact.errors import EngineFailed, EngineUnavailable
from artifact.signature import Signature


class TorchScriptEngine:
    """A frozen TorchScript program on the CPU, or on one CUDA device.

    `options.threads` sets PyTorch's thread count, and a CUDA device switches TF32 off: both are for the whole process.
    """

    name = "torchscript"

    def __init__(self, model: bytes, signature: Signature, options: EngineOptions) -> None:
        self._inputs = [spec.name for spec in signature.inputs]
        self._outputs = [spec.name for spec in signature.outputs]
        self._device = options.device
        if options.threads is not None:
            torch.set_num_threads(options.threads)
        if options.device != "cpu":  # as in ONNX Runtime's engine; for matrix products it is off anyway
            torch.backends.cudnn.allow_tf32 = False
        try:
            with warnings.catch_warnings():
                # The deprecation is a decision that is recorded in docs/adr/0007, not news for every start.
                warnings.simplefilter("ignore", DeprecationWarning)
                warnings.simplefilter("ignore", FutureWarning)
                self._program = torch.jit.load(io.BytesIO(model), map_location=options.device)
        except RuntimeError as cause:
            raise EngineUnavailable(f"PyTorch {torch.__version__} refuses model.pt: {cause}") from cause

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """See `Engine.run`."""
        arguments = copied_tensors(inputs, self._inputs, self._device)
        try:
            # Without the optimising executor every run takes the same path. With it, the first runs of each shape are profiled
            # and later ones are compiled anew: slower where shapes vary, and other bits than those that were proven.
            with torch.inference_mode(), optimized_execution(should_optimize=False):
                answer = self._program(*arguments)
        except RuntimeError as cause:
            raise EngineFailed(f"TorchScript failed: {cause}") from cause
        return named_outputs(answer, self._outputs)
