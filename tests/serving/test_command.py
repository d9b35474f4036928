"""`python -m serving` and `stateserve serve`: the same command, made from the settings, quick to say what it can do."""

import subprocess
import sys
from pathlib import Path

import pytest

from bench.processes import free_port, server_environment
from serving.settings import Settings, flag_name

PROJECT = Path(__file__).parents[2]
COMMANDS = (["-m", "serving"], [str(PROJECT / "stateserve.py"), "serve"])
HEAVY = {"fastapi", "granian", "numpy", "onnxruntime", "orjson", "torch", "uvloop"}


@pytest.fixture
def run(tmp_path):
    """A function that runs Python in an empty directory, and waits for its end."""

    def run(*arguments, **variables):
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=tmp_path,
            env={**server_environment(), "COLUMNS": "160", **variables},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


@pytest.mark.parametrize("command", COMMANDS)
def test_help_names_every_setting(run, command):
    """--help has a flag for every setting, with its default."""
    done = run(*command, "--help")

    assert (done.returncode, done.stderr) == (0, "")
    assert [flag for flag in map(flag_name, Settings.model_fields) if f" {flag}" not in done.stdout] == []
    assert "--no-access-log" in done.stdout
    assert " 64MiB. " in done.stdout


def test_help_imports_nothing_heavy(run):
    """What --help and --print-settings need is there without the server's libraries."""
    code = f"import sys, serving.__main__, serving.read_settings; print(sorted({HEAVY} & set(sys.modules)))"

    assert run("-c", code).stdout == "[]\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_print_settings(run, tmp_path, command):
    """--print-settings writes what holds to stdout, from flags, variables and the file, and serves nothing."""
    (tmp_path / "config.properties").write_text("host=::1\nio_ratio=70\n")
    done = run(*command, "--print-settings", "--port", "9000", "--access-log", "--no-required", STATESERVE_THREADS="2")

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(
        "# config.properties:1\nhost=::1\n# STATESERVE_THREADS\nthreads=2\n"
        "# --port\nport=9000\n# --no-required\nrequired=false\n# --access-log\naccess_log=true\n"
    )
    assert "\n# TorchServe's keys, without effect here: io_ratio\n# defaults\nengine=auto\n" in done.stdout


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--config", "nowhere.properties"],
            "nowhere.properties cannot be read: [Errno 2] No such file or directory: 'nowhere.properties'",
        ),
        (["--port", "0"], "wrong setting: port is '0' (--port): Input should be greater than or equal to 1"),
        (
            ["--print-settings", "--engine", "tf"],
            "wrong setting: engine is 'tf' (--engine): Input should be 'auto', 'onnx', 'torchscript' or 'pt2'",
        ),
    ],
)
def test_a_wrong_setting_ends_the_command(run, flags, message):
    """A wrong setting ends the command with code 2 before anything is loaded, and without a traceback."""
    done = run("-m", "serving", *flags)

    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"error: {message}\n")


@pytest.mark.parametrize("command", COMMANDS)
def test_models_as_torchserve_takes_them(run, command):
    """--models takes every word up to the next flag, and may be said again."""
    flags = ("--models", "a.mar", "b=c.mar", "--port", "9000", "--models", "d.mar", "--enable-model-api")
    done = run(*command, "--print-settings", *flags)

    assert (done.returncode, done.stderr) == (0, "")
    assert "# --models\nload_models=a.mar,b=c.mar,d.mar\n" in done.stdout
    assert "# --port\nport=9000\n" in done.stdout
    assert "# --enable-model-api\nenable_model_api=true\n" in done.stdout


def test_torchserve_s_keys_are_told_once(run, tmp_path):
    """TorchServe's keys without effect are told in one line of the log, with the reason, before the error that ends it all."""
    (tmp_path / "config.properties").write_text("io_ratio=70\ngrpc_inference_port=7070\nvmargs=-Xmx1g\nlog_format=text\n")
    done = run("-m", "serving", "--repository", "nowhere", "--port", str(free_port()))
    line, *others, error = done.stderr.splitlines()

    assert line.endswith(
        " WARNING  stateserve: TorchServe's keys in the settings' file have no effect here: "
        "io_ratio, vmargs (there is no Java here); grpc_inference_port (this server does not speak gRPC)"
    )
    assert not [other for other in others if "io_ratio" in other]
    assert (done.returncode, error) == (
        2,
        "error: the model repository nowhere is not a directory; export there first, or say another --repository",
    )


def test_a_missing_model_store(run, tmp_path):
    """A file's model store that is not there is a warning; without a repository either, the server does not start."""
    (tmp_path / "nowhere.properties").write_text("model_store=nowhere\n")
    done = run("-m", "serving", "--config", "nowhere.properties", "--port", str(free_port()), "--log-format", "text")

    assert " WARNING  stateserve: the model store nowhere is not a directory: no .mar file is served\n" in done.stderr
    assert done.stderr.endswith(
        "error: the model repository model_repository is not a directory; export there first, or say another --repository\n"
    )
    assert done.returncode == 2
