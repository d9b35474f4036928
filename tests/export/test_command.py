"""The command `python -m export`: exit codes, what goes to stdout and what to stderr."""

import io
import json
import pickle
import warnings
import zipfile

import pytest
import torch
from typer.testing import CliRunner

from artifact.manifest import read_manifest
from export.__main__ import app


@pytest.fixture
def run(work, monkeypatch):
    """The command in this process: exit code, stdout, stderr."""
    monkeypatch.chdir(work.folder)

    def run(*words):
        return CliRunner().invoke(app, [str(word) for word in words])

    return run


def ended(work, code, *words):
    """Runs the real command; it must end with this code, leave every file as it was, and say why on stderr alone."""
    before = work.files()
    finished = work.command(*words)
    assert finished.returncode == code, finished.stderr
    assert work.files() == before
    assert finished.stdout == ""
    return finished.stderr


# ---- one test for every exit code, by the real command ----


def test_exit_0(work):
    """The last line of stdout is the path, relative as the repository was given; progress and result go to stderr."""
    plugin = work.net("good", "small") and work.plugins[0]

    finished = work.command("--ckpt", "best.pth", "--plugin", plugin)

    assert finished.returncode == 0, finished.stderr
    assert finished.stdout == "model_repository/small/1\n"
    manifest = read_manifest(work.folder / "model_repository" / "small" / "1")
    for words in (
        "✓ read checkpoint",
        "✓ prove parity",
        "✓ write",
        "wrote model_repository/small/1 in ",
        f"content id {manifest.content_id}",
        "next: python -m serving --repository model_repository",
    ):
        assert words in finished.stderr


def test_exit_2(work):
    """A mistake in the YAML, with its line and column."""
    work.net("good", "small")
    work.write("schema: 1\nmodel: {name: mlp}\nimputs: {}\noutputs: {y: {dtype: float32, shape: [1]}}\n")

    assert ended(work, 2, "--ckpt", "best.pth") == (
        "error: best.yaml:1:1: inputs: required, but not there\nbest.yaml:3:1: imputs: unknown key; nearest: inputs\n"
    )


def test_exit_3(work):
    """A Git LFS pointer stands where the weights should be."""
    (work.folder / "best.pth").write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 12345\n")

    assert "git lfs pull" in ended(work, 3, "--ckpt", "best.pth")


def test_exit_4(work):
    """A plain pickle is not unpickled."""
    (work.folder / "best.pth").write_bytes(pickle.dumps({"weight": [1.0]}))

    message = ended(work, 4, "--ckpt", "best.pth")

    assert message.startswith("error: best.pth is ")
    assert "pickle" in message


def test_exit_5(work):
    """Weights that are not the model's."""
    plugin = work.net("good", "small") and work.plugins[0]
    work.save({"a.weight": torch.ones(2)})

    assert "error: best.pth: The file's keys are not the model's: " in ended(
        work, 5, "--ckpt", "best.pth", "--plugin", plugin, "--config", "best.yaml"
    )


def test_exit_6(work):
    """Two weight sets, and none was chosen."""
    plugin = work.net("good", "small") and work.plugins[0]
    state = torch.load(work.checkpoint, weights_only=True)
    work.save({"model": state, "model_ema": {name: tensor * 2 for name, tensor in state.items()}})

    assert "--weights model|model_ema" in ended(work, 6, "--ckpt", "best.pth", "--plugin", plugin)


def test_exit_7(work):
    """A model that stays in train mode."""
    plugin = work.net("uncapturable", "stays_in_train") and work.plugins[0]

    assert "error: StaysInTrain stays in train mode after eval(): drop. " in ended(
        work, 7, "--ckpt", "best.pth", "--plugin", plugin
    )


def test_exit_8(work):
    """Rows that influence each other."""
    plugin = work.net("disagreeing", "batch_mean") and work.plugins[0]

    stderr = ended(work, 8, "--ckpt", "best.pth", "--plugin", plugin)

    assert "error: rows of one batch influence one another: " in stderr
    assert "Traceback" not in stderr


