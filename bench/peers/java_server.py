"""The real TorchServe: its launcher, Java, which that starts and leaves behind, and the Python workers that Java starts."""

import contextlib
import json
import os
import signal
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

from bench.errors import ProcessFailed
from bench.peers.peer import Cpus, tied
from bench.processes import Running, running

_LOG, _GROUP = "torchserve.log", "torchserve.group"
_ENDS_ITS_GROUP = """trap 'trap - TERM; kill -TERM 0' TERM; "$@" & wait $!"""
"""A shell that runs a command and tells SIGTERM to all that it started: the launcher alone would leave Java behind."""
_SAID_CHARACTERS = 2000
_END_TIMEOUT_S = 15
_WORKERS_TIMEOUT_S = 120
_POLL_S = 0.05


@contextlib.contextmanager
def launched(
    config: Path, port: int, cpus: Cpus = None, environment: Mapping[str, str] | None = None, log_config: Path | None = None
) -> Iterator[Running]:
    """Runs TorchServe with a config.properties until the block ends, which ends all its processes; `port` is that of its ping.

    Its log lies beside the config. It is a process group of its own: no Ctrl-C reaches it, so that it is ended in order. Its ping
    is Healthy before it has a worker: see `wait_for_workers`.

    Raises:
        ProcessFailed: it did not start, or ended.
    """
    folder = config.parent
    variables = {"TMPDIR": str(folder), "TEMP": str(folder), **(environment or {})}
    launch = [sys.executable, "-m", "ts.model_server", "--start", "--foreground", "--ncs", "--ts-config", str(config)]
    launch += ["--log-config", str(log_config)] if log_config else []
    in_a_group = ["setsid", "sh", "-c", f"echo $$ > {_GROUP} && {_ENDS_ITS_GROUP}", "sh"]
    command = [*in_a_group, "env", *(f"{name}={value}" for name, value in variables.items()), *launch]
    (folder / _GROUP).unlink(missing_ok=True)
    try:
        with running(tied(cpus, command), port, folder / _LOG, "/ping") as found:
            yield found
    finally:
        with contextlib.suppress(OSError, ValueError):  # none was started, or none is left
            _end_group(int((folder / _GROUP).read_text()))


def wait_for_workers(management_port: int, model: str, folder: Path) -> None:
    """Waits until every worker of a model is ready; `folder` has the server's log.

    Raises:
        ProcessFailed: not all were in time.
    """
    end = time.monotonic() + _WORKERS_TIMEOUT_S
    states = _worker_states(management_port, model)
    while not states or set(states) != {"READY"}:
        if time.monotonic() > end:
            said = (folder / _LOG).read_text()[-_SAID_CHARACTERS:].strip()
            raise ProcessFailed(f"TorchServe's workers for {model} are not ready after {_WORKERS_TIMEOUT_S} s: {said}")
        time.sleep(_POLL_S)
        states = _worker_states(management_port, model)


def _worker_states(management_port: int, model: str) -> list[str]:
    url = f"http://127.0.0.1:{management_port}/models/{model}"
    try:
        with urllib.request.urlopen(url, timeout=_END_TIMEOUT_S) as answer:
            return [worker["status"] for version in json.load(answer) for worker in version["workers"]]
    except (OSError, ValueError):  # the model is not registered yet
        return []


def _end_group(group: int) -> None:
    """SIGTERM to all processes of a group; SIGKILL to those that are left."""
    os.killpg(group, signal.SIGTERM)
    end = time.monotonic() + _END_TIMEOUT_S
    while _alive(group) and time.monotonic() < end:
        time.sleep(_POLL_S)
    os.killpg(group, signal.SIGKILL)


def _alive(group: int) -> bool:
    """Whether any process of a group runs; one that ended and is not fetched by its parent does not."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, its_group = stat.read_text().rpartition(")")[2].split()[:3]
            if int(its_group) == group and state != "Z":
                return True
    return False
