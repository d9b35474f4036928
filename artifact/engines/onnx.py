"""ONNX Runtime."""

from collections.abc import Mapping

import numpy as np
import onnxruntime

from artifact.engines import EngineOptions
from artifact.errors import DeviceLost, EngineFailed, EngineUnavailable, OutOfMemory
from artifact.signature import Signature

_SEVERITY_ERROR = 3
_CPU = "CPUExecutionProvider"

_NO_FOLDER = "/dev/null"
"""Where ONNX Runtime is told to look for external data: below a file that is no folder, nothing can be opened.

Untold, it opens what the model names in the current directory, or above it, and the file's bytes were never hashed.
"""

_UNSAFE_IN_HALF = ("MatmulTransposeFusion",)
"""An optimiser of ONNX Runtime 1.31 that ends the process on a float16 model's transposed product, for which the CPU casts."""

_NO_MEMORY = (
    "Failed to allocate memory for requested buffer of size",  # the device refuses what the arena asks for
    "is smaller than requested bytes of",  # the arena's own limit
    "CUDA failure 2: out of memory",  # the device refuses what a kernel asks for beside the arena
)
"""What ONNX Runtime's allocators say where there is too little memory."""
_LOST = ("CUDA failure 700:", "CUDA failure 710:", "CUDA failure 719:")
"""What it says of kernels that failed, after which nothing of the process's can run on the device."""


class OnnxEngine:
    """An ONNX Runtime session on the CPU.

    It is made from bytes, not from a path: what was hashed is what runs. External data is refused: see `_NO_FOLDER`.
    """

    name = "onnx"

    def __init__(self, model: bytes, signature: Signature, options: EngineOptions) -> None:
        skipped = _UNSAFE_IN_HALF if options.precision == "float16" else ()
        settings = session_options(options)
        try:
            self._session = onnxruntime.InferenceSession(model, settings, providers=[_CPU], disabled_optimizers=skipped)
        except Exception as cause:  # ONNX Runtime's errors share no base class below Exception
            raise refused(cause) from cause
        self._outputs = checked_outputs(self._session, signature)

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """See `Engine.run`."""
        try:
            answers = self._session.run(self._outputs, inputs)
        except Exception as cause:  # see above
            raise failed(cause) from cause
        return dict(zip(self._outputs, answers, strict=True))  # type: ignore[arg-type]


def session_options(options: EngineOptions) -> onnxruntime.SessionOptions:
    """What every session of ours is made with."""
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = _SEVERITY_ERROR
    if options.threads is not None:
        # A run's own thread works too; the pool's others are shared by the runs that come at once.
        settings.intra_op_num_threads = options.calls * (options.threads - 1) + 1
    # A spinning pool burns every core of a shared machine between requests.
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    settings.add_session_config_entry("session.model_external_initializers_file_folder_path", _NO_FOLDER)
    return settings


def checked_outputs(session: onnxruntime.InferenceSession, signature: Signature) -> list[str]:
    """The outputs' names, which are the signature's. Raises EngineUnavailable where they are not."""
    stated = [spec.name for spec in signature.outputs]
    found = [output.name for output in session.get_outputs()]
    if found != stated:
        raise EngineUnavailable(f"model.onnx gives {', '.join(found)}; the signature says {', '.join(stated)}")
    return stated


def refused(cause: Exception) -> EngineUnavailable:
    """ONNX Runtime's own words for why it makes no session, as our error."""
    return EngineUnavailable(f"ONNX Runtime {onnxruntime.__version__} refuses model.onnx: {cause}")


def failed(cause: Exception) -> EngineFailed:
    """ONNX Runtime's failure of a run as our error: `OutOfMemory` where an allocator says so, `DeviceLost` where CUDA does.

    By its words, here and nowhere else: ONNX Runtime has no error code for it, and its allocators' failures come as the same
    `Fail` and `RuntimeException` as everything else (1.20 to 1.31).
    """
    text = str(cause)
    kinds = ((OutOfMemory, _NO_MEMORY), (DeviceLost, _LOST))
    kind = next((kind for kind, said in kinds if any(words in text for words in said)), EngineFailed)
    return kind(f"ONNX Runtime failed: {text}")
