"""What is carried to a machine without a network, and the environment that is made of it there."""

import importlib.metadata
import os
import subprocess
import sys
import zipfile

import pytest
from packaging.requirements import Requirement

from bench.gpu import bootstrap, cuda, needs, wheels

NO_GPU = "there is no NVIDIA driver (libnone.so.1 is not found)"


def write_wheel(folder, name, content):
    """A wheel with one module."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}-1.0-py3-none-any.whl"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
    members = {f"{name}.py": content, f"{name}-1.0.dist-info/METADATA": metadata}
    members[f"{name}-1.0.dist-info/WHEEL"] = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    members[f"{name}-1.0.dist-info/RECORD"] = "".join(f"{member},,\n" for member in members)
    with zipfile.ZipFile(path, "w") as file:
        for member, text in members.items():
            file.writestr(member, text)
    return path


def required(names):
    """All that these packages need, by what is installed here."""
    found, left = set(), list(names)
    while left:
        name = left.pop().lower().replace("_", "-")
        if name in found or name in needs.HEAVY:
            continue
        found.add(name)
        asked = map(Requirement, importlib.metadata.requires(name) or ())
        left += [one.name for one in asked if one.marker is None or one.marker.evaluate({"extra": ""})]
    return found


def test_everything_that_the_server_needs_is_carried():
    """And what is carried needs nothing that is not, beside what has to be there."""
    own = [Requirement(text) for text in importlib.metadata.requires("stateserve") or ()]
    core = [one.name for one in own if one.marker is None or one.marker.evaluate({"extra": ""})]

    assert required([*core, *needs.PACKAGES]) == set(needs.PACKAGES)


def test_every_package_is_pinned_and_found():
    """Its version is that of constraints.txt, and its module's name is right."""
    assert needs.missing(needs.PACKAGES) == []
    assert all(stated.lower().replace("_", "-").startswith(f"{package}==") for package, stated in needs.pinned().items())
    assert needs.onnxruntime_gpu().startswith("onnxruntime-gpu==")
    assert needs.missing({"no-such-package": "no_such_module"}) == ["no-such-package"]


def test_without_a_gpu_one_line_is_said(capsys, tmp_path, monkeypatch):
    """Before anything is looked for, or installed; --require makes it a failure."""
    monkeypatch.setattr(cuda, "_LIBRARY", "libnone.so.1")
    monkeypatch.chdir(tmp_path)

    assert bootstrap.main(["--wheels", "none", "--", "--to", "gpu.md"]) == 0
    assert bootstrap.main(["--wheels", "none", "--", "--require"]) == 1
    assert capsys.readouterr().out == f"make gpu: skipped, nothing was measured: {NO_GPU}\n" * 2
    assert list(tmp_path.iterdir()) == []


def test_a_driver_without_a_gpu_is_told(monkeypatch):
    """The error that it gives stands in the line; here a driver that is made up gives it."""

    class Driver:
        def __init__(self, error, count):
            self._error, self._count = error, count

        def cuInit(self, _flags):  # noqa: N802 - the driver's name
            return self._error

        def cuDeviceGetCount(self, count):  # noqa: N802 - the driver's name
            count._obj.value = self._count
            return 0

    for driver, why in (
        (Driver(100, 0), "NVIDIA's driver finds no GPU (error 100 of the CUDA driver)"),
        (Driver(0, 0), "NVIDIA's driver finds no GPU"),
        (Driver(0, 1), None),
    ):
        monkeypatch.setattr(cuda.ctypes, "CDLL", lambda _name, driver=driver: driver)
        assert cuda.why_none() == why


@pytest.mark.parametrize(
    ("lacking", "words"),
    [
        ("HEAVY", "lacks torch: say which Python has them, make PYTHON=… gpu"),
        ("PACKAGES", "lacks granian, and none holds no wheels: fill it with `make gpu-wheels` where there is a network"),
    ],
)
def test_what_is_missing_is_named(lacking, words, monkeypatch, capsys):
    """With what to do: nothing is measured without it."""
    monkeypatch.setattr(needs, "HEAVY", {"torch": "no_such_module"} if lacking == "HEAVY" else {})
    monkeypatch.setattr(needs, "PACKAGES", {"granian": "no_such_module"})

    assert bootstrap.main(["--wheels", "none", "--", "--device", "cpu"]) == 2
    assert words in capsys.readouterr().out


def test_an_environment_has_the_wheels_and_all_that_this_python_has(tmp_path):
    """Carried packages come before this Python's own, others are found as ever; made once, and anew for other wheels."""
    found = [
        write_wheel(tmp_path / "wheels", "carried_module", "VALUE = 1\n"),
        write_wheel(tmp_path / "wheels", "orjson", "V = 2\n"),
    ]
    code = "import carried_module, orjson, numpy, sys; print(carried_module.VALUE, orjson.V, numpy.__version__)"
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    python = bootstrap.environment(found, tmp_path / "venv")
    said = subprocess.run([python, "-c", code], capture_output=True, text=True, env=clean, check=True).stdout

    assert said == f"1 2 {importlib.metadata.version('numpy')}\n"
    marker = python.parent / "kept"
    marker.touch()
    assert bootstrap.environment(found, tmp_path / "venv") == python
    assert marker.exists()
    bootstrap.environment(found[:1], tmp_path / "venv")
    assert not marker.exists()


def test_a_wheel_is_cut_and_made_whole_again(tmp_path):
    """The parts are in the order of their names."""
    wheel = write_wheel(tmp_path, "large", "VALUE = 1\n" * 100)
    whole = wheel.read_bytes()

    parts = wheels.cut(wheel, 300)

    assert not wheel.exists()
    assert len(parts) > 2
    assert b"".join(part.read_bytes() for part in sorted(tmp_path.glob("large-*.part-*"))) == whole


def test_the_bootstrap_needs_nothing_but_the_standard_library():
    """It runs before anything is installed, as does what downloads."""
    code = "import bench.gpu.bootstrap, bench.gpu.wheels, sys; print(sorted({one.partition('.')[0] for one in sys.modules}))"

    command = [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, '.'); {code}"]

    assert b"numpy" not in subprocess.run(command, capture_output=True, check=True).stdout
