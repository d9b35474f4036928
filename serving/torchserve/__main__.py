"""The command `stateserve-ts`: TorchServe's flags, files and messages, and this server."""

import argparse
import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable
from importlib.metadata import version as installed
from pathlib import Path
from typing import NoReturn

from foundation.command import exit_codes
from serving.read_settings import ReadSettings, read_settings
from serving.torchserve import pid_file
from serving.torchserve.documents import TORCHSERVE_VERSION
from serving.torchserve.metrics.metric_logs import metrics_directory
from serving.torchserve.registry.snapshots import log_directory, newest_snapshot, snapshot_directory

DEFAULTS = {"config_snapshots": ("true", "stateserve-ts"), "log_format": ("text", "stateserve-ts")}
"""What this command has for a default where `stateserve serve` has another."""

_STARTED = b"started"
_LOOK_AGAIN_S = 0.05
_STOP_TIMEOUT_S = 60.0


def main(words: list[str] | None = None) -> None:
    """The console script."""
    flags = _parser().parse_args(words)
    if flags.version:
        print(f"TorchServe Version is {TORCHSERVE_VERSION}")
        print(f"Stateserve {installed('stateserve')} speaks its ways")
        return
    path = pid_file.default_path()
    pid = _running(path)
    if flags.stop:
        _stop(path, pid)
        return
    if pid is not None:
        _refuse("TorchServe is already running, please use stateserve-ts --stop to stop TorchServe.")
    with exit_codes(as_json=False):
        read = _settings(flags)
        if flags.foreground:
            _serve(read, path, _say_started)
        else:
            _start_in_background(read, path)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="stateserve-ts", description="TorchServe's command, with Stateserve behind it.")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("-v", "--version", action="store_true", help="say which versions these are")
    what.add_argument("--start", action="store_true", help="start the server; so does no flag")
    what.add_argument("--stop", action="store_true", help="stop the server, and wait for its end")
    parser.add_argument("--ts-config", metavar="FILE", help="config.properties")
    parser.add_argument("--model-store", metavar="DIR", help="the folder of .mar files")
    parser.add_argument("--workflow-store", metavar="DIR", help="accepted; there are no workflows")
    parser.add_argument("--models", metavar="MODEL", nargs="+", help="what to load: all, or a.mar name=b.mar ...")
    parser.add_argument("--log-config", metavar="FILE", help="accepted; there is no log4j")
    parser.add_argument("--cpp-log-config", metavar="FILE", help="accepted; there is no C++ backend")
    parser.add_argument("--foreground", action="store_true", help="serve in this process")
    parser.add_argument("--no-config-snapshots", "--ncs", action="store_true", help="write and read no snapshots")
    parser.add_argument("--plugins-path", "--ppath", metavar="PATH", help="accepted; there is no Java to load plugins")
    parser.add_argument("--disable-token-auth", "--dt", action="store_true", help="ask for no tokens")
    parser.add_argument("--enable-model-api", action="store_true", help="let clients register and unregister models")
    return parser


def _settings(flags: argparse.Namespace) -> ReadSettings:
    """What the flags, TorchServe's variables and its files say; ends the process where something that they name is missing."""
    _require_file("--log-config", flags.log_config)
    temporary = os.environ.get("TEMP")
    if temporary and not Path(temporary).is_dir():
        _refuse(f"Invalid temp directory: {temporary}, please check TEMP environment variable.")
    said = {
        "model_store": flags.model_store,
        "load_models": flags.models,
        "disable_token_authorization": flags.disable_token_auth or None,
        "enable_model_api": flags.enable_model_api or None,
        "config_snapshots": False if flags.no_config_snapshots else None,
    }
    read = read_settings(said, _config(flags), DEFAULTS)
    store = read.settings.model_store
    if store is None:
        _refuse("Missing mandatory parameter --model-store")
    if not store.is_dir():
        _refuse(f"--model-store directory not found: {store}")
    if flags.workflow_store and not Path(flags.workflow_store).is_dir():
        _refuse(f"--workflow-store directory not found: {flags.workflow_store}")
    _require_file("--cpp-log-config", flags.cpp_log_config)
    for flag in ("workflow_store", "log_config", "cpp_log_config", "plugins_path"):
        if getattr(flags, flag):
            print(f"Warning: --{flag.replace('_', '-')} has no effect here", file=sys.stderr)
    return read


