"""`stateserve inspect`: what a file is, what it holds, whether and how it would load; the exit code is the export's."""

import io
import json
import pickle

import pytest
import torch
from typer.testing import CliRunner

from stateserve import app


@pytest.fixture
def inspect():
    """The command in this process."""
    return lambda *words: CliRunner().invoke(app, ["inspect", *map(str, words)])


def test_a_checkpoint_that_would_load(inspect, work):
    """Exit 0: kind, weights with dtypes and sizes, and how it would load."""
    work.net("good", "small")

    result = inspect(work.checkpoint, "--plugin", work.plugins[0])

    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    size = work.checkpoint.stat().st_size
    assert lines[0].startswith(f"{work.checkpoint}: ")
    assert lines[0].endswith(f", {size} bytes")
    assert "weights (the whole file): 10 tensors (10 float32), 113 values, 452 bytes" in lines
    assert "  a.weight [5, 4]" in lines
    assert lines[-1] == f"would load into small by {work.folder / 'best.yaml'}: 10 tensors, rewrite identity"


def test_as_json(inspect, work):
    """One object with the same facts."""
    work.net("good", "small")

    result = inspect(work.checkpoint, "--plugin", work.plugins[0], "--json")

    told = json.loads(result.stdout)
    assert (result.exit_code, result.stderr) == (0, "")
    assert told["error"] is None
    assert told["would_load"] == {
        "config": str(work.folder / "best.yaml"),
        "model": "small",
        "weights": "",
        "rewrite": "identity",
        "ignored": [],
        "precision": "float32",
        "tensors": 10,
        "sha256": told["would_load"]["sha256"],
        "notices": [],
    }
    assert told["weight_sets"][0] == {
        "name": "",
        "tensors": 10,
        "values": 113,
        "bytes": 452,
        "dtypes": {"float32": 10},
        "first": {"a.weight": [5, 4], "a.bias": [5], "b.weight": [5, 5], "b.bias": [5], "c.weight": [5, 5]},
        "tied": {},
    }


def test_another_precision(inspect, work):
    """What CUDA would compute in is told where it is not float32."""
    work.net("good", "small", precision="bfloat16")

    lines = inspect(work.checkpoint, "--plugin", work.plugins[0]).stdout.splitlines()

    assert lines[-1] == "CUDA would compute in bfloat16"


def test_notices(inspect, work):
    """What the export would tell is told."""
    work.net("good", "small", seed=0)

    result = inspect(work.checkpoint, "--plugin", work.plugins[0])

    assert "note: 4 weights equal those of a freshly built model, as if never trained: " in result.stdout


def test_a_checkpoint_without_a_config(inspect, work):
    """Exit 2, as the export: the registered models whose keys match are listed."""
    state = work.net("good", "small").state_dict()
    (work.folder / "best.yaml").unlink()
    work.save({"model": dict(state), "epoch": 3})

    text = inspect(work.checkpoint, "--plugin", work.plugins[0])
    told = inspect(work.checkpoint, "--plugin", work.plugins[0], "--json")

    assert (text.exit_code, told.exit_code) == (2, 2)
    assert text.stdout.splitlines()[-1].startswith("would not load: no config for best.pth: ")
    found = json.loads(told.stdout)
    assert found["matching_models"][0] == {"model": "small", "found": 10, "keys": 10}
    assert found["would_load"] is None
    assert found["facts"] == {"epoch": 3}
    assert (found["error"]["type"], found["error"]["exit_code"]) == ("ConfigError", 2)


def test_weights_that_do_not_fit(inspect, work):
    """Exit 5 and the export's message."""
    state = work.net("good", "small").state_dict()
    work.save({**state, "head.bias": torch.ones(4)})

    result = inspect(work.checkpoint, "--plugin", work.plugins[0])

    assert result.exit_code == 5
    assert "would not load: best.pth: The file's keys are not the model's: 9 match, 1 have another shape, " in result.stdout
    assert "config model.params.classes is 3, the file fits 4" in result.stdout


def test_two_weight_sets(inspect, work):
    """Exit 6; both are shown."""
    state = work.net("good", "small").state_dict()
    work.save({"model": dict(state), "ema": dict(state)})

    result = inspect(work.checkpoint, "--plugin", work.plugins[0])

    assert result.exit_code == 6
    assert [line for line in result.stdout.splitlines() if line.startswith("weights ")] == [
        "weights model: 10 tensors (10 float32), 113 values, 452 bytes",
        "weights ema: 10 tensors (10 float32), 113 values, 452 bytes",
    ]


@pytest.mark.parametrize(
    ("data", "code"),
    [(pickle.dumps({"a": 1}), 4), (b"", 3), (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", 3)],
)
def test_a_file_that_is_no_checkpoint(inspect, work, data, code):
    """The export's exit code; what it is, and what to do, once."""
    work.checkpoint.write_bytes(data)

    text, told = inspect(work.checkpoint), inspect(work.checkpoint, "--json")

    assert (text.exit_code, told.exit_code) == (code, code)
    found = json.loads(told.stdout)
    assert found["error"]["exit_code"] == code
    assert found["size"] == len(data)
    assert "weight_sets" not in found
    assert text.stdout.count(found["remedy"]) == 1


class Marker:
    """Leaves a file behind if it is ever unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def test_its_code_never_runs(inspect, work):
    """A pickle that would make a file when it is loaded makes none."""
    mark = work.folder / "ran"
    buffer = io.BytesIO()
    torch.save({"weight": torch.ones(2), "more": Marker(str(mark))}, buffer)
    work.checkpoint.write_bytes(buffer.getvalue())

    result = inspect(work.checkpoint)

    assert result.exit_code == 4
    assert not mark.exists()


def test_a_path_that_is_not_there(inspect, work):
    """Exit 3."""
    result = inspect(work.folder / "missing.pth", "--json")

    assert result.exit_code == 3
    assert json.loads(result.stdout)["error"]["exit_code"] == 3


@pytest.mark.parametrize(
    ("above", "what"), [(0, "an artifact"), (1, "a model's folder of artifacts"), (2, "a repository of artifacts")]
)
def test_an_artifact(inspect, small, above, what):
    """An artifact is no checkpoint, nor are the folders above it, and there is a command for it."""
    _, exported = small
    folder = (exported.path, *exported.path.parents)[above]

    result = inspect(folder)

    assert result.exit_code == 3
    assert (
        f"\nwould not load: {folder.name} is {what}, not a checkpoint; run: stateserve check {exported.path}\n" in result.stdout
    )


def test_what_a_plugin_prints(inspect, work):
    """With --json, stdout is one object whatever a plugin prints."""
    work.net("chatty", "chatty")

    result = inspect(work.checkpoint, "--plugin", work.plugins[0], "--json")

    assert json.loads(result.stdout)["would_load"]["model"] == "chatty"
    assert "building the model" in result.stderr
