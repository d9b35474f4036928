"""The machine: its GPU, driver and libraries, and whether PyTorch can use them at all."""

import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bench.errors import ProcessFailed
from bench.gpu.stage import Finding, Findings, Stage, Work
from bench.observed import machine
from bench.page import Section

_SIDE = 1024


def measure(work: Work) -> Iterator[Finding]:
    """One finding: what `bench.observed.machine` tells, and the facts of CUDA.

    Raises:
        ProcessFailed: PyTorch is built without CUDA, or cannot use this GPU.
    """
    yield {**machine.facts(), **_onnxruntime(), **_torch(work)}


def _torch(work: Work) -> Mapping[str, Any]:
    import torch

    found: dict[str, Any] = {"torch": torch.__version__, "cuda": torch.version.cuda, "device": work.device}
    if work.is_rehearsal:
        return found
    if not torch.cuda.is_available():
        raise ProcessFailed(f"torch {torch.__version__} (CUDA {torch.version.cuda}) cannot use this machine's GPU")
    properties = torch.cuda.get_device_properties(work.device)
    made = torch.ones(_SIDE, _SIDE, device=work.device)
    if float((made @ made)[0, 0]) != _SIDE:
        raise ProcessFailed(f"{properties.name} multiplies two matrices of ones wrongly")
    return {
        **found,
        "cudnn": torch.backends.cudnn.version(),
        "gpu": properties.name,
        "gpu_memory_bytes": properties.total_memory,
        "multiprocessors": properties.multi_processor_count,
        "capability": f"{properties.major}.{properties.minor}",
    }


def _onnxruntime() -> Mapping[str, Any]:
    """The version, and where it can run a model: `CUDAExecutionProvider` is not in it where only the CPU's package is there."""
    if importlib.util.find_spec("onnxruntime") is None:
        return {"onnxruntime": None, "providers": []}
    import onnxruntime

    return {"onnxruntime": onnxruntime.__version__, "providers": onnxruntime.get_available_providers()}


def tell(findings: Sequence[Finding], _all: Findings) -> Sequence[Section]:
    """One table."""
    if not findings:
        return ()
    one = findings[0]
    memory_gib = one.get("gpu_memory_bytes", 0) / 2**30
    gpu = f"{one.get('gpu', one['device'])}, {memory_gib:.0f} GiB, {one.get('multiprocessors', '-')} multiprocessors"
    rows = [
        ("GPU", f"{gpu}, compute capability {one.get('capability', '-')}"),
        ("driver", one.get("gpu_driver") or "-"),
        ("CUDA, cuDNN", f"{one['cuda'] or '-'}, {one.get('cudnn', '-')}"),
        ("torch", one["torch"]),
        ("onnxruntime", f"{one['onnxruntime'] or '-'}: {', '.join(one['providers']) or 'not installed'}"),
        ("processor", f"{one['cpu']}, {one['cores']} of {one['machine_cores']} cores"),
        ("memory", f"{one['memory_bytes'] / 2**30:.0f} GiB"),
        ("system", f"{one['system']}, kernel {one['kernel']}, Python {one['python']}"),
        ("packages", ", ".join(f"{name} {version}" for name, version in one["packages"].items())),
    ]
    return [Section("The machine", "As the driver and the libraries tell it.", ("", ""), rows)]


STAGE = Stage(
    "facts",
    "The machine's facts: GPU, driver, CUDA, cuDNN, torch, onnxruntime with its providers, processor, cores.",
    measure,
    tell,
)
