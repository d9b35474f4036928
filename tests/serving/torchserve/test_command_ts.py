"""`stateserve-ts` has TorchServe's flags, files and messages; the ones compared here were those of `torchserve` 0.12."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from bench.processes import server_environment
from serving.torchserve import pid_file
from serving.torchserve.__main__ import main

PROJECT = Path(__file__).parents[3]
DEADLINE_S = 60


@pytest.fixture
def folder(tmp_path):
    """The current directory of the command, with a model store and a place for its pid file."""
    (tmp_path / "store").mkdir()
    (tmp_path / "tmp").mkdir()
    return tmp_path


@pytest.fixture
def run(folder):
    """A function that runs the command there, and waits for its end."""
    variables = {name: value for name, value in server_environment().items() if not name.startswith(("TS_", "TEMP"))}

    def run(*flags, code=0, **more):
        done = subprocess.run(
            [sys.executable, "-m", "serving.torchserve", *flags],
            cwd=folder,
            env={**variables, "TMPDIR": str(folder / "tmp"), **more},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )
        assert done.returncode == code, done.stdout
        return done.stdout

    yield run
    for named in pid_files(folder):
        if (found := pid_file.read(named)) is not None and pid_file.is_alive(*found):
            os.kill(found[0], signal.SIGKILL)


@pytest.fixture
def config(folder):
    """A config.properties with one address for everything, and that address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
    lines = (f"{name}_address={url}" for name in ("inference", "management", "metrics"))
    (folder / "ts.properties").write_text(
        "\n".join([*lines, "model_store=store", "disable_system_metrics=true", "disable_token_authorization=true", ""])
    )
    return url


def named_in(folder):
    """The process that the pid file names, and when it began."""
    [path] = pid_files(folder)
    found = pid_file.read(path)
    assert found is not None
    return found


def pid_files(folder):
    return list((folder / "tmp").glob(".stateserve_ts.*.pid"))


def test_a_server_in_the_background(run, folder, config):
    """--start returns when the server answers; a second start is refused; --stop returns when it has ended."""
    start = ("--start", "--ncs", "--ts-config", "ts.properties", "--models", "all")

    assert run(*start) == "Model server started.\n"
    assert httpx.get(f"{config}/ping", trust_env=False).status_code in {200, 500}
    assert run(*start, code=1) == "TorchServe is already running, please use stateserve-ts --stop to stop TorchServe.\n"
    assert "listening on" in (folder / "logs" / "ts_log.log").read_text()
    found = named_in(folder)
    assert run("--stop") == "TorchServe has stopped.\n"
    assert not pid_file.is_alive(*found)
    assert pid_files(folder) == []
    assert run("--stop") == "TorchServe is not currently running.\n"


@pytest.mark.usefixtures("config")
def test_a_server_that_was_killed(run, folder):
    """What a killed server left is recognised: its file is taken away, and another can start."""
    start = ("--start", "--ncs", "--ts-config", "ts.properties")
    run(*start)
    os.kill(named_in(folder)[0], signal.SIGKILL)

    assert run(*start) == "Removing orphan pid file.\nModel server started.\n"
    assert run("--stop") == "TorchServe has stopped.\n"


def test_another_process_of_that_number(run, folder):
    """A file that names a living process, which is not the one that wrote it, stops nobody."""
    (folder / "tmp" / pid_file.default_path().name).write_text(f"{os.getpid()}\n12345\n")

    assert run("--stop") == "Removing orphan pid file.\nTorchServe is not currently running.\n"


def test_a_server_that_does_not_start(run, folder, config):
    """Where the address is taken, the command says so, names the log, and ends with the server's code; nothing stays."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", int(config.rpartition(":")[2])))
        other.listen()
        said = run("--start", "--ncs", "--ts-config", "ts.properties", code=1)

    assert "cannot be listened on: Address already in use" in said
    assert said.endswith("The model server did not start; see logs/ts_log.log\n")
    assert "Model server started." not in said
    assert pid_files(folder) == []


def test_in_the_foreground(folder, config):
    """--foreground serves in this process, says that it started on stdout, and ends at SIGTERM with code 0."""
    process = subprocess.Popen(
        [sys.executable, "-m", "serving.torchserve", "--start", "--foreground", "--ncs", "--ts-config", "ts.properties"],
        cwd=folder,
        env={**server_environment(), "TMPDIR": str(folder / "tmp")},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "Model server started.\n"
        assert httpx.get(f"{config}/v2/health/live", trust_env=False).json() == {"live": True}
        assert named_in(folder)[0] == process.pid
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_S) == 0
    finally:
        process.kill()
        process.communicate()
    assert pid_files(folder) == []


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--start"], "Missing mandatory parameter --model-store"),
        (["--start", "--model-store", "nope"], "--model-store directory not found: nope"),
        (["--start", "--ts-config", "nope"], "--ts-config file not found: nope"),
        (["--start", "--model-store", "store", "--workflow-store", "nope"], "--workflow-store directory not found: nope"),
        (["--start", "--model-store", "store", "--log-config", "nope"], "--log-config file not found: {here}/nope"),
        (["--start", "--model-store", "store", "--cpp-log-config", "nope"], "--cpp-log-config file not found: {here}/nope"),
    ],
)
def test_what_is_missing(run, folder, flags, message):
    """What a flag names and is not there ends the command with code 1 and TorchServe's words."""
    assert run(*flags, code=1) == message.format(here=folder.resolve()) + "\n"


