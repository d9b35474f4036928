"""The load generator: starts the processes of `bench.client`, lets them begin together, and puts together what they measured."""

import contextlib
import json
import math
import os
import selectors
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from bench.client import plan
from bench.client.exhausted import require_not_exhausted
from bench.client.load import Load, Outcome
from bench.client.plan import Address
from bench.errors import ProcessFailed, ServerGone
from bench.processes import server_environment
from bench.results import Latency

GONE_S = 3.0
"""A server that refuses or closes every connection for so long, and answers nothing, is gone."""

_TELL_S = 0.25
_LOOK_UP_TIMEOUT_S = 10.0
_READY_TIMEOUT_S = 60.0
_BEGIN_IN_S = 0.05
_END_TIMEOUT_S = 15.0
_READ_BYTES = 65536

_CURVE_STEPS = 100

Phase = Literal["warm-up", "measuring", "waiting"]


@dataclass(frozen=True, slots=True)
class Progress:
    """How a load is doing: since its beginning, and in the last quarter of a second (None where nothing was answered in it).

    With several processes, `p50_ms` is the mean of theirs and `p99_ms` the largest of theirs.
    """

    phase: Phase
    elapsed_s: float
    requests: int
    errors: int
    requests_per_s: float | None
    p50_ms: float | None
    p99_ms: float | None


class Watcher(Protocol):
    """Who looks on while a load runs."""

    def window_began(self) -> None:
        """The warm-up is over, and the measured time begins: at this moment, so this has to be quick."""
        ...

    def window_ended(self) -> None:
        """The measured time is over: at this moment, before late answers are waited for. Not called where it never began."""
        ...

    def progressed(self, progress: Progress) -> None:
        """How the load is doing, about four times a second."""
        ...


def fire(load: Load, folder: Path, watcher: Watcher) -> Outcome:
    """Puts a load on a server; `folder` takes the processes' files. Nothing of it runs on after this returns or raises.

    Raises:
        ServerGone: the server cannot be reached, or stopped answering; `outcome` is what was measured by then.
        ProcessFailed: a process of the generator ended before its time, or this machine has no descriptor or port left for it.
    """
    plans = plan.write(load, _address(load), folder)
    with contextlib.ExitStack() as stack:
        children = [stack.enter_context(_child(path)) for path in plans]
        talk = stack.enter_context(contextlib.closing(_Talk(load, children)))
        talk.begin()
        while not talk.ended:
            talk.go_on(watcher)
    outcome = _together(load, children, folder)
    if talk.gone:
        why = f"{load.host}:{load.port} has not answered for {GONE_S:g} s: {talk.gone}; look into its log"
        raise ServerGone(why, outcome if outcome.seconds > 0 else None)
    return outcome


def summary(outcome: Outcome) -> Latency | None:
    """The outcome's latencies in numbers (nearest rank: each is one that was measured); None without any."""
    if not len(outcome.latencies_s):
        return None
    latencies_ms = np.sort(outcome.latencies_s) * 1e3
    p50, p90, p99, p999 = _quantiles(latencies_ms, (0.5, 0.9, 0.99, 0.999))
    shares = _shares(len(latencies_ms))
    return Latency(
        mean=float(latencies_ms.mean()),
        p50=p50,
        p90=p90,
        p99=p99,
        p999=p999,
        max=float(latencies_ms[-1]),
        curve=list(zip(shares, _quantiles(latencies_ms, shares), strict=True)),
    )


def _quantiles(ordered: np.ndarray, shares: Sequence[float]) -> list[float]:
    return np.quantile(ordered, shares, method="inverted_cdf").tolist()


def _shares(count: int) -> list[float]:
    """Hundredths, then nine steps to 0.999, nine more to 0.9999 and so on, as far as so many requests can tell; and 1."""
    shares, rest = [step / _CURVE_STEPS for step in range(_CURVE_STEPS)], 0.01
    while rest * count > 1:
        shares += [1 - rest * (10 - step) / 10 for step in range(1, 10)]
        rest /= 10
    return [*shares, 1.0]


class _Child:
    """A process of the generator, and the last that it said of each kind."""

    def __init__(self, process: subprocess.Popen, log: Path) -> None:
        self.process, self.log = process, log
        self.said: dict[str, Any] = {}
        self._part = b""

    def tell(self, line: str) -> None:
        """A line to it; if it has ended, its end tells more."""
        with contextlib.suppress(BrokenPipeError):
            os.write(self.process.stdin.fileno(), line.encode() + b"\n")  # type: ignore[union-attr]

    def hear(self) -> None:
        """Takes what it says.

        Raises:
            ProcessFailed: it says that it failed, or says nothing more and has not said that it is done.
        """
        data = os.read(self.process.stdout.fileno(), _READ_BYTES)  # type: ignore[union-attr]
        *lines, self._part = (self._part + data).split(b"\n")
        for line in lines:
            self.said.update(json.loads(line))
        if "failed" in self.said:
            raise ProcessFailed(self.said["failed"])
        if not data and "done" not in self.said:
            code = self.process.wait(_END_TIMEOUT_S)
            raise ProcessFailed(f"a process of the load generator ended with code {code}: {self.log.read_text().strip()}")


@contextlib.contextmanager
def _child(path: Path) -> Iterator[_Child]:
    """One process, ended with the block."""
    log = path.with_suffix(".log")
    command, pipe = [sys.executable, "-m", "bench.client", str(path)], subprocess.PIPE
    with log.open("w") as output:
        process = subprocess.Popen(  # noqa: S603
            command, cwd=path.parent, env=server_environment(), stdin=pipe, stdout=pipe, stderr=output, bufsize=0
        )
    try:
        yield _Child(process, log)
    finally:
        with process:  # closes the pipes, and waits
            process.kill()


