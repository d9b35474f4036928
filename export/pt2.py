"""The captured program as PyTorch's own archive (.pt2), scanned for pickles like anybody's.

Its example inputs are the seeded sample of the capture: plain tensors, which the scan lets through. An archive without any has
an empty member where they belong, which the scan refuses.
"""

import io
from collections.abc import Mapping

import torch

from export.capture import Captured
from export.cases import tensor_bytes
from export.errors import CaptureFailed, ParityFailed
from export.onnx import used_weights
from foundation.pt2 import pt2_pickles


def lower_pt2(captured: Captured) -> bytes:
    """Lowers the program.

    Raises:
        CaptureFailed: the archive cannot be written, or would hold pickled data, which runs code when it is loaded.
    """
    buffer = io.BytesIO()
    try:
        torch.export.save(captured.program, buffer)
    except Exception as cause:  # the serialiser raises whatever its parts raise
        raise CaptureFailed(f"the captured program cannot be saved as .pt2: {cause}; leave pt2 out with --format") from cause
    data = buffer.getvalue()
    pickles = pt2_pickles(io.BytesIO(data))
    if pickles:
        raise CaptureFailed(
            f"the .pt2 would hold pickled data ({', '.join(pickles)}), which runs code when loaded; leave pt2 out"
        )
    return data


def compare_pt2_weights(data: bytes, captured: Captured, weights: Mapping[str, torch.Tensor]) -> int:
    """Compares every weight that the program uses with the archive's, bit for bit, and returns how many there are.

    Raises:
        ParityFailed: one differs, or is not there.
    """
    stored = torch.export.load(io.BytesIO(data)).state_dict
    used = used_weights(captured)
    for name in used:
        if name not in stored or not _same_bits(stored[name], weights[name]):
            raise ParityFailed(f"weight {name} in model.pt2 is not the checkpoint's, bit for bit; the lowering changed it")
    return len(used)


def _same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether dtype, shape and every bit are the same: 0.0 and -0.0 are not."""
    return (one.dtype, one.shape, tensor_bytes(one)) == (other.dtype, other.shape, tensor_bytes(other))
