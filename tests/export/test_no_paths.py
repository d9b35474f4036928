"""No file of an artifact tells where it was made: no directory of the project, the user, the interpreter or the export."""

import json
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


def contents(path):
    """Name -> bytes of a file, and of every member of it where it is an archive, archives inside archives too."""
    found = {path.name: path.read_bytes()}
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                found[f"{path.name}:{name}"] = archive.read(name)
    return found


@pytest.fixture(scope="module")
def everything(small):
    """All bytes of an artifact in all three formats."""
    _, exported = small
    return {name: data for path in exported.path.iterdir() for name, data in contents(path).items()}


@pytest.mark.parametrize(
    "secret",
    [
        pytest.param(str(ROOT), id="the project"),
        pytest.param(str(Path(__file__).parent), id="the plugin"),
        pytest.param(str(Path.home()), id="the home directory"),
        pytest.param(sys.prefix, id="the environment"),
        pytest.param(sys.base_prefix, id="Python"),
        pytest.param("site-packages", id="a package's directory"),
        pytest.param("good.py", id="a source file's name"),
        pytest.param("/tmp/", id="a temporary directory"),
    ],
)
def test_no_directory_of_this_machine(everything, secret):
    """In no file and no member; the plugin's file name stands in the provenance alone."""
    found = [name for name, data in everything.items() if secret.encode() in data]

    assert found == (["provenance.json"] if secret == "good.py" else [])


def test_not_the_folder_of_the_export(small, everything):
    """Neither the checkpoint's folder nor the repository's."""
    folder, _ = small

    assert not [name for name, data in everything.items() if str(folder.folder).encode() in data]


def test_the_members_are_looked_at(everything):
    """The search above would find what stands in a member: code, weights' names and constants do."""
    assert any(name.startswith("model.pt:") and b"torch.linear" in data for name, data in everything.items())
    assert any(name.startswith("model.pt2:") and b"head.weight" in data for name, data in everything.items())
    assert any(name == "model.onnx" and b"head.weight" in data for name, data in everything.items())


def test_environment(small):
    """Facts that are needed for the same numbers; no host, no user."""
    _, exported = small
    told = json.loads((exported.path / "environment.json").read_bytes())

    machine = {"python", "system", "os", "cpu", "cpu_id", "isa", "cores", "gpus", "gpu_driver", "variables"}
    libraries = {"packages", "installed", "installed_sha256", "torch", "threads", "seeds", "onnxruntime", "numpy"}
    assert told.keys() == {*machine, *libraries, "lock_files", "git"}
    assert {"torch", "onnx", "onnxruntime", "numpy"} <= told["packages"].keys()