class _Talk:
    """The conversation with the processes, from ready to done."""

    def __init__(self, load: Load, children: Sequence[_Child]) -> None:
        self._load, self._children = load, children
        self._selector = selectors.DefaultSelector()
        for child in children:
            self._selector.register(child.process.stdout, selectors.EVENT_READ, child)  # type: ignore[arg-type]
        self._begin_s = self._next_s = 0.0
        self._phase: Phase = "warm-up"
        self.gone = ""

    @property
    def ended(self) -> bool:
        """Whether all are done."""
        return all("done" in child.said for child in self._children)

    def close(self) -> None:
        """Hears nothing more."""
        self._selector.close()

    def begin(self) -> None:
        """Waits until all are ready, and tells them when to begin.

        Raises:
            ProcessFailed: one is not.
        """
        limit_s = time.monotonic() + _READY_TIMEOUT_S
        while not all("ready" in child.said for child in self._children):
            self._hear(limit_s)
            if time.monotonic() > limit_s:
                raise ProcessFailed(f"a process of the load generator was not ready in {_READY_TIMEOUT_S:g} s")
        self._begin_s = self._next_s = time.monotonic() + _BEGIN_IN_S
        self._tell(json.dumps({"begin_s": self._begin_s}))

    def go_on(self, watcher: Watcher) -> None:
        """Hears for a moment, and tells the watcher."""
        self._hear(min(self._next_s, self._edge_s()))
        self._look_at_the_window(watcher)
        now_s = time.monotonic()
        if now_s >= self._next_s:
            self._next_s = now_s + _TELL_S
            watcher.progressed(self._progress(now_s))
            self._look_whether_gone()
            self._look_at_the_time(now_s)

    def _edge_s(self) -> float:
        """The window's next edge. Where the server is gone, the window ends now, or never begins."""
        begin_s = self._begin_s + self._load.warmup_s
        if self._phase == "warm-up" and not self.gone:
            return begin_s
        if self._phase == "measuring":
            return 0.0 if self.gone else begin_s + self._load.duration_s
        return math.inf

    def _look_at_the_window(self, watcher: Watcher) -> None:
        if self._phase == "warm-up" and time.monotonic() >= self._edge_s():
            self._phase = "measuring"
            watcher.window_began()
        if self._phase == "measuring" and time.monotonic() >= self._edge_s():
            self._phase = "waiting"
            watcher.window_ended()

    def _hear(self, until_s: float) -> None:
        for key, _ in self._selector.select(max(0.0, until_s - time.monotonic())):
            key.data.hear()

    def _tell(self, line: str) -> None:
        for child in self._children:
            child.tell(line)

    def _progress(self, now_s: float) -> Progress:
        elapsed_s = max(0.0, now_s - self._begin_s)
        latest = [child.said["latest"] for child in self._children if child.said.get("latest", {}).get("requests")]
        answered = sum(one["requests"] for one in latest)
        return Progress(
            phase=self._phase,
            elapsed_s=elapsed_s,
            requests=sum(child.said.get("requests", 0) for child in self._children),
            errors=sum(child.said.get("errors", 0) for child in self._children),
            requests_per_s=sum(one["requests"] / one["s"] for one in latest) if latest else None,
            p50_ms=sum(one["p50_s"] * one["requests"] for one in latest) / answered * 1e3 if latest else None,
            p99_ms=max(one["p99_s"] for one in latest) * 1e3 if latest else None,
        )

    def _look_whether_gone(self) -> None:
        if not self.gone and all(child.said.get("failing_s", 0.0) > GONE_S for child in self._children):
            self.gone = self._children[0].said["last_failure"]
            self._tell("stop")

    def _look_at_the_time(self, now_s: float) -> None:
        load = self._load
        limit_s = load.warmup_s + load.duration_s + load.timeout_s + _END_TIMEOUT_S
        if now_s - self._begin_s > limit_s:
            raise ProcessFailed(f"the load generator did not end in {limit_s:g} s")


def _address(load: Load) -> Address:
    """The first of the host's addresses that takes a connection.

    Raises:
        ServerGone: none does.
        ProcessFailed: this machine has no descriptor or port left.
    """
    try:
        with socket.create_connection((load.host, load.port), _LOOK_UP_TIMEOUT_S) as found:
            return int(found.family), *found.getpeername()[:2]
    except OSError as cause:
        require_not_exhausted(cause.errno, 0)
        why = cause.strerror or cause
        raise ServerGone(f"{load.host}:{load.port} takes no connection: {why}; is the server running there?") from cause


def _together(load: Load, children: Sequence[_Child], folder: Path) -> Outcome:
    told: list[Mapping[str, Any]] = [child.said["done"] for child in children]
    errors: Counter[str] = Counter()
    for one in told:
        errors.update(one["errors"])
    arrays: dict[str, list[np.ndarray]] = {"latencies_s": [], "answered_s": []}
    for place in range(len(children)):
        with np.load(folder / f"arrays-{place}.npz", allow_pickle=False) as file:
            for name, parts in arrays.items():
                parts.append(file[name])
    order = np.argsort(answered_s := np.concatenate(arrays["answered_s"]), kind="stable")
    return Outcome(
        seconds=min(load.duration_s, *(one["seconds"] for one in told)),
        offered=sum(one["offered"] for one in told),
        latencies_s=np.concatenate(arrays["latencies_s"])[order],
        answered_s=answered_s[order],
        rows=sum(one["rows"] for one in told),
        errors=dict(errors),
        sent_bytes=sum(one["sent_bytes"] for one in told),
        received_bytes=sum(one["received_bytes"] for one in told),
        client_busy=max(one["client_busy"] for one in told),
        in_time=sum(one["in_time"] for one in told),
        waited=sum(one["waited"] for one in told),
    )
