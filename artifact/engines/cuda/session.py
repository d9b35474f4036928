"""ONNX Runtime on a CUDA device.

No session was made on a device yet: what is told to ONNX Runtime, and in which order, is tested with its CPU build.
"""

import logging
from collections.abc import Mapping, Sequence

import numpy as np
import onnxruntime

from artifact.engines import EngineOptions
from artifact.engines.buckets import buckets, example
from artifact.engines.devices import device_index
from artifact.engines.onnx import checked_outputs, failed, refused, session_options
from artifact.errors import EngineFailed, EngineUnavailable, OutOfMemory
from artifact.signature import Signature

log = logging.getLogger("stateserve")

_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"

_SHAPE_ARITHMETIC = frozenset(
    {"Shape", "Size", "ConstantOfShape", "Range", "Identity", "Cast", "Where", "Not", "And", "Or"}
    | {"Gather", "Slice", "Concat", "Squeeze", "Unsqueeze", "Reshape", "Expand", "ReduceProd"}
    | {"Add", "Sub", "Mul", "Div", "Mod", "Neg", "Max", "Min"}
    | {"Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"}
)
"""What ONNX Runtime computes shapes with, on the CPU by its own choice: a shape is needed there before a kernel can be queued."""

Provider = str | tuple[str, dict[str, str]]


class CudaOnnxEngine:
    """An ONNX Runtime session on one CUDA device. Runs that come at once have a stream each, and overlap.

    Nothing that computes falls back to the CPU in silence: such a model is refused, with the operations that have no kernel.
    """

    name = "onnx"

    def __init__(self, model: bytes, signature: Signature, options: EngineOptions) -> None:
        self._device, self._number = options.device, device_index(options.device)
        self._session = _session(model, options)
        self._outputs = checked_outputs(self._session, signature)
        self._shrinks = False
        self._warm(signature)

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """See `Engine.run`. Inputs are copied to the device once, outputs from it once: they are bound to it in between."""
        plain = {name: np.ascontiguousarray(array) for name, array in inputs.items()}  # bound memory must outlive the run
        try:
            answers = self._answers(plain)
        except Exception as cause:  # ONNX Runtime's errors share no base class below Exception
            error = failed(cause)
            self._shrinks = self._shrinks or isinstance(error, OutOfMemory)
            raise error from cause
        return dict(zip(self._outputs, answers, strict=True))

    def _answers(self, inputs: Mapping[str, np.ndarray]) -> Sequence[np.ndarray]:
        """One run by a binding and options of its own: other threads' runs have others."""
        binding = self._session.io_binding()
        for name, array in inputs.items():
            binding.bind_cpu_input(name, array)
        for name in self._outputs:
            binding.bind_output(name, "cuda", self._number)
        binding.synchronize_inputs()
        self._session.run_with_iobinding(binding, self._run_options())
        binding.synchronize_outputs()
        return binding.copy_outputs_to_cpu()

    def _run_options(self) -> onnxruntime.RunOptions:
        """After a run that had too little memory, the next one gives back what its arena does not use."""
        options = onnxruntime.RunOptions()
        if self._shrinks:
            self._shrinks = False
            options.add_run_config_entry("memory.enable_memory_arena_shrinkage", f"gpu:{self._number}")
        return options

    def _warm(self, signature: Signature) -> None:
        """One run of every bucket, the largest first; what fails is told by the golden replay."""
        for rows in reversed(buckets(signature)):
            try:
                self.run(example(signature, rows))
            except EngineFailed as error:
                log.warning("the warm-up of %d row(s) on %s failed: %s", rows, self._device, error)


def provider_options(options: EngineOptions) -> dict[str, str]:
    """What ONNX Runtime's CUDA provider is told.

    TF32 only where it is asked for: it rounds the inputs of every product to ten bits. The search for convolutions is by
    heuristics, since an exhaustive one would stop the first call of every new shape for seconds.
    """
    told = {
        "device_id": str(device_index(options.device)),
        "use_tf32": "1" if options.precision == "tf32" else "0",
        "cudnn_conv_algo_search": "HEURISTIC",
        "arena_extend_strategy": "kSameAsRequested",  # doubling would leave nothing to the device's other models
        "do_copy_in_default_stream": "1",  # copies in a stream of their own race with the kernels that read them
    }
    return told if options.memory_bytes is None else {**told, "gpu_mem_limit": str(options.memory_bytes)}


def _session(model: bytes, options: EngineOptions) -> onnxruntime.InferenceSession:
    """A session of which every node runs on the device; or all but the arithmetic of shapes.

    Raises:
        EngineUnavailable: there is no CUDA here, an operation has no kernel for it, or ONNX Runtime refuses the model.
    """
    _require_cuda(onnxruntime.get_available_providers(), options.device)
    # The CUDA libraries of NVIDIA's wheels, where there are any; what is missing, the providers tell below.
    getattr(onnxruntime, "preload_dlls", lambda: None)()
    cuda: Provider = (_CUDA, provider_options(options))
    strict = session_options(options)
    strict.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    try:
        return _made(model, strict, [cuda], options.device)
    except EngineUnavailable as refusal:
        # Whether it was for shapes alone, a second session tells, which says where its nodes are.
        told = session_options(options)
        told.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        session = _made(model, told, [cuda, _CPU], options.device)
        _require_shapes_only(session, options.device, refusal)
        return session


def _made(
    model: bytes, settings: onnxruntime.SessionOptions, providers: Sequence[Provider], device: str
) -> onnxruntime.InferenceSession:
    try:
        # Without `enable_fallback=0` a failure on the device makes ONNX Runtime run on the CPU, with a line on stdout.
        session = onnxruntime.InferenceSession(model, settings, providers=providers, enable_fallback=0)
    except Exception as cause:  # see above
        raise refused(cause) from cause
    _require_cuda(session.get_providers(), device)
    return session


def _require_cuda(providers: Sequence[str], device: str) -> None:
    """Raises EngineUnavailable where CUDA is not among them: ONNX Runtime would fall back to the CPU with a line in its log."""
    if _CUDA not in providers:
        raise EngineUnavailable(
            f"ONNX Runtime {onnxruntime.__version__} cannot run on {device} here: install onnxruntime-gpu and the CUDA libraries "
            "that it asks for, or run on the CPU"
        )


def _require_shapes_only(session: onnxruntime.InferenceSession, device: str, refusal: EngineUnavailable) -> None:
    """Raises EngineUnavailable where more than the arithmetic of shapes is on the CPU, or where that cannot be known."""
    if not hasattr(session, "get_provider_graph_assignment_info"):
        raise EngineUnavailable(
            f"ONNX Runtime {onnxruntime.__version__} puts a part of model.onnx on the CPU and cannot say which: a newer one can; "
            f"or take engine torchscript or pt2 for {device}"
        ) from refusal
    parts = [part for part in session.get_provider_graph_assignment_info() if part.ep_name == _CPU]
    there = {node.op_type for part in parts for node in part.get_nodes()}
    if others := sorted(there - _SHAPE_ARITHMETIC):
        raise EngineUnavailable(
            f"ONNX Runtime {onnxruntime.__version__} has no CUDA kernel for {', '.join(others)} of model.onnx, and nothing falls "
            f"back to the CPU in silence: take engine torchscript or pt2 for {device}, or run on the CPU"
        ) from refusal
    log.info("on %s the CPU computes shapes, by %s; all else runs on the device", device, ", ".join(sorted(there)) or "nothing")
