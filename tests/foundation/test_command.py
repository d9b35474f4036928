"""Every command ends with its error's message and exit code."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from foundation.command import exit_codes
from foundation.errors import StateserveError

PROJECT = Path(__file__).parents[2]


class Wrong(StateserveError):
    exit_code = 7


def test_a_message_and_a_code(capsys):
    """The message is printed as it is on stderr, and the error's code ends the process."""
    with pytest.raises(SystemExit) as caught, exit_codes(as_json=False):
        raise Wrong("the disk is full; free some")

    assert caught.value.code == 7
    assert capsys.readouterr() == ("", "error: the disk is full; free some\n")


def test_one_json_object(capsys):
    """With --json the error is the one JSON object on stdout."""
    with pytest.raises(SystemExit), exit_codes(as_json=True):
        raise Wrong("the disk is full")

    out, err = capsys.readouterr()
    assert (json.loads(out), err) == ({"error": {"type": "Wrong", "exit_code": 7, "message": "the disk is full"}}, "")


BLOCKER = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == BLOCKED:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name.partition(".")[0])
sys.meta_path.insert(0, Blocker())
from stateserve import app
app()
"""


def without(package, folder, *words):
    """The finished command, in a Python where the package is not installed."""
    return subprocess.run(
        [sys.executable, "-c", f"BLOCKED = {package!r}\n{BLOCKER}", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    ("package", "words"),
    [
        ("torch", ("inspect", "x")),
        ("torch", ("export", "--ckpt", "x")),
        ("onnx", ("export", "--ckpt", "x")),
        ("yaml", ("export", "--ckpt", "x")),
        ("yaml", ("inspect", "x")),
    ],
)
def test_a_package_of_export_that_is_not_installed(package, words, tmp_path):
    """A host that only serves is told the line that installs the rest, with exit code 2 and no traceback."""
    done = without(package, tmp_path, *words)

    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert done.stderr == (
        f"error: this command needs {package}, which is not installed: pip install 'stateserve[cpu,export]' "
        "(a host that only serves does without)\n"
    )


def test_another_module_that_is_missing():
    """A module that no extra installs is a fault of ours, and keeps its traceback."""
    with pytest.raises(ModuleNotFoundError), exit_codes(as_json=False):
        raise ModuleNotFoundError("No module named 'nonsense'", name="nonsense")


def test_other_errors_pass():
    """An error that nobody raised on purpose keeps its traceback."""
    with pytest.raises(ZeroDivisionError), exit_codes(as_json=False):
        _ = 1 / 0
