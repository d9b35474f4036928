"""A packed artifact's handler, asked without TorchServe."""

import http
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import artifact

PROJECT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def mar(mlp_artifact, tmp_path_factory):
    """The MLP's archive, by the command."""
    folder = tmp_path_factory.mktemp("packed")
    copy = shutil.copytree(mlp_artifact, folder / "mlp" / "1")
    command = [sys.executable, "-m", "stateserve", "package", "mar", str(copy), "--to", str(folder)]
    subprocess.run(command, cwd=PROJECT, check=True, capture_output=True, timeout=60)
    return folder / "mlp.mar"


def run(code, *arguments):
    """Runs in a process of its own: a handler's modules are its archive's."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=60, check=False)


def test_inputs_give_outputs(mar, mlp_artifact, tmp_path):
    """The handler gives what the artifact gives, by arrays and by a batch of requests, of which each has its own answer."""
    code = """
import sys
from pathlib import Path
import numpy as np
from bench.packed import JSON, Packed, unpacked
handler = Packed(unpacked(Path(sys.argv[1]), Path(sys.argv[2])))
x = np.linspace(-4, 4, 12, dtype=np.float32).reshape(3, 4)
np.save(sys.argv[3], handler.run({"x": x})["logits"])
rows = [{"body": {"inputs": x.tolist()}}, {"body": {"inputs": [[9, 0, 0, 0]]}}]
print([reply.status for reply in handler.handle(rows, {"content-type": JSON})])
"""
    done = run(code, mar, tmp_path / "mar", tmp_path / "answer.npy")
    x = np.linspace(-4, 4, 12, dtype=np.float32).reshape(3, 4)

    assert done.stdout == f"[{http.HTTPStatus.OK:d}, {http.HTTPStatus.BAD_REQUEST:d}]\n", done.stderr
    assert np.array_equal(np.load(tmp_path / "answer.npy"), artifact.load(mlp_artifact).run({"x": x})["logits"])


def test_the_command(mar):
    """It prints what batches took, as a line of JSON; where there is no such GPU, the handler's own words."""
    command = [sys.executable, "-m", "bench.packed", str(mar), "--rows", "2", "--requests", "3", "--duration-s", "0"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=60, check=True)
    said = json.loads(done.stdout)
    assert (said["rows"], said["requests"], said["batches"]) == (2, 3, 3)
    assert 0 < said["p50_s"] <= said["p99_s"]

    failed = subprocess.run([*command, "--gpu", "99"], cwd=PROJECT, capture_output=True, text=True, timeout=60, check=False)
    assert failed.returncode != 0
    assert "the handler does not load its model: EngineUnavailable: ONNX Runtime" in failed.stdout + failed.stderr
