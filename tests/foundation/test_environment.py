"""The machine's facts say what the numbers depend on, and nothing about who ran it where."""

import getpass
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from foundation import environment as facts

PROJECT = Path(__file__).parents[2]


def test_what_is_recorded():
    """Python, system, processor, cores, versions, and the variables that choose kernels."""
    found = facts.environment()

    first = ["python", "system", "os", "cpu", "cpu_id", "isa", "cores", "packages", "installed_sha256", "variables"]
    assert list(found)[:12] == [*first, "gpus", "gpu_driver"]
    assert set(found) - set(list(found)[:12]) <= {"torch", "threads", "seeds", "onnxruntime", "numpy"}
    assert found["cores"] >= 1
    assert found["packages"]["numpy"] == __import__("numpy").__version__
    json.dumps(found)


def test_no_path_no_host_no_user(monkeypatch):
    """No absolute path, host name or user name is in it, whatever the environment's other variables say."""
    monkeypatch.setenv("SECRET_TOKEN", "s3cr3t")
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.setenv("GLIBC_TUNABLES", str(Path.home()))
    found = facts.whole_environment(PROJECT, None)
    text = json.dumps(found)

    assert found["variables"]["OMP_NUM_THREADS"] == "2"
    assert not re.search(r'(?:"|\s)/\w', text)
    assert str(Path.home()) not in text
    for name in {socket.gethostname(), getpass.getuser(), "s3cr3t"}:
        assert not re.search(rf"\b{re.escape(name)}\b", text), name


def test_what_a_speed_depends_on():
    """Processor, instruction sets, cores and engines' versions; GPUs where they are asked for."""
    found = facts.speed_identity()

    assert list(found) == ["cpu", "isa", "cores", "packages"]
    assert found["packages"]["onnxruntime"] == __import__("onnxruntime").__version__
    assert "numpy" not in found["packages"]
    assert isinstance(facts.speed_identity(gpus=True)["gpus"], list)


def test_what_is_written_beside_an_artifact():
    """The same record, with every package, what pins them, and the state of the code as it is given."""
    found = facts.whole_environment(PROJECT, {"commit": "a" * 40, "dirty": False})

    assert found["installed"]["numpy"] == found["packages"]["numpy"]
    assert "constraints.txt" in found["lock_files"]
    assert found["git"] == {"commit": "a" * 40, "dirty": False}
    assert found.keys() == {*facts.environment(), "installed", "lock_files", "git"}


def test_the_gpus_driver(monkeypatch, tmp_path):
    """Its version, as it tells it itself; None where there is none."""
    page = tmp_path / "version"
    real = Path
    monkeypatch.setattr(facts, "Path", lambda where: page if where == "/proc/driver/nvidia/version" else real(where))

    assert facts.environment()["gpu_driver"] is None
    page.write_text("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.133.20  Release Build\nGCC version:  gcc 12\n")
    assert facts.environment()["gpu_driver"] == "570.133.20"


def test_an_arm_processor(monkeypatch):
    """It has no name: implementer, variant and part of each kind of core stand for it; its instruction sets are `Features`."""
    core = "Features\t: fp asimd sve bf16 crc32\nCPU implementer\t: 0x41\nCPU variant\t: 0x1\nCPU part\t: 0xd4{0}\n"
    monkeypatch.setattr(facts, "_cpuinfo", lambda: "\n".join(core.format(number) for number in (1, 0)))
    found = facts.speed_identity()

    assert found["cpu"] == "ARM implementer 0x41 variant 0x1 part 0xd40, implementer 0x41 variant 0x1 part 0xd41"
    assert found["isa"] == ["asimd", "bf16", "sve"]
    assert facts.environment()["cpu_id"] is None


def test_the_names_of_gpus(monkeypatch, tmp_path):
    """They are the driver's own, whatever their order."""
    for bus, name in (("1", "NVIDIA H200"), ("0", "NVIDIA L4")):
        (tmp_path / bus).mkdir()
        (tmp_path / bus / "information").write_text(f"Model: \t\t {name}\nIRQ:   \t\t 9\n")
    real = Path
    monkeypatch.setattr(facts, "Path", lambda where: tmp_path if where == "/proc/driver/nvidia/gpus" else real(where))

    assert facts.speed_identity(gpus=True)["gpus"] == ["NVIDIA H200", "NVIDIA L4"]


def test_cores_are_those_of_the_affinity():
    """A process that is bound to one core says one."""
    code = (
        "import os; from foundation.environment import cores\n"
        "before = cores(); os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); print(before, cores())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(PROJECT)}, capture_output=True, text=True, timeout=30, check=True,
    )  # fmt: skip
    before, after = map(int, done.stdout.split())

    assert before == facts.cores()
    assert after == 1


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"/sys/fs/cgroup/cpu.max": "250000 100000\n"}, 2),
        ({"/sys/fs/cgroup/cpu.max": "50000 100000\n"}, 1),
        ({"/sys/fs/cgroup/cpu.max": "max 100000\n"}, 8),
        ({"/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "300000\n", "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"}, 3),
        ({"/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n", "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"}, 8),
        ({"/sys/fs/cgroup/cpu.max": ""}, 8),
        ({}, 8),
    ],
)
def test_the_cgroups_quota(monkeypatch, files, expected):
    """A container's quota counts, rounded down but never to none; without one the affinity holds."""

    def read_text(path, *_, **__):
        if str(path) not in files:
            raise FileNotFoundError(str(path))
        return files[str(path)]

    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(Path, "read_text", read_text)

    assert facts.cores() == expected
