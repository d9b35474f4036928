"""What `test_machines.py` runs in processes of their own: exports of every architecture, and replays of other exports.

python tests/machines.py export CHECKPOINTS REPOSITORY    -> {name: content id} as JSON
python tests/machines.py replay REPOSITORY                -> {name: {engine: [worst scaled error, passed]}} as JSON
"""

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import operators
import torch

import model_defs
from artifact.check import replay_all
from artifact.manifest import read_manifest
from export.cost import ParityLimits
from export.report import Silent
from export.run import ExportRequest, export

IMAGE = {"image": {"dtype": "float32", "shape": ["batch", 3, "height", "width"], "range": [-3, 3]}}
IMAGE_DIMS = {"batch": {"min": 1, "max": 4}, "height": {"min": 64, "max": 96, "multiple": 32}}
IMAGE_DIMS["width"] = IMAGE_DIMS["height"]
LOGITS = {"logits": {"dtype": "float32", "shape": ["batch", 10]}}
BATCH = {"batch": {"min": 1, "max": 4}}
VIT = {"image_size": 32, "patch_size": 8, "num_layers": 2, "num_heads": 4, "hidden_dim": 64, "mlp_dim": 128, "num_classes": 10}
BERT = {"vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
TOKENS = {"dtype": "int64", "shape": ["batch", "sequence"]}

MODELS: dict[str, dict[str, Any]] = {
    "mlp": {
        "params": {"in_features": 30, "hidden": [64, 32], "out_features": 10},
        "inputs": {"x": {"dtype": "float32", "shape": ["batch", 30], "range": [-4, 4]}},
        "dims": BATCH,
        "outputs": LOGITS,
    },
    "digits_cnn": {
        "params": {},
        "inputs": {"image": {"dtype": "float32", "shape": ["batch", 1, 8, 8], "range": [0, 1]}},
        "dims": BATCH,
        "outputs": LOGITS,
    },
    **{
        name: {"params": {"num_classes": 10}, "inputs": IMAGE, "dims": IMAGE_DIMS, "outputs": LOGITS}
        for name in ("resnet18", "resnet34", "resnet50")
    },
    "vit": {
        "params": VIT,
        "inputs": {"image": {"dtype": "float32", "shape": ["batch", 3, 32, 32], "range": [-3, 3]}},
        "dims": BATCH,
        "outputs": LOGITS,
    },
    "bert": {
        "params": {**BERT, "max_position_embeddings": 64},
        "inputs": {"input_ids": {**TOKENS, "range": [0, 99]}, "attention_mask": {**TOKENS, "range": [0, 1]}},
        "dims": {**BATCH, "sequence": {"min": 1, "max": 32, "opt": 16}},
        "outputs": {"embedding": {"dtype": "float32", "shape": ["batch", 32]}},
    },
}


def save_checkpoints(directory: Path) -> None:
    """Saves a checkpoint and its YAML for every architecture; batch norms get statistics as if they were trained."""
    for name, model in MODELS.items():
        torch.manual_seed(1)
        module = model_defs.build(name, model["params"])
        for key, buffer in module.named_buffers():
            if key.endswith("running_var"):
                buffer.uniform_(0.5, 2)
            elif key.endswith("running_mean"):
                buffer.normal_(std=0.1)
        torch.save(module.state_dict(), directory / f"{name}.pth")
        config = {"schema": 1, "model": {"name": name, "params": model["params"]}}
        config |= {key: model[key] for key in ("inputs", "dims", "outputs")}
        (directory / f"{name}.yaml").write_text(json.dumps(config))  # JSON is YAML


def export_all(checkpoints: Path, repository: Path) -> dict[str, str]:
    """Exports every checkpoint; parity is cut to one case, since it does not touch the content."""
    ids = {}
    for name in MODELS:
        request = ExportRequest(checkpoints / f"{name}.pth", repository=repository, limits=ParityLimits(time_s=0.0))
        ids[name] = export(request, Silent()).content_id
    return ids


def replay_repository(repository: Path) -> dict[str, dict[str, tuple[float, bool]]]:
    """Replays every artifact on both engines."""
    return {
        name: {
            entry.engine: (max(result.error for result in entry.results), all(result.passed for result in entry.results))
            for entry in replay_all(repository / name / "1", read_manifest(repository / name / "1").formats)
        }
        for name in MODELS
    }


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    command, *paths = sys.argv[1:]
    with operators.compiled_once():
        done = export_all(*map(Path, paths)) if command == "export" else replay_repository(*map(Path, paths))
    print(json.dumps(done))
