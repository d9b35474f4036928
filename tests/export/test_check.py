"""`stateserve check`: hashes; with --replay the numbers here, with --rebuild where the artifact comes from."""

import importlib.metadata
import json
import shutil

import pytest
import torch
from typer.testing import CliRunner

from artifact.check import Replayed, differing_here, require_all
from artifact.errors import GoldenMismatch
from artifact.golden import Replay
from artifact.manifest import read_manifest
from foundation.environment import environment
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


def test_replay(check, small, tmp_path):
    """Every engine's golden cases, on this machine: the same bits here, and nothing differs from where it was exported."""
    _, exported = small
    exported = shutil.copytree(exported.path, tmp_path / "1")
    (exported / "environment.json").write_text(json.dumps(environment()))

    text, told = check(exported, "--replay"), json.loads(check(exported, "--replay", "--json").stdout)
    lines = text.stdout.splitlines()

    assert text.exit_code == 0
    assert [line.split(":")[0] for line in lines[1:-1]] == ["onnx", "torchscript", "pt2"]
    assert all(line.endswith(", allowed 1.0e-06, bit-equal: True") for line in lines[1:-1])
    assert lines[-1] == "nothing differs from the machine of the export, of what these engines compute with"
    assert told["differences"] == []
    assert told["replay"]["onnx"] == {
        "unavailable": None,
        "comparisons": 6,
        "worst_scaled": told["replay"]["onnx"]["worst_scaled"],
        "tolerance": 1e-6,
        "bit_equal": True,
    }


def test_what_differs_from_the_machine_of_the_export(check, copied):
    """Worst first, with the values, the reason and the engines; what no engine here computes with is left out."""
    path, _ = copied
    there = environment()
    there["packages"] = {**there["packages"], "torch": "2.10.0", "pillow": "9.0"}
    there["cores"] = 96
    there["torch"]["build"]["mkl"] = "2023.1"
    (path / "environment.json").write_text(json.dumps(there))

    lines = check(path, "--replay").stdout.splitlines()[4:]
    told = json.loads(check(path, "--replay", "--json").stdout)["differences"]

    mkl, cores = environment()["torch"]["build"]["mkl"], environment()["cores"]
    version = "another version has other kernels, other fusions and other faults (torchscript, pt2)"
    build = "the same version with other libraries, or from another compiler (torchscript, pt2)"
    assert lines == [
        "differs from the machine of the export, worst first:",
        f"  1. torch: 2.10.0 there, {importlib.metadata.version('torch')} here; {version}",
        f"  2. torch.build.mkl: 2023.1 there, {mkl} here; {build}",
        f"  3. cores: 96 there, {cores} here; sums are cut into other pieces (onnx)",
    ]
    assert [(one["fact"], one["there"], one["concerns"]) for one in told] == [
        ("torch", "2.10.0", ["torchscript", "pt2"]),
        ("torch.build.mkl", "2023.1", ["torchscript", "pt2"]),
        ("cores", "96", ["onnx"]),
    ]


def test_the_record_that_export_writes(small):
    """Beside the manifest: what computed, every package, and the code; outside the content id, and of no engine's concern."""
    _, exported = small
    record = json.loads((exported.path / "environment.json").read_text())

    assert record["torch"]["commit"] == torch.version.git_version
    assert record["onnxruntime"]["commit"]
    assert record["threads"]["torch.get_num_threads"] >= 1
    assert record["installed"]["torch"] == importlib.metadata.version("torch")
    assert {"git", "lock_files"} <= record.keys()
    assert "environment.json" not in read_manifest(exported.path).listed


@pytest.mark.parametrize("page", [None, "", "[]", "[" * 100_000, '{"python": "3.11'])
def test_an_artifact_without_a_record(check, copied, page):
    """It is replayed all the same; that nothing is known of where it comes from is said."""
    path, _ = copied
    (path / "environment.json").unlink()
    if page is not None:
        (path / "environment.json").write_text(page)

    text, told = check(path, "--replay"), json.loads(check(path, "--replay", "--json").stdout)

    assert text.exit_code == 0
    assert text.stdout.splitlines()[-1] == (
        "what differs from the machine of the export is not known: there is no readable environment.json"
    )
    assert told["differences"] is None


def test_an_artifact_of_an_older_version(check, copied):
    """Its record has fewer facts: those are compared, the others are not known, and no difference."""
    path, _ = copied
    here = environment()
    first = {name: here[name] for name in ("python", "system", "cpu", "isa", "cores", "variables")}
    packages = {**here["packages"], "onnxruntime": "1.20.0"}
    (path / "environment.json").write_text(json.dumps({**first, "packages": packages}))

    told = json.loads(check(path, "--replay", "--json").stdout)["differences"]

    assert [(one["fact"], one["concerns"]) for one in told] == [("onnxruntime", ["onnx"])]


def test_numbers_that_disagree(copied):
    """The message that the numbers are others has what differs beside it."""
    path, _ = copied
    (path / "environment.json").write_text(json.dumps({**environment(), "cores": 96}))
    worse = Replay("onnx", "c", "y", 1, tiled=False, error=1.0, tolerance=1e-6, bit_equal=False)
    replayed = [Replayed("onnx", (worse,))]

    with pytest.raises(GoldenMismatch) as caught:
        require_all(replayed, differing_here(path, replayed))

    first, second, third = str(caught.value).splitlines()
    assert first.startswith("golden case c disagrees on engine onnx: output y, 1 row(s), scaled error 1.00e+00, allowed 1.00e-06")
    assert second == "differs from the machine of the export, worst first:"
    assert third.startswith("  1. cores: 96 there, ")


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