def test_exit_9(work):
    """A place that cannot be written."""
    plugin = work.net("good", "small") and work.plugins[0]
    (work.folder / "taken").write_text("a file")

    stderr = ended(work, 9, "--ckpt", "best.pth", "--plugin", plugin, "--repository", "taken")

    assert stderr.splitlines()[-1].startswith("error: the artifact could not be written below taken/small: ")
    assert stderr.splitlines()[-1].endswith("; nothing was written")


# ---- files that are no checkpoints (the checkpoints room has the deeper tests) ----


class Whole(torch.nn.Module):
    """A module that is saved whole, with its class."""


def torchscript():
    buffer = io.BytesIO()
    with warnings.catch_warnings(action="ignore"):
        torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)), buffer)
    return buffer.getvalue()


def saved(value):
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


FILES = {
    "page": (lambda: b"<!DOCTYPE html><html><body>Sign in</body></html>", 3, "web page"),
    "empty": (lambda: b"", 3, "empty"),
    "cut off": (lambda: saved({"weight": torch.ones(1000)})[:2000], 3, "cut off"),
    "TorchScript": (torchscript, 3, "TorchScript"),
    "whole module": (lambda: saved(Whole()), 4, "Whole"),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_file_that_is_no_checkpoint(run, work, kind):
    """It is recognised by its bytes, and said what it is; with --json in one object."""
    make, code, word = FILES[kind]
    work.checkpoint.write_bytes(make())
    work.write(work.data("mlp"))
    before = work.files()

    result = run("--ckpt", "best.pth", "--json")

    assert result.exit_code == code, result.output
    error = json.loads(result.stdout)["error"]
    assert error["exit_code"] == code
    assert error["message"].startswith("best.pth ")
    assert word in error["message"], error["message"]
    assert result.stderr == ""
    assert work.files() == before


def test_a_checkpoint_that_is_not_there(run, work):
    """The path is named."""
    result = run("--ckpt", "missing.pth")

    assert result.exit_code == 3
    assert "missing.pth" in result.stderr
    assert work.files() == {}


# ---- stdout ----


def test_json(run, work):
    """One object: path, content id, sizes, worst errors against budgets, notices, cases left out, seconds; stderr is empty."""
    plugin = work.net("good", "small") and work.plugins[0]

    result = run("--ckpt", "best.pth", "--plugin", plugin, "--json")

    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told.keys() == {"path", "content_id", "created", "sizes", "worst", "notices", "left_out", "seconds", "precisions"}
    assert told["path"] == "model_repository/small/1"
    assert told["content_id"] == read_manifest(work.folder / told["path"]).content_id
    assert told["created"] is True
    assert told["sizes"] == {"model.onnx": (work.folder / told["path"] / "model.onnx").stat().st_size}
    assert told["worst"]["onnx"]["scaled"] <= told["worst"]["onnx"]["budget"]
    assert result.stderr == ""


def test_the_same_content_again(run, work):
    """The same path, exit 0, and nothing is written."""
    plugin = work.net("good", "small") and work.plugins[0]
    words = ("--ckpt", "best.pth", "--plugin", plugin)
    assert run(*words).exit_code == 0
    before = work.files()

    again = run(*words)

    assert (again.exit_code, again.stdout) == (0, "model_repository/small/1\n")
    assert "unchanged model_repository/small/1" in again.stderr
    assert json.loads(run(*words, "--json").stdout)["created"] is False
    assert work.files() == before


@pytest.mark.parametrize("words", [(), ("--json",)])
def test_what_a_plugin_prints(run, work, words):
    """Prints of a plugin go to stderr, so that stdout stays ours."""
    plugin = work.net("chatty", "chatty") and work.plugins[0]

    result = run("--ckpt", "best.pth", "--plugin", plugin, *words)

    assert result.exit_code == 0, result.output
    assert len(result.stdout.splitlines()) == 1
    assert "model_repository/chatty/1" in result.stdout
    assert "calling the model" in result.stderr


def test_errors_as_json(run, work):
    """The error's class, exit code and message, in one object."""
    work.net("uncapturable", "stays_in_train")

    result = run("--ckpt", "best.pth", "--plugin", work.plugins[0], "--json")

    assert result.exit_code == 7
    error = json.loads(result.stdout)["error"]
    assert error.keys() == {"type", "exit_code", "message"}
    assert (error["type"], error["exit_code"]) == ("CaptureFailed", 7)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "--ckpt is missing: say which checkpoint to export"),
        (("--ckpt", "best.pth", "--name", "a/b"), "--name 'a/b' is not letters, digits, '.', '_' and '-' (at most 128)"),
        (("--ckpt", "best.pth", "--name", ".."), "--name '..' is not letters, digits, '.', '_' and '-' (at most 128)"),
        (("--ckpt", "best.pth", "--format", "tflite"), "unknown format 'tflite'; the formats are onnx, torchscript, pt2"),
    ],
)
def test_usage_errors(run, work, words, message):
    """What is wrong with the command line ends with exit 2, as JSON too."""
    work.net("good", "small")

    plain = run(*words, "--plugin", work.plugins[0])
    told = run(*words, "--plugin", work.plugins[0], "--json")

    assert (plain.exit_code, plain.stdout) == (2, "")
    assert plain.stderr.splitlines()[-1] == f"error: {message}"
    assert told.exit_code == 2
    assert json.loads(told.stdout)["error"]["message"] == message
    assert not (work.folder / "model_repository").exists()


