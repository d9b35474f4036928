"""Exporting from another storage: `--ckpt s3://…` needs nothing else, and gives what the local file gives."""

import json

import pytest
import torch
from make_mlp import YAML
from typer.testing import CliRunner

import stateserve
from checkpoints import Best, Keeper
from export.__main__ import app
from export.build import build_model


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A command in this process, in the test's folder, which is its cache's place too."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def run(command, *words):
        return CliRunner().invoke(command, [str(word) for word in words])

    return run


@pytest.fixture
def kept(tmp_path, s3_bucket):
    """A function that keeps one checkpoint of the small MLP in a place, with its YAML and labels."""
    (tmp_path / "labels.txt").write_text("one\ntwo\nthree\n")
    (tmp_path / "mlp.yaml").write_text(
        YAML.replace("[batch, 3]}", "[batch, 3], labels: labels.txt}").replace("[onnx, torchscript, pt2]", "[onnx]")
    )
    torch.manual_seed(0)
    model = build_model("mlp", {"in_features": 4, "hidden": [8], "out_features": 3})

    def kept(place):
        with Keeper(place, Best("accuracy", mode="max"), config=tmp_path / "mlp.yaml") as keeper:
            keeper.save(1, model, torch.optim.Adam(model.parameters()), metrics={"accuracy": 0.5})
        return f"{place}/best.pth"

    return lambda name: kept(f"s3://{s3_bucket}/runs/{name}" if name == "remote" else tmp_path / name)


def test_a_keepers_best(run, kept):
    """best.pth on S3 is exported, inspected and rebuilt as it is; a local Keeper's gives the same content id."""
    remote, local = kept("remote"), kept("local")
    exported = run(app, "--ckpt", remote)
    assert (exported.exit_code, exported.stdout) == (0, "model_repository/mlp/1\n"), exported.output
    seen = run(stateserve.app, "inspect", remote, "--json")
    assert seen.exit_code == 0, seen.output
    assert json.loads(seen.stdout)["would_load"] is not None
    rebuilt = run(stateserve.app, "check", "model_repository/mlp/1", "--rebuild", "--ckpt", local, "--json")
    assert rebuilt.exit_code == 0, rebuilt.output


def test_nothing_there(run, s3_bucket):
    """A URL that holds nothing ends with exit code 3 and a sentence."""
    done = run(app, "--ckpt", f"s3://{s3_bucket}/none.pth")
    assert (done.exit_code, done.stdout) == (3, "")
    assert f"s3://{s3_bucket}/none.pth is not there" in done.stderr
