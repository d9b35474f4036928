"""ONNX Runtime."""

from collections.abc import Mapping

import numpy as np
import onnxruntime

from artifact.engines import EngineOptions
from artifact.errors import EngineFailed, EngineUnavailable
from artifact.signature import Signature

_SEVERITY_ERROR = 3

_NO_FOLDER = "/dev/null"
"""Where ONNX Runtime is told to look for external data: below a file that is no folder, nothing can be opened.

Untold, it opens what the model names in the current directory, or above it, and the file's bytes were never hashed.
"""


class OnnxEngine:
    """An ONNX Runtime session on the CPU.

    It is made from bytes, not from a path: what was hashed is what runs. External data is refused: see `_NO_FOLDER`.
    """

    name = "onnx"

    def __init__(self, model: bytes, signature: Signature, options: EngineOptions) -> None:
        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = _SEVERITY_ERROR
        if options.threads is not None:
            # A run's own thread works too; the pool's others are shared by the runs that come at once.
            settings.intra_op_num_threads = options.calls * (options.threads - 1) + 1
        # A spinning pool burns every core of a shared machine between requests.
        settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
        settings.add_session_config_entry("session.model_external_initializers_file_folder_path", _NO_FOLDER)
        try:
            self._session = onnxruntime.InferenceSession(model, settings, providers=["CPUExecutionProvider"])
        except Exception as cause:  # ONNX Runtime's errors share no base class below Exception
            raise EngineUnavailable(f"ONNX Runtime {onnxruntime.__version__} refuses model.onnx: {cause}") from cause
        self._outputs = [spec.name for spec in signature.outputs]
        found = [output.name for output in self._session.get_outputs()]
        if found != self._outputs:
            raise EngineUnavailable(f"model.onnx gives {', '.join(found)}; the signature says {', '.join(self._outputs)}")

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """See `Engine.run`."""
        try:
            answers = self._session.run(self._outputs, inputs)
        except Exception as cause:  # see above
            raise EngineFailed(f"ONNX Runtime failed: {cause}") from cause
        return dict(zip(self._outputs, answers, strict=True))  # type: ignore[arg-type]
