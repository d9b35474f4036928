"""Settings come from flags, then variables, then config.properties, then the defaults; what is wrong is named with its line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from serving.errors import SettingsError
from serving.settings import Settings, read_properties, read_settings

PROJECT = Path(__file__).parents[2]
KNOWN = "repository, host, port, threads, max_body_bytes, drain_timeout_s"


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    """An empty current directory, and no variables of this machine."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("STATESERVE_")]:
        monkeypatch.delenv(name)


def write(text, name="config.properties"):
    Path(name).write_text(text)
    return Path(name)


def test_defaults():
    """Without anything said, the defaults hold."""
    assert read_settings({}, None).model_dump() == {
        "repository": Path("model_repository"),
        "host": "127.0.0.1",
        "port": 8080,
        "threads": None,
        "max_body_bytes": 67108864,
        "drain_timeout_s": 30.0,
    }


def test_precedence(monkeypatch):
    """A flag comes before a variable, a variable before the file, the file before the default."""
    write("port=1001\nthreads=1\nhost=::1\n")
    monkeypatch.setenv("STATESERVE_PORT", "1002")
    monkeypatch.setenv("STATESERVE_THREADS", "2")
    settings = read_settings({"port": 1003, "host": None}, None)

    assert (settings.port, settings.threads, settings.host, settings.drain_timeout_s) == (1003, 2, "::1", 30)


def test_a_named_file_replaces_the_one_that_is_there():
    """With --config, ./config.properties is not read."""
    write("port=1001\n")
    other = write("host=::1\n", "other.properties")

    assert read_settings({}, other).port == 8080


@pytest.mark.parametrize("separator", ["=", " = ", "=  ", "\t=\t"])
def test_the_format(separator):
    """`key=value` with or without spaces, comments with # and !, and empty lines: TorchServe's own."""
    path = write(f"# a comment\n! another\n\n  port{separator}1001  \nrepository=models=old\n")

    assert read_properties(path) == {"port": ("1001", 4), "repository": ("models=old", 5)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("host=::1\nprot=1\n", "config.properties:2: unknown key prot; nearest: port"),
        ("\n\nzzzzzzz=1\n", f"config.properties:3: unknown key zzzzzzz; known: {KNOWN}"),
        ("port=1\n# x\nport=2\n", "config.properties:3: port stands twice, first on line 1"),
        ("port 8080\n", "config.properties:1: 'port 8080' is not key=value"),
        ("port=many\n", "wrong setting: port is 'many': Input should be a valid integer, unable to parse string as an integer"),
        ("port=0\n", "wrong setting: port is '0': Input should be greater than or equal to 1"),
        ("port=65536\n", "wrong setting: port is '65536': Input should be less than or equal to 65535"),
        ("threads=0\n", "wrong setting: threads is '0': Input should be greater than or equal to 1"),
        ("max_body_bytes=0\n", "wrong setting: max_body_bytes is '0': Input should be greater than or equal to 1"),
        ("drain_timeout_s=-1\n", "wrong setting: drain_timeout_s is '-1': Input should be greater than or equal to 0"),
        (
            "port=0\nthreads=x\n",
            (
                "wrong setting: port is '0': Input should be greater than or equal to 1; "
                "threads is 'x': Input should be a valid integer, unable to parse string as an integer"
            ),
        ),
    ],
)
def test_wrong_files(text, message):
    """Every mistake in the file is named with its line, or its key and value."""
    write(text)

    with pytest.raises(SettingsError) as caught:
        read_settings({}, None)
    assert str(caught.value) == message


def test_an_endless_drain_is_refused():
    """A time that is no number of seconds is refused."""
    for value in ("nan", "inf"):
        with pytest.raises(SettingsError, match=rf"^wrong setting: drain_timeout_s is '{value}': "):
            read_settings({"drain_timeout_s": value}, None)


def test_an_unknown_variable(monkeypatch):
    """A variable with our prefix and an unknown name is a mistake too."""
    monkeypatch.setenv("STATESERVE_PROT", "1")

    with pytest.raises(SettingsError, match=r"^unknown variable STATESERVE_PROT; nearest: port$"):
        read_settings({}, None)


def test_a_missing_file():
    """A file that was named and is not there is an error, not the defaults."""
    with pytest.raises(SettingsError, match=r"^nowhere\.properties cannot be read: .*No such file or directory"):
        read_settings({}, Path("nowhere.properties"))


def test_a_file_that_is_no_text():
    """Nor is one that is not UTF-8."""
    Path("config.properties").write_bytes(b"port=\xff\n")

    with pytest.raises(SettingsError, match=r"^config\.properties cannot be read: 'utf-8' codec can't decode"):
        read_settings({}, None)


def test_settings_do_not_change():
    """Settings are frozen once read."""
    with pytest.raises(ValueError, match="frozen"):
        Settings().port = 1  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--config", "nowhere.properties"],
            "nowhere.properties cannot be read: [Errno 2] No such file or directory: 'nowhere.properties'",
        ),
        (["--port", "0"], "wrong setting: port is 0: Input should be greater than or equal to 1"),
    ],
)
def test_the_command_ends_with_code_2(flags, message):
    """A wrong setting ends the command with code 2 before anything is loaded, and without a traceback."""
    done = subprocess.run(
        [sys.executable, "-m", "serving", *flags],
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"error: {message}\n")
