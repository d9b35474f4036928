"""Measures exports as a person runs them, and writes export.md: `make bench-export`.

Each export is a process of its own; its peak memory includes the process that traces TorchScript. Medians of `ROUNDS` runs.
"""

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import yaml

import model_defs
from foundation.environment import environment

ROUNDS = 3
HERE = Path(__file__).parent
CONFIGS = HERE.parent.parent / "model_defs" / "configs"
FIXED_IMAGE = {"image": {"dtype": "float32", "shape": ["batch", 3, 224, 224], "range": [-3, 3]}}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "mlp 30-64-32-2, batch 1-64": ("mlp", {}),
    "digits_cnn 8², batch 1-64": ("digits_cnn", {}),
    "resnet18 224², batch 1-16": ("resnet18", {"inputs": FIXED_IMAGE, "dims": {"batch": {"min": 1, "max": 16}}}),
    "resnet50 224², batch 1-16": ("resnet50", {"inputs": FIXED_IMAGE, "dims": {"batch": {"min": 1, "max": 16}}}),
    "vit_b_16 224², batch 1-8": ("vit", {"dims": {"batch": {"min": 1, "max": 8}}}),
    "bert 6x384, batch 1-16, sequence 1-128": ("bert", {"weights": {"ignore": []}}),
}


def main() -> None:
    """Runs every case and writes the page."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        for title, (model, changes) in CASES.items():
            checkpoint = make_checkpoint(Path(name), model, changes)
            runs = [run(checkpoint, Path(name) / f"{model}-{number}") for number in range(ROUNDS)]
            rows.append(row(title, runs))
            print(rows[-1], flush=True)
    write(rows)


def make_checkpoint(directory: Path, model: str, changes: dict[str, Any]) -> Path:
    """A checkpoint with random weights and its YAML beside it: the example's, with changes."""
    config = yaml.safe_load((CONFIGS / f"{model}.yaml").read_text()) | changes
    torch.manual_seed(0)
    path = directory / f"{model}.pth"
    torch.save(model_defs.build(config["model"]["name"], config["model"]["params"]).state_dict(), path)
    path.with_suffix(".yaml").write_text(json.dumps(config))  # JSON is YAML
    return path


def run(checkpoint: Path, repository: Path) -> dict[str, Any]:
    """One export in a process of its own: seconds, peak memory in MiB, and what it said."""
    command = [sys.executable, __file__, "--once", str(checkpoint), str(repository)]
    started = time.perf_counter()
    finished = subprocess.run(command, capture_output=True, text=True, check=True)
    return {**json.loads(finished.stdout.splitlines()[-1]), "seconds": time.perf_counter() - started}


def once(checkpoint: str, repository: str) -> None:
    """In that process: exports, and prints what it took."""
    from export.__main__ import export

    export(ckpt=Path(checkpoint), repository=Path(repository), as_json=True)
    peaks = [resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    said = json.loads((next(Path(repository).glob("*/*")) / "parity.json").read_text())
    print(json.dumps({"peak": peaks[0], "child": peaks[1], "cases": len(said["comparisons"]), "left_out": len(said["left_out"])}))


def row(title: str, runs: list[dict[str, Any]]) -> str:
    """A line of the table."""
    seconds = [one["seconds"] for one in runs]
    peak = max(one["peak"] + one["child"] for one in runs)
    spread = f"{min(seconds):.0f}-{max(seconds):.0f}"
    return f"| {title} | {statistics.median(seconds):.1f} | {spread} | {peak:.0f} | {runs[0]['cases']} | {runs[0]['left_out']} |"


def write(rows: list[str]) -> None:
    """Writes export.md."""
    facts = environment()
    packages = ", ".join(f"{name} {version}" for name, version in facts["packages"].items() if name != "stateserve")
    lines = [
        "# How long an export takes",
        "",
        "ONNX and TorchScript, parity included, from the start of the process to its end. Made by `make bench-export`.",
        "",
        f"{facts['cpu']}, {facts['cores']} cores, Python {platform.python_version()}; {packages}.",
        "",
        f"| model | median s of {ROUNDS} | spread s | peak MiB | comparisons | cases left out |",
        "|---|---|---|---|---|---|",
        *rows,
        "",
        "Peak memory is that of the export plus that of the process that traces TorchScript, though they do not peak together.",
        "Parity stops adding cases at 120 s; the largest are left out first, and the report says so.",
        "",
    ]
    (HERE / "export.md").write_text("\n".join(lines))


if __name__ == "__main__":
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    once(*sys.argv[2:]) if sys.argv[1:2] == ["--once"] else main()
