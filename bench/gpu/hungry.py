"""A model by hand that takes as much of the device's memory as it is asked for: more than there is, if one likes."""

import io
import warnings
from pathlib import Path

import numpy as np

from artifact import golden, manifest
from artifact.engines import MODEL_FILES
from artifact.golden import GoldenCase
from artifact.manifest import FileEntry, Manifest
from artifact.signature import BATCH, Dim, Signature, TensorSpec
from foundation.storage import canonical_json

NAME = "hungry"
MOST_ROWS = 16
RANGE = (2.0 - (1 << 24), float(1 << 24))
"""Of `x`, in MiB; what engines are tried with at their start lies in its middle."""

_ENGINE = "torchscript"
_BUDGET = 1e-6


def write(repository: Path) -> Path:
    """Its artifact: `y` is `x`, a column of float32, after as many MiB as the largest `x` says were taken and let go."""
    rows = np.ones((1, 1), np.float32)
    signature = Signature(
        (TensorSpec("x", "float32", (BATCH, 1), RANGE),),
        (TensorSpec("y", "float32", (BATCH, 1)),),
        {BATCH: Dim(1, MOST_ROWS)},
    )
    listed = {MODEL_FILES[_ENGINE]: _torchscript()}
    evidence = {
        manifest.GOLDEN: golden.encode(
            [GoldenCase("00-made", {"x": rows}, {_ENGINE: {"y": rows}}, {"y": rows.astype(np.float64)})]
        ),
        manifest.PARITY: canonical_json({"engines": {_ENGINE: {"outputs": {"y": {"budget": _BUDGET}}}}}),
    }
    stated = Manifest(
        signature=signature,
        config={},
        weights_sha256="0" * 64,
        files={name: FileEntry.of(data) for name, data in listed.items()},
        evidence={name: FileEntry.of(data) for name, data in evidence.items()},
    )
    made = repository / NAME / "1"
    made.mkdir(parents=True)
    for name, data in {manifest.MANIFEST: stated.encode(), **listed, **evidence}.items():
        (made / name).write_bytes(data)
    return made


def _torchscript() -> bytes:
    import torch

    class Hungry(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            taken = torch.empty([max(1, int(x.max().item())) * 262144], dtype=torch.float32, device=x.device)
            return x + 0.0 * taken[:1].zero_()

    file = io.BytesIO()
    with warnings.catch_warnings():  # TorchScript is deprecated; what serves it is told so elsewhere
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(Hungry()), file)
    return file.getvalue()
