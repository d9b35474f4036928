"""A model's own requirements, installed from a folder: no network is needed."""

import asyncio
import json
import logging
import os

import pytest

from serving.torchserve.errors import ModelException, ServiceUnavailableException
from serving.torchserve.workers.workers import Parameters, Workers

PROJECT = {
    "pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n',
    "backend.py": """
import zipfile

NAME = "told_package-1.0"
WHEEL = "Wheel-Version: 1.0\\nGenerator: x\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"


def build_wheel(folder, settings=None, metadata=None):
    wheel = f"{NAME}-py3-none-any.whl"
    with zipfile.ZipFile(f"{folder}/{wheel}", "w") as file:
        file.writestr("told_package/__init__.py", "VALUE = 42\\n")
        file.writestr(f"{NAME}.dist-info/METADATA", "Metadata-Version: 2.1\\nName: told_package\\nVersion: 1.0\\n")
        file.writestr(f"{NAME}.dist-info/WHEEL", WHEEL)
        file.writestr(f"{NAME}.dist-info/RECORD", "")
    return wheel
""",
}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A package's source, which needs nothing to be built."""
    folder = tmp_path_factory.mktemp("project")
    for name, text in PROJECT.items():
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def host(real_host, heard):
    made = real_host(heard, install_requirements=True)
    yield made
    made.close()


@pytest.fixture
def asked(loop, host, job):
    """A function that starts a worker of an archive, and gives what its handler says."""

    def ask(mar, **parameters):
        async def whole():
            workers = Workers(mar, mar.name, Parameters(**parameters), host)
            try:
                await workers.scale(1, 1)
                return json.loads((await workers.predict(job())).body)
            finally:
                await workers.close()

        return loop.run(asyncio.wait_for(whole(), 60))

    return ask


@pytest.mark.parametrize("use_venv", [False, True])
def test_requirements_are_installed_for_their_model(make_mar, project, asked, use_venv):
    """A package goes into the archive's own folder, or into an environment of its own there, which sees torch, too."""
    mar = make_mar("m", "needs_package.py", {"needs.txt": str(project).encode()}, requirementsFile="needs.txt")
    found = asked(mar, use_venv=use_venv)
    assert found["value"] == 42
    where = mar.directory / "venv" if use_venv else mar.directory
    assert found["file"].startswith(str(where))
    assert found["python"].startswith(str(where)) == use_venv


def test_requirements_that_cannot_be_installed(make_mar, asked, tmp_path, caplog):
    """TorchServe's message; the log has what pip printed."""
    caplog.set_level(logging.ERROR, "stateserve.model")
    needs = f"{tmp_path}/is-not-there"
    mar = make_mar("bad", "needs_package.py", {"needs.txt": needs.encode()}, requirementsFile="needs.txt")
    with pytest.raises(ModelException) as error:
        asked(mar)
    assert (str(error.value), error.value.status) == ("Custom pip package installation failed for model bad", 400)
    (told,) = caplog.records
    assert told.getMessage().startswith("Custom pip package installation failed for model bad: it ended with code 1: ")
    assert needs in told.getMessage()


def test_installation_that_dies_in_silence(make_mar, asked, host, tmp_path):
    """One that fails without a word has failed, too."""
    host.python = tmp_path / "python"
    host.python.write_text("#!/bin/sh\nkill -9 $$\n")
    host.python.chmod(0o755)
    with pytest.raises(ModelException):
        asked(make_mar("m", "needs_package.py", {"needs.txt": b"x"}, requirementsFile="needs.txt"))


def test_requirements_are_left_where_that_is_not_allowed(make_mar, loop, host, project):
    """Without install_py_dep_per_model nothing is installed."""
    mar = make_mar("m", "needs_package.py", {"needs.txt": str(project).encode()}, requirementsFile="needs.txt")
    host.install_requirements = False

    async def prepare():
        await Workers(mar, "m", Parameters(use_venv=True), host).prepare()

    loop.run(prepare())
    assert not (mar.directory / "told_package").exists()
    assert not (mar.directory / "venv").exists()


@pytest.fixture
def endless(make_mar, tmp_path):
    """An archive whose requirements are built for ever, by a process of pip's, and the file where that one's id is."""
    pid = tmp_path / "pid"
    (tmp_path / "pyproject.toml").write_text(PROJECT["pyproject.toml"])
    (tmp_path / "backend.py").write_text(
        f"import os, pathlib, time\npathlib.Path({str(pid)!r} + '-').write_text(str(os.getpid()))\n"
        f"os.rename({str(pid)!r} + '-', {str(pid)!r})\ntime.sleep(600)\n"
    )
    return make_mar("endless", "needs_package.py", {"needs.txt": str(tmp_path).encode()}, requirementsFile="needs.txt"), pid


def is_running(pid):
    """Whether there is such a process, and no mere record of one that ended."""
    try:
        os.kill(pid, 0)
        with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def test_close_ends_the_installation(loop, host, endless, until):
    """Who ends does not wait for pip: it is cut off with all that it has started."""
    mar, pid = endless

    async def close_early():
        workers = Workers(mar, "endless", Parameters(), host)
        preparing = asyncio.ensure_future(workers.prepare())
        await until(pid.exists)
        await workers.close()
        with pytest.raises(ServiceUnavailableException, match=r"^The server is about to end\.$"):
            await preparing
        await until(lambda: not is_running(int(pid.read_text())))

    loop.run(asyncio.wait_for(close_early(), 60))


def test_installation_that_takes_too_long(loop, host, endless, until, monkeypatch, caplog):  # noqa: PLR0917
    """An installation has an end: TorchServe's message, and the reason in the log."""
    mar, pid = endless
    monkeypatch.setattr("serving.torchserve.workers.requirements._MOST_S", 5)

    async def prepare():
        with pytest.raises(ModelException, match=r"^Custom pip package installation failed for model endless$"):
            await Workers(mar, "endless", Parameters(), host).prepare()
        await until(lambda: not is_running(int(pid.read_text())))

    loop.run(asyncio.wait_for(prepare(), 60))
    assert "Custom pip package installation failed for model endless: it took longer than 5 s: " in caplog.text
