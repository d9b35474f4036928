"""The example of docs/keeping.md, as a person runs it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "examples" / "digits" / "resume.py"
TIMEOUT_S = 150


@pytest.mark.durability
def test_killed_resumed_exported_and_served_with_the_same_numbers(tmp_path):
    """A training that was killed and resumed has the weights of one that was not, and the server tells what PyTorch tells."""
    ran = subprocess.run(
        [sys.executable, SCRIPT, tmp_path], check=False, capture_output=True, text=True, timeout=TIMEOUT_S, cwd=SCRIPT.parents[2]
    )

    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "weights after the last epoch, beside those of step 1: equal, bit for bit" in ran.stdout
    assert "every digit told alike" in ran.stdout
    assert re.search(r"resumed from step-\d{8}(-\d+)?\.safetensors: step \d+", ran.stdout)
    assert re.search(r"accuracy over HTTP  0\.9\d+", ran.stdout)
    assert (tmp_path / "models" / "digits" / "1" / "manifest.json").is_file()
