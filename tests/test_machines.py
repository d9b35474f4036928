"""The same checkpoint on other machines: emulated by the variables that choose kernels, each in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import machines
import pytest
import torch

MACHINES = {
    "no vector extensions": {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_CBWR": "COMPATIBLE"},
    "AVX2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_CBWR": "AVX2"},
}
ROOT = Path(__file__).parent.parent


def start_on_machine(variables, *arguments):
    alone = {"OMP_NUM_THREADS": "1"}  # side by side, threads that wait for each other would take all of the time
    env = {**os.environ, **alone, **variables, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "tests" / "machines.py"), *map(str, arguments)]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def printed(process):
    out, err = process.communicate()
    assert process.returncode == 0, err
    return json.loads(out)


def on_machine(variables, *arguments):
    return printed(start_on_machine(variables, *arguments))


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """Every architecture, exported on this machine as it is and on the others, side by side: repositories and content ids."""
    checkpoints = tmp_path_factory.mktemp("checkpoints")
    machines.save_checkpoints(checkpoints)
    started = {
        name: (folder := tmp_path_factory.mktemp("repository"), start_on_machine(variables, "export", checkpoints, folder))
        for name, variables in {"this one": {}, **MACHINES}.items()
    }
    return {name: (folder, printed(process)) for name, (folder, process) in started.items()}


@pytest.fixture
def exported(exports):
    """This machine's: the repository, and the content ids."""
    return exports["this one"]


@pytest.mark.parametrize("machine", MACHINES)
def test_golden_cases_hold_on_other_machines(exported, machine):
    """On another machine every engine gives every architecture's recorded answers within the promise."""
    repository, _ = exported

    replayed = on_machine(MACHINES[machine], "replay", repository)

    assert set(replayed) == set(machines.MODELS)
    assert all(set(engines) == {"onnx", "torchscript"} for engines in replayed.values())
    assert {
        (name, engine): found for name, engines in replayed.items() for engine, found in engines.items() if not found[1]
    } == {}


@pytest.mark.parametrize("machine", MACHINES)
def test_content_ids_are_the_same_on_other_machines(exports, machine):
    """On another machine every architecture's export has the same content id, byte for byte of model.onnx and model.pt."""
    _, ids = exports["this one"]

    assert exports[machine][1] == ids


def test_check_says_what_is_emulated(exported):
    """`check --replay` on such a machine: the numbers hold, and beside them stands what makes it another, worst first."""
    repository, _ = exported
    variables = {**MACHINES["no vector extensions"], "OMP_NUM_THREADS": "2"}
    env = {**os.environ, **variables, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "stateserve.py"), "check", str(repository / "digits_cnn" / "1"), "--replay", "--json"]
    finished = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=120)
    told = json.loads(finished.stdout)

    assert finished.returncode == 0, finished.stderr
    assert all(entry["worst_scaled"] <= entry["tolerance"] for entry in told["replay"].values())
    assert {one["fact"]: one["here"] for one in told["differences"]} == {
        **({"torch.cpu_capability": "DEFAULT"} if torch.backends.cpu.get_cpu_capability() != "DEFAULT" else {}),
        "torch.get_num_threads": "2",
        **variables,
    }
    assert [one["severity"] for one in told["differences"]] == sorted(one["severity"] for one in told["differences"])
    assert not any("onnx" in one["concerns"] for one in told["differences"])  # ONNX Runtime follows none of them


def test_the_emulation_is_real(exported):
    """The variables do change the numbers: eager PyTorch's kernels give other bits, so the tests above compare something."""
    repository, _ = exported

    here = on_machine({}, "replay", repository)
    there = on_machine(MACHINES["no vector extensions"], "replay", repository)

    assert any(here[name]["torchscript"][0] != there[name]["torchscript"][0] for name in machines.MODELS)