def test_a_temporary_folder_that_is_not_there(run):
    """So does TEMP."""
    assert run("--start", "--model-store", "store", code=1, TEMP="/nope") == (
        "Invalid temp directory: /nope, please check TEMP environment variable.\n"
    )


def test_start_and_stop(run):
    """--start and --stop do not go together."""
    assert "error: argument --stop: not allowed with argument --start" in run("--start", "--stop", code=2)


def test_version(run):
    """--version says which TorchServe's ways these are."""
    assert run("--version").startswith("TorchServe Version is 0.12.0\nStateserve ")


class _Started(Exception):
    """What would be served."""


@pytest.fixture
def would_serve(monkeypatch, folder):
    """A function that gives the settings which a command line would serve with."""
    monkeypatch.chdir(folder)
    for name in [name for name in os.environ if name.startswith(("STATESERVE_", "TS_", "LOG_", "TEMP"))]:
        monkeypatch.delenv(name)

    def serve(read, *_):
        raise _Started(read)

    monkeypatch.setattr("serving.torchserve.__main__._serve", serve)
    monkeypatch.setattr("serving.torchserve.pid_file.default_path", lambda: folder / "tmp" / "pid")

    def settings(*flags):
        with pytest.raises(_Started) as started:
            main(["--start", "--foreground", *flags])
        return started.value.args[0]

    return settings


def test_flags_are_settings(would_serve):
    """The flags set TorchServe's keys; without them, tokens are asked for, and snapshots are written."""
    plain = would_serve("--model-store", "store").settings
    said = would_serve("--model-store", "store", "--models", "a.mar", "b=c.mar", "--ncs", "--dt", "--enable-model-api").settings

    assert (plain.load_models, plain.config_snapshots, plain.enable_model_api, plain.log_format) == ((), True, False, "text")
    assert plain.disable_token_authorization is None
    assert (said.load_models, said.config_snapshots, said.enable_model_api) == (("a.mar", "b=c.mar"), False, True)
    assert said.disable_token_authorization is True


def test_flags_without_effect_are_told(would_serve, folder, capsys):
    """Flags that mean nothing without Java are accepted, and said to have no effect."""
    (folder / "log4j.xml").write_text("")
    would_serve("--model-store", "store", "--workflow-store", "store", "--log-config", "log4j.xml", "--ppath", "x")

    assert capsys.readouterr().err == (
        "Warning: --workflow-store has no effect here\n"
        "Warning: --log-config has no effect here\n"
        "Warning: --plugins-path has no effect here\n"
    )


def test_which_file_holds(would_serve, folder, monkeypatch):
    """TS_CONFIG_FILE stands before --ts-config, that before the last snapshot, and that before ./config.properties."""
    snapshots = folder / "logs" / "config"
    snapshots.mkdir(parents=True)
    for name, port in (
        ("config.properties", 1000),
        ("logs/config/20250101000000000-startup.cfg", 2000),
        ("logs/config/20250101000000001-shutdown.cfg", 3000),
        ("flag.properties", 4000),
        ("variable.properties", 5000),
    ):
        (folder / name).write_text(f"port={port}\nmodel_store=store\n")

    assert would_serve().settings.port == 3000
    assert would_serve("--ncs").settings.port == 1000
    assert would_serve("--ts-config", "flag.properties").settings.port == 4000
    monkeypatch.setenv("LOG_LOCATION", str(folder / "elsewhere"))
    assert would_serve().settings.port == 1000
    monkeypatch.setenv("TS_CONFIG_FILE", "variable.properties")
    assert would_serve("--ts-config", "flag.properties").settings.port == 5000


def test_a_pid_file_of_somebody_else(tmp_path):
    """A link in place of the file is neither followed nor written through."""
    target = tmp_path / "target"
    target.write_text("kept")
    (tmp_path / "pid").symlink_to(target)

    assert pid_file.read(tmp_path / "pid") is None
    with pytest.raises(FileExistsError):
        pid_file.write(tmp_path / "pid", os.getpid())
    assert target.read_text() == "kept"


def test_who_is_alive():
    """A process is known by its number and its beginning; one that has ended is not alive, waited for or not."""
    sleeping = subprocess.Popen(["sleep", "60"])
    began = pid_file._began(sleeping.pid)
    assert pid_file.is_alive(sleeping.pid, began)
    assert not pid_file.is_alive(sleeping.pid, "1")
    sleeping.kill()
    deadline = time.monotonic() + DEADLINE_S
    while pid_file.is_alive(sleeping.pid, began):
        assert time.monotonic() < deadline
    sleeping.wait()
    assert not pid_file.is_alive(sleeping.pid, began)


@pytest.mark.skipif(shutil.which("stateserve-ts", path=str(Path(sys.executable).parent)) is None, reason="not installed")
def test_the_console_script():
    """The command is installed under its name."""
    program = Path(sys.executable).parent / "stateserve-ts"

    done = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=DEADLINE_S, check=True)
    assert done.stdout.startswith("TorchServe Version is ")
