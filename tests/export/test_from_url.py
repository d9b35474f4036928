"""Exporting from another storage: `--ckpt s3://…` needs nothing else, and gives what the local file gives."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from make_mlp import YAML

from artifact.manifest import read_manifest
from export.build import build_model

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 100


@pytest.fixture
def model():
    """The small MLP, with weights that are always the same."""
    torch.manual_seed(0)
    return build_model("mlp", {"in_features": 4, "hidden": [8], "out_features": 3})


@pytest.fixture
def command(tmp_path, s3):
    """Runs a command of ours in the test's folder, which is its cache's place too."""

    def command(*words):
        env = {**os.environ, **s3.variables, "XDG_CACHE_HOME": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT)}
        line = [sys.executable, *map(str, words)]
        return subprocess.run(line, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)

    return command


def test_a_keepers_best(model, command, s3_bucket, tmp_path):
    """Training keeps its checkpoints on S3 with its YAML; the export takes best.pth from there, and so does inspect.

    The artifact is the same as that of a Keeper in a local directory.
    """
    from checkpoints.keeping.keeper import Keeper
    from checkpoints.keeping.policies import Best

    (tmp_path / "labels.txt").write_text("one\ntwo\nthree\n")
    (tmp_path / "mlp.yaml").write_text(
        YAML.replace("[batch, 3]}", "[batch, 3], labels: labels.txt}").replace(", torchscript, pt2", "")
    )
    optimizer = torch.optim.Adam(model.parameters())
    for place in (f"s3://{s3_bucket}/runs/one", tmp_path / "local"):
        with Keeper(place, Best("accuracy", mode="max"), config=tmp_path / "mlp.yaml") as keeper:
            keeper.save(1, model, optimizer, metrics={"accuracy": 0.5})
    content_ids = []
    for folder in (f"s3://{s3_bucket}/runs/one", tmp_path / "local"):
        repository = f"models{len(content_ids)}"
        done = command("-m", "export", "--ckpt", f"{folder}/best.pth", "--repository", repository)
        assert done.returncode == 0, done.stderr
        content_ids.append(read_manifest(tmp_path / done.stdout.strip()).content_id)
    assert content_ids[0] == content_ids[1]
    seen = command(ROOT / "stateserve.py", "inspect", f"s3://{s3_bucket}/runs/one/best.pth", "--json")
    assert seen.returncode == 0, seen.stderr
    assert json.loads(seen.stdout)["would_load"] is not None
    again = command(
        ROOT / "stateserve.py",
        "check",
        tmp_path / "models0" / "mlp" / "1",
        "--rebuild",
        "--ckpt",
        f"s3://{s3_bucket}/runs/one/best.pth",
    )
    assert again.returncode == 0, again.stderr


def test_nothing_there(command, s3_bucket):
    """A URL that holds nothing ends with exit code 3 and a sentence."""
    done = command("-m", "export", "--ckpt", f"s3://{s3_bucket}/none.pth")
    assert (done.returncode, done.stdout) == (3, "")
    assert f"s3://{s3_bucket}/none.pth is not there" in done.stderr
