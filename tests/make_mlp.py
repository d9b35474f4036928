"""The small MLP that most tests serve, in all three formats, by the real export.

python tests/make_mlp.py FOLDER    -> the artifact's path, FOLDER/repository/mlp/1
"""

import sys
from pathlib import Path

import torch

from export.build import build_model
from export.report import Silent
from export.run import ExportRequest, export

YAML = """\
schema: 1
model: {name: mlp, params: {in_features: 4, hidden: [8], out_features: 3}}
inputs: {x: {dtype: float32, shape: [batch, 4], range: [-4, 4]}}
dims: {batch: {min: 1, max: 16, opt: 4}}
outputs: {logits: {dtype: float32, shape: [batch, 3]}}
formats: [onnx, torchscript, pt2]
"""


def make_mlp(folder: Path) -> Path:
    """Trains nothing: the weights are random, and always the same."""
    model = build_model("mlp", {"in_features": 4, "hidden": [8], "out_features": 3})
    generator = torch.Generator().manual_seed(0)
    state = {name: torch.randn(weight.shape, generator=generator) for name, weight in model.state_dict().items()}
    torch.save(state, folder / "mlp.pth")
    (folder / "mlp.yaml").write_text(YAML)
    return export(ExportRequest(folder / "mlp.pth", repository=folder / "repository"), Silent()).path


if __name__ == "__main__":
    print(make_mlp(Path(sys.argv[1])))
