"""PyTorch's exported program (.pt2). Its loader would unpickle what the archive asks for, so the archive is scanned first."""

import io
import zipfile
from collections.abc import Mapping

import numpy as np
import torch

from artifact.engines import EngineOptions
from artifact.engines.precision import computing_in
from artifact.engines.tensors import as_declared, copied_tensors, listed_outputs, named_arrays
from artifact.errors import EngineFailed, EngineUnavailable
from artifact.signature import Signature
from foundation.pt2 import pt2_pickles


class Pt2Engine:
    """An exported program, run by PyTorch on the CPU; `options.threads` is for the whole process, as in TorchScript."""

    name = "pt2"

    def __init__(self, model: bytes, signature: Signature, options: EngineOptions) -> None:
        self._inputs = [spec.name for spec in signature.inputs]
        self._outputs = signature.outputs
        self._precision = options.precision
        if options.threads is not None:
            torch.set_num_threads(options.threads)
        self._program = load_program(model).module()

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """See `Engine.run`."""
        arguments = copied_tensors(inputs, self._inputs)
        try:
            with torch.inference_mode(), computing_in(self._precision, "cpu"):
                answer = self._program(*arguments)
        except RuntimeError as cause:
            raise EngineFailed(f"the exported program failed: {cause}") from cause
        found = listed_outputs(answer, [spec.name for spec in self._outputs])
        return named_arrays(found if self._precision == "float32" else as_declared(found, self._outputs), self._outputs)


def load_program(model: bytes) -> torch.export.ExportedProgram:
    """The program, on the CPU, where export wrote it.

    Raises:
        EngineUnavailable: the archive holds pickles, or PyTorch refuses it.
    """
    try:
        pickles = pt2_pickles(io.BytesIO(model))
    except zipfile.BadZipFile as cause:
        raise EngineUnavailable(f"model.pt2 is not a zip archive, as every .pt2 is: {cause}") from cause
    if pickles:
        raise EngineUnavailable(f"model.pt2 holds pickled data, which would run code when loaded: {', '.join(pickles)}")
    try:
        return torch.export.load(io.BytesIO(model))
    except Exception as cause:  # torch.export raises whatever its parts raise
        raise EngineUnavailable(f"PyTorch {torch.__version__} refuses model.pt2: {cause}") from cause
