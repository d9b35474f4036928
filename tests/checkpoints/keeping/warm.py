"""A process that has imported everything and forks a child for each situation, which costs milliseconds and may break anything.

`python -m tests.checkpoints.keeping.warm` reads one JSON line per situation, and answers each with one.
"""

import contextlib
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from typing import Any

DEADLINE_S = 60.0
_MODULE = "tests.checkpoints.keeping.situations"


class Broken(AssertionError):
    """A situation did not come to its end; the message is its traceback."""


class Warm:
    """The process, as its user sees it."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def __call__(self, situation: str, *arguments: str | int) -> dict[str, Any]:
        """What the function of this name in `situations` returned, called in a child of its own.

        Raises:
            Broken: it raised, was killed, or took too long.
        """
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise Broken("the warm process has no pipes")
        stdin.write(json.dumps([situation, *arguments]) + "\n")
        stdin.flush()
        answer = json.loads(stdout.readline() or '{"broken": "the warm process ended"}')
        if "broken" in answer:
            raise Broken(answer["broken"])
        return answer


@contextlib.contextmanager
def warm() -> Iterator[Warm]:
    """Starts the process, and ends it."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.checkpoints.keeping.warm"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield Warm(process)
    finally:
        if process.stdin:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
        try:
            process.wait(DEADLINE_S)
        finally:
            process.kill()
            if process.stdout:
                process.stdout.close()


def main() -> None:
    """Answers line after line."""
    import torch

    torch.set_num_threads(1)
    situations = importlib.import_module(_MODULE)
    situations.import_all()
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        print(_in_child(getattr(situations, name), arguments), flush=True)


def _in_child(situation: Any, arguments: list[Any]) -> str:
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        _answer(situation, arguments, writing)
    os.close(writing)
    raw = _until_end(reading)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)  # of no effect where it has ended
    os.close(reading)
    _, status = os.waitpid(pid, 0)
    return raw.decode() or json.dumps({"broken": f"ended with {os.waitstatus_to_exitcode(status)} and said nothing"})


def _answer(situation: Any, arguments: list[Any], writing: int) -> None:
    try:
        answer = json.dumps(situation(*arguments))
    except BaseException:  # noqa: BLE001 (a child must not return into its parent's code, whatever happens)
        answer = json.dumps({"broken": traceback.format_exc()})
    with os.fdopen(writing, "wb") as pipe:
        pipe.write(answer.encode())
    os._exit(0)


def _until_end(reading: int) -> bytes:
    raw, deadline = b"", time.monotonic() + DEADLINE_S
    while (left := deadline - time.monotonic()) > 0:
        if select.select([reading], [], [], left)[0]:
            more = os.read(reading, 1 << 16)
            if not more:
                return raw
            raw += more
    return json.dumps({"broken": f"not done after {DEADLINE_S:.0f} s"}).encode()


if __name__ == "__main__":
    main()
