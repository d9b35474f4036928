"""A stage of the measurement, and its run: in a process of its own that may crash, hang or be slow without harm to the others.

`python -m bench.gpu.child` reads a line of JSON on its stdin, and tells in lines of JSON on a pipe what it finds, as soon as it
has found it: what was measured before a stage failed, or ran out of its time, is kept.
"""

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from bench.gpu.plan import PLANS, Plan
from bench.page import Section
from bench.processes import server_environment

Finding = Mapping[str, Any]
Findings = Mapping[str, Sequence[Finding]]
"""What each stage found, by the stage's name."""
Status = Literal["done", "failed", "out of time"]

_PROJECT = Path(__file__).parents[2]
_GRACE_S = 5.0
"""A stage that is out of time ends its servers in so many seconds, or is killed with them."""
_READ_BYTES = 1 << 16
_SHOWN_LOG = 2000
"""Characters of a crashed stage's last words."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a stage's process is told. `device` is `cuda:NUMBER`, or `cpu` in a rehearsal; `earlier` is what was found before."""

    stage: str
    plan: str
    device: str
    folder: str
    seconds: float
    earlier: Findings = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Work:
    """What a stage has: the plan, the device, a folder that all share, its end (`time.monotonic`), and whom it tells."""

    plan: Plan
    device: str
    folder: Path
    ends_s: float
    earlier: Findings
    say: Callable[[str], None]

    @classmethod
    def of(cls, asked: Asked, say: Callable[[str], None]) -> "Work":
        """The work that a process was asked for; its time runs from now."""
        ends_s = time.monotonic() + asked.seconds
        return cls(PLANS[asked.plan], asked.device, Path(asked.folder), ends_s, asked.earlier, say)

    @property
    def left_s(self) -> float:
        """Seconds until the stage is ended."""
        return self.ends_s - time.monotonic()

    @property
    def is_rehearsal(self) -> bool:
        """Whether there is no GPU: everything runs, and no number means anything."""
        return self.device == "cpu"


@dataclass(frozen=True, slots=True)
class Stage:
    """`measure` gives findings, each a JSON object with a text `failed` where something went wrong; `tell` makes tables of them.

    `does` says in a sentence or two what is measured, for a page without figures.
    """

    name: str
    does: str
    measure: Callable[[Work], Iterator[Finding]]
    tell: Callable[[Sequence[Finding], Findings], Sequence[Section]]


@dataclass(frozen=True, slots=True)
class Run:
    """How a stage ended; `error` says why it did not end well. What it found was told while it ran."""

    status: Status
    seconds: float
    error: str | None = None


def run(
    asked: Asked,
    log: Path,
    found: Callable[[Finding], None],
    say: Callable[[str], None],
    child: Sequence[str] = ("-m", "bench.gpu.child"),
) -> Run:
    """Runs a stage to its end, or to the end of its time; then neither it nor a process that it started is there any more.

    `found` is told each finding as soon as it is there, `say` how far the stage is. `child` is what Python runs.
    """
    began_s = time.monotonic()
    with contextlib.ExitStack() as stack:
        hear, tell = os.pipe()
        stack.callback(os.close, hear)
        process = _started(asked, log, tell, child)
        stack.callback(_end, process)
        for line in _lines(hear, process, began_s + asked.seconds):
            said = json.loads(line)
            if "say" in said:
                say(said["say"])
            if "found" in said:
                found(said["found"])
            if "ended" in said:
                return Run("done" if said["ended"] is None else "failed", time.monotonic() - began_s, said["ended"])
        seconds = time.monotonic() - began_s
        if seconds >= asked.seconds:
            return Run("out of time", seconds, f"it had {asked.seconds:g} s, and was ended: what it had found is kept")
        return Run("failed", seconds, f"its process ended with {_how(process)}; its last words: {_last_words(log)}")


def _started(asked: Asked, log: Path, tell: int, child: Sequence[str]) -> "subprocess.Popen[bytes]":
    """The stage's process, in a group of its own; the pipe's end `tell` is then its alone."""
    command = [sys.executable, *child, str(tell)]
    with contextlib.closing(os.fdopen(tell, "wb")), log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603
            command,
            cwd=_PROJECT,
            env=server_environment(),
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            pass_fds=[tell],
            start_new_session=True,  # Ctrl-C is for who asked, who ends the whole group
        )
    with contextlib.suppress(BrokenPipeError), contextlib.closing(process.stdin):  # type: ignore[type-var]
        process.stdin.write(json.dumps(_told(asked)).encode() + b"\n")  # type: ignore[union-attr]
    return process


def _told(asked: Asked) -> Mapping[str, Any]:
    return {name: getattr(asked, name) for name in Asked.__dataclass_fields__}


def _lines(hear: int, process: "subprocess.Popen[bytes]", ends_s: float) -> Iterator[bytes]:
    """What the process says until it says no more; out of time, it is told to end, and heard a little longer."""
    part = b""
    with selectors.DefaultSelector() as selector:
        selector.register(hear, selectors.EVENT_READ)
        is_told = False
        while True:
            if not selector.select(max(0.0, ends_s - time.monotonic())):
                if is_told:
                    return
                process.send_signal(signal.SIGTERM)
                is_told, ends_s = True, time.monotonic() + _GRACE_S
                continue
            data = os.read(hear, _READ_BYTES)
            if not data:
                return
            *lines, part = (part + data).split(b"\n")
            if not is_told:
                yield from lines
            else:  # it fails because it is ended: only what it had found counts
                yield from (line for line in lines if b'"found"' in line)


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Waits for the process for a moment, then ends it and all of its group that is left."""
    try:
        _wait_unreaped(process.pid, _GRACE_S)
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait_unreaped(pid: int, seconds: float) -> None:
    """Until the process has ended, or the seconds are over; its number stays its own, so that its group can be ended."""
    ends_s = time.monotonic() + seconds
    while time.monotonic() < ends_s:
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None:
            return
        time.sleep(0.01)


def _how(process: "subprocess.Popen[bytes]") -> str:
    _wait_unreaped(process.pid, _GRACE_S)
    ended = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)
    if ended is None:
        return "no word"
    return f"code {ended.si_status}" if ended.si_code == os.CLD_EXITED else f"signal {ended.si_status}"


def _last_words(log: Path) -> str:
    return log.read_text(errors="replace").strip()[-_SHOWN_LOG:] or "none"
