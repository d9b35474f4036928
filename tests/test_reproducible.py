"""The same checkpoint gives the same bytes: from another directory, under another hash seed, from a file of another name."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PLUGIN = """
import pydantic
import torch
from torch import nn

from model_defs import register_model


class Params(pydantic.BaseModel, frozen=True, extra="forbid"):
    width: int = 16


@register_model("plugged", params=Params)
class Plugged(nn.Module):
    def __init__(self, params: Params) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, params.width), nn.BatchNorm1d(params.width), nn.GELU(), nn.Linear(params.width, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x) + torch.arange(3, dtype=x.dtype)
"""
SAVE = """
import sys, torch, model_defs
model_defs.load_plugin(sys.argv[1])
torch.manual_seed(3)
torch.save({"state_dict": model_defs.build("plugged", {}).state_dict()}, sys.argv[2])
"""
CONFIG = """
schema: 1
model: {name: plugged}
inputs: {x: {dtype: float32, shape: [batch, 4], range: [-1, 1]}}
dims: {batch: {min: 1, max: 8}}
outputs: {y: {dtype: float32, shape: [batch, 3]}}
formats: [onnx, torchscript, pt2]
"""


def run(arguments, directory, seed):
    env = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)}
    finished = subprocess.run([sys.executable, *arguments], cwd=directory, env=env, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def place(directory, stem):
    """A directory with the plugin, a YAML and a place for the checkpoint, all under other names."""
    directory.mkdir(parents=True)
    (directory / f"{stem}_net.py").write_text(PLUGIN)
    (directory / f"{stem}.yaml").write_text(CONFIG)
    return directory / f"{stem}_net.py", directory / f"{stem}.pth"


def export(directory, plugin, checkpoint, seed):
    stdout = run(["-m", "export", "--ckpt", checkpoint.name, "--plugin", plugin.name, "--repository", "repo"], directory, seed)
    return directory / stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Two exports of the same weights: other directory, hash seed, checkpoint name and plugin name."""
    root = tmp_path_factory.mktemp("two")
    first_plugin, first = place(root / "a", "best")
    second_plugin, second = place(root / "b" / "deeper", "renamed")
    run(["-c", SAVE, str(first_plugin), str(first)], root / "a", "0")
    shutil.copy(first, second)
    return export(root / "a", first_plugin, first, "1"), export(root / "b" / "deeper", second_plugin, second, "2")


@pytest.mark.parametrize("name", ["model.onnx", "model.pt", "manifest.json", "config.yaml", "golden.safetensors"])
def test_files_are_bit_identical(two, name):
    """Two exports of one checkpoint give the same bytes, and with them the same content id."""
    first, second = two

    assert (first / name).read_bytes() == (second / name).read_bytes()


def test_a_checkpoint_saved_again_under_another_name(two, tmp_path):
    """torch.save's bytes depend on the file's name; the content id does not."""
    first, _ = two
    plugin, checkpoint = place(tmp_path / "c", "other")
    run(["-c", SAVE, str(plugin), str(checkpoint)], tmp_path / "c", "0")
    assert checkpoint.read_bytes() != (first.parents[2] / "best.pth").read_bytes()

    third = export(tmp_path / "c", plugin, checkpoint, "3")

    assert (third / "model.onnx").read_bytes() == (first / "model.onnx").read_bytes()
    assert (third / "manifest.json").read_bytes() == (first / "manifest.json").read_bytes()


def test_no_path_of_the_machine_is_in_the_artifact(two):
    """No file of the artifact, and no member of its archives, holds a path of this machine."""
    first, _ = two
    paths = [str(path).encode() for path in (first.parents[2], ROOT, Path.home(), sys.prefix, sys.base_prefix)]
    contents = {path.name: path.read_bytes() for path in first.iterdir()}
    for name in ("model.pt", "model.pt2"):
        with zipfile.ZipFile(first / name) as archive:
            contents |= {f"{name}/{member}": archive.read(member) for member in archive.namelist()}

    found = {(name, path) for name, data in contents.items() for path in [*paths, b"site-packages", b"/torch/"] if path in data}

    assert len(contents) > 20
    assert found == set()
