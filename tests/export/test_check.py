"""`stateserve check`: hashes; with --replay the numbers here, with --rebuild where the artifact comes from."""

import json
import shutil

import pytest
import torch
from typer.testing import CliRunner

from artifact.manifest import read_manifest
from stateserve import app


@pytest.fixture
def check():
    """The command in this process."""
    return lambda *words: CliRunner().invoke(app, ["check", *map(str, words)])


@pytest.fixture
def copied(small, work):
    """A copy of the artifact of `small`, and the folder that it came from."""
    folder, exported = small
    path = work.folder / "1"
    shutil.copytree(exported.path, path)
    folder.plugin("good")
    return path, folder


def test_hashes(check, small):
    """Every listed file is as it was exported."""
    _, exported = small

    result = check(exported.path)

    assert result.exit_code == 0
    assert result.stdout == f"{exported.path}: 7 files are as they were exported, content id {exported.content_id}\n"


def test_as_json(check, small):
    """One object."""
    _, exported = small

    told = json.loads(check(exported.path, "--json").stdout)

    assert told == {
        "artifact": str(exported.path),
        "content_id": exported.content_id,
        "files": [
            "config.yaml",
            "golden.safetensors",
            "labels.txt",
            "model.onnx",
            "model.pt",
            "model.pt2",
            "parity.json",
        ],
    }


@pytest.mark.parametrize("name", ["model.onnx", "model.pt2", "golden.safetensors", "parity.json", "labels.txt"])
def test_a_changed_file(check, copied, name):
    """It is named, with both hashes; as JSON too."""
    path, _ = copied
    data = bytearray((path / name).read_bytes())
    data[len(data) // 2] ^= 1
    (path / name).write_bytes(data)

    result = check(path)

    assert result.exit_code != 0
    assert result.stdout == ""
    assert result.stderr.startswith(f"error: {path / name} was changed: ")
    assert json.loads(check(path, "--json").stdout)["error"]["type"] == "DamagedArtifact"


def test_a_directory_that_is_no_artifact(check, work):
    """What an artifact is stands in the message."""
    result = check(work.folder)

    assert result.exit_code != 0
    assert "has no readable manifest.json: an artifact is a directory <name>/<version> that export wrote" in result.stderr


def test_replay(check, small):
    """Every engine's golden cases, on this machine: the same bits here."""
    _, exported = small

    text, told = check(exported.path, "--replay"), json.loads(check(exported.path, "--replay", "--json").stdout)

    assert text.exit_code == 0
    assert [line.split(":")[0] for line in text.stdout.splitlines()[1:]] == ["onnx", "torchscript", "pt2"]
    assert all(line.endswith(", allowed 1.0e-06, bit-equal: True") for line in text.stdout.splitlines()[1:])
    assert told["replay"]["onnx"] == {
        "unavailable": None,
        "comparisons": 6,
        "worst_scaled": told["replay"]["onnx"]["worst_scaled"],
        "tolerance": 1e-6,
        "bit_equal": True,
    }


def test_rebuild(check, small):
    """The checkpoint gives the same content id again, under the artifact's own config alone."""
    folder, exported = small
    folder.plugin("good")

    result = check(exported.path, "--rebuild", "--ckpt", folder.checkpoint, "--plugin", folder.plugins[0])

    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1] == "rebuilt from the checkpoint: the same content id"


def test_rebuild_with_what_the_command_line_chose(check, work):
    """Weights, ignored keys, name and formats of the command line were written into the artifact's config."""
    state = work.net("good", "small").state_dict()
    work.save({"model": {**state, "aux": torch.ones(1)}, "ema": {name: tensor * 2 for name, tensor in state.items()}})
    exported = work.export(weights="model", ignore=("aux",), name="other")

    result = check(exported.path, "--rebuild", "--ckpt", work.checkpoint, "--plugin", work.plugins[0], "--json")

    assert json.loads(result.stdout)["rebuilt_content_id"] == exported.content_id


def test_rebuild_from_other_weights(check, work):
    """What differs is named: the weights, and the files that hold them."""
    work.net("good", "small")
    exported = work.export()
    work.net("good", "small", seed=2)
    before = work.files()

    result = check(exported.path, "--rebuild", "--ckpt", work.checkpoint, "--plugin", work.plugins[0])

    assert result.exit_code != 0
    assert result.stdout == ""
    assert result.stderr.startswith(f"error: best.pth does not rebuild {exported.path}: weights, model.onnx differ; content id ")
    assert f"the artifact has {exported.content_id}. It comes from another checkpoint or config" in result.stderr
    assert work.files() == before


def test_rebuild_from_a_checkpoint_that_does_not_load(check, work):
    """The export's own error and exit code."""
    work.net("good", "small")
    exported = work.export()
    work.save({"a.weight": torch.ones(1)})

    assert check(exported.path, "--rebuild", "--ckpt", work.checkpoint, "--plugin", work.plugins[0]).exit_code == 5


def test_rebuild_needs_the_checkpoint(check, small):
    """Exit 2, and the option is named."""
    _, exported = small

    result = check(exported.path, "--rebuild")

    assert result.exit_code == 2
    assert "--ckpt" in result.stderr


def test_rebuild_of_a_model_with_a_checkpoints_own_config(check, work):
    """The artifact's config stands beside the checkpoint's own without a conflict."""
    state = work.net("good", "small").state_dict()
    work.save({"state_dict": dict(state), "config": work.data("small")})
    (work.folder / "best.yaml").unlink()
    exported = work.export()

    result = check(exported.path, "--rebuild", "--ckpt", work.checkpoint, "--plugin", work.plugins[0])

    assert result.exit_code == 0, result.output


def test_rebuild_with_labels(check, work):
    """Labels stand in the artifact under one name, whatever name the checkpoint's own config has for them."""
    state = work.net("good", "small").state_dict()
    (work.folder / "names.txt").write_text("a\nb\nc\n")
    labelled = {"y": {"dtype": "float32", "shape": ["batch", 3], "labels": "names.txt"}}
    work.save({"state_dict": dict(state), "config": {**work.data("small"), "outputs": labelled}})
    (work.folder / "best.yaml").unlink()
    exported = work.export()

    result = check(exported.path, "--rebuild", "--ckpt", work.checkpoint, "--plugin", work.plugins[0])

    assert result.exit_code == 0, result.output


def test_the_artifacts_config_is_whole(small):
    """config.yaml holds what the export ran with, and is hashed."""
    _, exported = small

    assert "config.yaml" in read_manifest(exported.path).evidence
    assert "formats: [onnx, torchscript, pt2]" in (exported.path / "config.yaml").read_text()
