"""`stateserve environment`: printed, written whole or not at all, and compared with what others recorded."""

import json

import pytest
from typer.testing import CliRunner

from foundation import environment_command as command
from foundation.environment import environment
from stateserve import app

NAMES = ["environment.json", "environment.yml", "requirements.txt"]


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def run(monkeypatch):
    """The command in this process; pip is asked nothing."""
    monkeypatch.setenv("COLUMNS", "160")
    return lambda *words: CliRunner().invoke(app, ["environment", "--no-index", *map(str, words)])


@pytest.fixture
def recorded(tmp_path):
    """A record of another machine, where one thread computed."""
    record = environment()
    record["threads"] = {"torch.get_num_threads": 77}
    path = tmp_path / "environment.json"
    path.write_text(json.dumps(record))
    return path


def test_what_is_printed(run):
    """The facts by what they decide, worst first; as JSON one object with all of them, and the state of the code."""
    text, told = run(), json.loads(run("--json").stdout)
    headings = [line.split(" (")[0] for line in text.stdout.splitlines() if " (if it differs: " in line]

    assert text.exit_code == 0
    assert [name for name in headings if name in {"engine", "kernels", "threads", "system"}] == [
        "engine",
        "kernels",
        "threads",
        "system",
    ]
    assert "  torch.get_num_threads: " in text.stdout
    assert told["torch"]["commit"]
    assert told["onnxruntime"]["providers"]
    assert set(told["git"] or {}) <= {"commit", "dirty"}
    assert told["installed"]["numpy"] == told["packages"]["numpy"]


def test_what_is_written(run, tmp_path):
    """Three files, and nothing beside them; again over its own, as often as one likes."""
    assert run("--to", tmp_path / "new" / "place").exit_code == 0
    result = run("--to", tmp_path / "new" / "place")
    assert result.exit_code == 0, result.output
    assert names_in(tmp_path / "new" / "place") == NAMES
    record = json.loads((tmp_path / "new" / "place" / "environment.json").read_text())

    assert record["torch"]["commit"]
    assert (
        f"\ntorch=={record['packages']['torch']}  # no index was asked\n" in (tmp_path / "new/place/requirements.txt").read_text()
    )
    assert f"written: {tmp_path / 'new' / 'place' / 'environment.yml'}" in result.stdout.splitlines()
    assert any(line.startswith("without hash: torch==") for line in result.stdout.splitlines())


@pytest.mark.parametrize("name", NAMES)
def test_files_of_others_stay(run, tmp_path, name):
    """A project's own file of such a name is never replaced, unless that is said."""
    (tmp_path / name).write_text("numpy\n")
    refused = run("--to", tmp_path)

    assert refused.exit_code == 9
    assert refused.stderr == (
        f"error: {tmp_path / name} is there, and not made by this command; take another directory for --to, "
        "or --force to replace it\n"
    )
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {name: "numpy\n"}
    assert run("--to", tmp_path, "--force").exit_code == 0
    assert names_in(tmp_path) == NAMES


def test_a_place_that_cannot_be_written(run, tmp_path):
    """The reason, and exit code 9."""
    (tmp_path / "file").write_text("")
    result = run("--to", tmp_path / "file" / "below")

    assert result.exit_code == 9
    assert result.stderr == f"error: the environment could not be written to {tmp_path / 'file' / 'below'}: Not a directory\n"


def test_against_a_record(run, recorded):
    """What differs, worst first, with its reason; the same from the directory that holds it."""
    for path in (recorded, recorded.parent):
        lines = run("--against", path).stdout.splitlines()
        assert lines[0] == "differs, worst first:"
        assert [line for line in lines if ". torch.get_num_threads: 77 there, " in line]
    told = json.loads(run("--against", recorded, "--json").stdout)["differences"]

    assert [one for one in told if one["fact"] == "torch.get_num_threads"][0]["kind"] == "threads"  # noqa: RUF015


def test_against_a_checkpoint(run, recorded, tmp_path):
    """A keeper's sidecar is the record of its training, whichever of its files or links is given; its code counts."""
    sidecar = {"kind": "stateserve-checkpoint", "environment": json.loads(recorded.read_text()), "git": {"commit": "c0ffee"}}
    (tmp_path / "step-00000120.json").write_text(json.dumps(sidecar))
    (tmp_path / "step-00000120.safetensors").write_bytes(b"")
    (tmp_path / "best.pth").symlink_to("step-00000120.safetensors")

    for name in ("step-00000120.json", "step-00000120.safetensors", "best.pth"):
        lines = run("--against", tmp_path / name).stdout.splitlines()
        assert [line for line in lines if ". torch.get_num_threads: 77 there, " in line], name
    assert command.read_record(tmp_path / "best.pth")["git"] == {"commit": "c0ffee"}


@pytest.mark.parametrize("page", [None, "", "[1]", "{}", "[" * 100_000, '{"environment": 3}'])
def test_against_what_is_no_record(run, tmp_path, page):
    """Exit code 2, and what may be given."""
    path = tmp_path / "x.json"
    if page is not None:
        path.write_text(page)
    result = run("--against", path)

    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: {path} ")
    assert "record of an environment" in result.stderr