def _config(flags: argparse.Namespace) -> Path | None:
    """The file that holds: a variable's, a flag's, the last run's snapshot; None for ./config.properties, where it is."""
    named = os.environ.get("TS_CONFIG_FILE") or flags.ts_config
    if named is None:
        return None if flags.no_config_snapshots else newest_snapshot(snapshot_directory())
    if not Path(named).is_file():
        _refuse(f"--ts-config file not found: {named}")
    return Path(named)


def _require_file(flag: str, path: str | None) -> None:
    if path and not Path(path).is_file():
        _refuse(f"{flag} file not found: {Path(path).resolve()}")


def _running(path: Path) -> int | None:
    """The process that serves in the background; a file that a dead one left is taken away."""
    found = pid_file.read(path)
    if found is not None and pid_file.is_alive(*found):
        return found[0]
    if path.exists():
        print("Removing orphan pid file.")
        path.unlink(missing_ok=True)
    return None


def _stop(path: Path, pid: int | None) -> None:
    found = pid_file.read(path)
    if pid is None or found is None:
        print("TorchServe is not currently running.")
        return
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + _STOP_TIMEOUT_S
    while pid_file.is_alive(*found):
        if time.monotonic() > deadline:
            _refuse("Stopping TorchServe took too long.")
        time.sleep(_LOOK_AGAIN_S)
    path.unlink(missing_ok=True)
    print("TorchServe has stopped.")


def _start_in_background(read: ReadSettings, path: Path) -> None:
    """Starts the server in a process of its own, whose output is logs/ts_log.log, and returns when it listens."""
    output = log_directory() / "ts_log.log"
    output.parent.mkdir(parents=True, exist_ok=True)
    from_server, to_starter = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        os.close(from_server)
        _leave_terminal(output)
        _serve(read, path, lambda: _tell(to_starter))
        return
    os.close(to_starter)
    with os.fdopen(from_server, "rb") as told:
        if told.read() == _STARTED:
            _say_started()
            return
    _, status = os.waitpid(child, 0)
    lines = output.read_text(encoding="utf-8", errors="replace").splitlines()
    print("\n".join(lines[-1:]), file=sys.stderr)
    print(f"The model server did not start; see {output}", file=sys.stderr)
    sys.exit(os.waitstatus_to_exitcode(status) or 1)


def _leave_terminal(output: Path) -> None:
    """A session of its own, no input, and output to the file."""
    os.setsid()
    for descriptor, path, how in ((0, os.devnull, os.O_RDONLY), (1, output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)):
        opened = os.open(path, how, 0o644)
        os.dup2(opened, descriptor)
        os.close(opened)
    os.dup2(1, 2)


def _tell(to_starter: int) -> None:
    _say_started()
    os.write(to_starter, _STARTED)
    os.close(to_starter)


def _say_started() -> None:
    sys.stdout.write("Model server started.\n")  # in one piece: the log may go to the same file
    sys.stdout.flush()


def _serve(read: ReadSettings, path: Path, started: Callable[[], None]) -> None:
    from serving.__main__ import run

    try:
        pid_file.write(path, os.getpid())
    except FileExistsError:
        _refuse("TorchServe is already running, please use stateserve-ts --stop to stop TorchServe.")
    try:
        run(read, metrics_directory() or log_directory(), started)
    finally:
        path.unlink(missing_ok=True)


def _refuse(message: str) -> NoReturn:
    print(message)
    sys.exit(1)


if __name__ == "__main__":
    main()