@pytest.mark.parametrize("words", [("--version", "0"), ("--version", "one"), ("--no-such-option",)])
def test_options_that_do_not_parse(run, work, words):
    """The parser's own errors are exit 2 as well."""
    work.net("good", "small")

    assert run("--ckpt", "best.pth", *words).exit_code == 2
    assert not (work.folder / "model_repository").exists()


# ---- --plan ----


def test_plan(run, work):
    """Everything is read and matched, and nothing is written: not even the repository."""
    work.net("good", "small")
    before = work.files()

    result = run("--ckpt", "best.pth", "--plugin", work.plugins[0], "--plan", "--format", "pt2", "--version", "4")

    assert (result.exit_code, result.stdout) == (0, "")
    assert work.files() == before
    lines = {line.split()[0]: line for line in result.stderr.splitlines() if line and line[0].isalpha()}
    assert lines["checkpoint"].startswith("checkpoint   best.pth: bare, ")
    assert lines["config"] == "config       best.yaml"
    assert lines["inputs"] == "inputs       x float32 ['batch', 4]"
    assert lines["dims"] == "dims         batch 1 to 8"
    assert lines["formats"] == "formats      pt2"
    assert lines["precision"] == "precision    float32"
    assert lines["would"] == "would write  model_repository/small/4"


def test_plan_as_json(run, work):
    """The config with all defaults, the rewrite and the formats."""
    work.net("good", "small")

    result = run("--ckpt", "best.pth", "--plugin", work.plugins[0], "--plan", "--json")

    told = json.loads(result.stdout)
    assert told["plan"]["model"] == {"name": "small", "params": {}}
    assert (told["rewrite"], told["formats"]) == ("identity", ["onnx"])


def test_plan_of_a_mismatch(run, work):
    """A plan fails as the export would."""
    work.net("good", "small")
    work.save({"a.weight": torch.ones(2)})

    assert run("--ckpt", "best.pth", "--config", "best.yaml", "--plugin", work.plugins[0], "--plan").exit_code == 5


# ---- what is in the artifact ----


def test_provenance(small):
    """Where it comes from: the checkpoint's and the plugin's names, without directories, and the time."""
    _, exported = small

    told = json.loads((exported.path / "provenance.json").read_bytes())

    assert told.keys() == {"checkpoint", "weights", "plugins", "notices", "exported_at"}
    assert told["checkpoint"]["file"] == "best.pth"
    assert told["plugins"] == ["good.py"]
    assert told["weights"] == {"set": "", "rewrite": "identity", "ignored": [], "tensors": 10, "bytes": 452}


def test_zip_members_are_plain(small):
    """The archives hold no debug records and no directories."""
    _, exported = small
    for file in ("model.pt", "model.pt2"):
        with zipfile.ZipFile(exported.path / file) as archive:
            assert not [name for name in archive.namelist() if name.endswith((".debug_pkl", "/"))]
