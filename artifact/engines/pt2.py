"""PyTorch's exported program (.pt2). Its loader would unpickle what the archive asks for, so the archive is scanned first."""

import io
import zipfile
from collections.abc import Mapping

import numpy as np
import torch

from artifact.engines import EngineOptions
from artifact.engines.tensors import copied_tensors, named_outputs
from artifact.errors import EngineFailed, EngineUnavailable
from artifact.signature import Signature
from foundation.pt2 import pt2_pickles


class Pt2Engine:
    """An exported program, run by PyTorch on the CPU; `options.threads` is for the whole process, as in TorchScript."""

    name = "pt2"

    def __init__(self, model: bytes, signature: Signature, options: EngineOptions) -> None:
        if options.device != "cpu":
            raise EngineUnavailable(f"model.pt2 runs on the CPU only, not on {options.device}; take another format")
        self._inputs = [spec.name for spec in signature.inputs]
        self._outputs = [spec.name for spec in signature.outputs]
        try:
            pickles = pt2_pickles(io.BytesIO(model))
        except zipfile.BadZipFile as cause:
            raise EngineUnavailable(f"model.pt2 is not a zip archive, as every .pt2 is: {cause}") from cause
        if pickles:
            raise EngineUnavailable(f"model.pt2 holds pickled data, which would run code when loaded: {', '.join(pickles)}")
        if options.threads is not None:
            torch.set_num_threads(options.threads)
        try:
            self._program = torch.export.load(io.BytesIO(model)).module()
        except Exception as cause:  # torch.export raises whatever its parts raise
            raise EngineUnavailable(f"PyTorch {torch.__version__} refuses model.pt2: {cause}") from cause

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """See `Engine.run`."""
        arguments = copied_tensors(inputs, self._inputs)
        try:
            with torch.inference_mode():
                answer = self._program(*arguments)
        except RuntimeError as cause:
            raise EngineFailed(f"the exported program failed: {cause}") from cause
        return named_outputs(answer, self._outputs)
