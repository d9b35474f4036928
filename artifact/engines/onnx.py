"""ONNX Runtime."""

from collections.abc import Mapping, Sequence

import numpy as np
import onnxruntime

from artifact.engines import EngineOptions
from artifact.errors import EngineFailed, EngineUnavailable
from artifact.signature import Signature

_SEVERITY_ERROR = 3
_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"

_NO_FOLDER = "/dev/null"
"""Where ONNX Runtime is told to look for external data: below a file that is no folder, nothing can be opened.

Untold, it opens what the model names in the current directory, or above it, and the file's bytes were never hashed.
"""


class OnnxEngine:
    """An ONNX Runtime session on the CPU, or on one CUDA device.

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
            self._session = onnxruntime.InferenceSession(model, settings, providers=_providers(options.device))
        except Exception as cause:  # ONNX Runtime's errors share no base class below Exception
            raise EngineUnavailable(f"ONNX Runtime {onnxruntime.__version__} refuses model.onnx: {cause}") from cause
        if options.device != "cpu":
            _require_cuda(self._session.get_providers(), options.device)
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


def _providers(device: str) -> list[str | tuple[str, dict[str, str]]]:
    """ONNX Runtime's providers for a device, the preferred one first: what CUDA has no kernel for runs on the CPU."""
    if device == "cpu":
        return [_CPU]
    _require_cuda(onnxruntime.get_available_providers(), device)
    # TF32 would round the inputs of every product to ten bits, far beyond the budgets that were proven.
    return [(_CUDA, {"device_id": device.partition(":")[2] or "0", "use_tf32": "0"}), _CPU]


def _require_cuda(providers: Sequence[str], device: str) -> None:
    """Raises EngineUnavailable where CUDA is not among them: ONNX Runtime would fall back to the CPU with a line in its log."""
    if _CUDA not in providers:
        raise EngineUnavailable(
            f"ONNX Runtime {onnxruntime.__version__} cannot run on {device} here: install onnxruntime-gpu and the CUDA libraries "
            "that it asks for, or run on the CPU"
        )
