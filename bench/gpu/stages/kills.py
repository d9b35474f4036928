"""The engine's process killed (kill -9) under load: what clients see, and how long it takes until the next one answers."""

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Self

import psutil

from bench import generator
from bench.errors import NotAsked, ProcessFailed
from bench.generator import Progress
from bench.gpu.plan import frontend_count
from bench.gpu.server import Served, serving
from bench.gpu.stage import Finding, Findings, Stage, Work
from bench.page import Section
from bench.payloads import Payload
from foundation.environment import cores
from foundation.errors import StateserveError

_MODULE = "serving.processes.engine"
_CONNECTIONS = 8
_AGAIN_S = 30.0
"""Another engine process answers within so many seconds, or the stage fails: it imports torch, and proves the model again."""
_POLL_S = 0.02
_LOAD_S = 1.0
_BEGINS_S = 30.0
_FORESEEN = frozenset({"status 503"})


def measure(work: Work) -> Iterator[Finding]:
    """One finding for each kill, and one for the load that went on all the time."""
    model = work.plan.models[-1]
    with serving(work, model, model.served, frontend_count(work.plan.frontends[0], cores())) as served:
        (probe,) = served.payloads(1, different=1)
        with _Fired(served) as fired:
            for number in range(1, work.plan.kills + 1):
                fired.require_under_way()
                work.say(f"kill {number}")
                yield {"kill": number, **_kill(served, probe)}
        yield _told(fired, work.plan.kills)


class _Fired:
    """One load after the other, in a thread, until the block ends: counts what was answered, and what was not, by kind."""

    def __init__(self, served: Served) -> None:
        self.answered = 0
        self.errors: Counter[str] = Counter()
        self._served = served
        self._load = served.load(1, _CONNECTIONS, _LOAD_S, 0.1)
        self._failure: Exception | None = None
        self._measured, self._over = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._fire, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()

    def require_under_way(self) -> None:
        """Waits until the window of a load begins.

        Raises:
            ProcessFailed: none does: the load failed.
        """
        self._measured.clear()
        if not self._measured.wait(_BEGINS_S) or self._failure is not None:
            raise ProcessFailed(f"no load is under way: {self._failure or 'none has begun'}") from self._failure

    def window_began(self) -> None:
        """The generator's warm-up is over."""
        self._measured.set()

    def window_ended(self) -> None:
        """Another load follows."""

    def progressed(self, progress: Progress) -> None:
        """Nobody is told."""

    def _fire(self) -> None:
        try:
            while not self._over.is_set():
                outcome = generator.fire(self._load, self._served.work.folder, self)
                self.answered += len(outcome.latencies_s)
                self.errors.update(outcome.errors)
        except StateserveError as failure:
            self._failure = failure
            self._measured.set()


def _kill(served: Served, probe: Payload) -> Finding:
    """Kills every engine process at once, and asks until there is an answer again."""
    found = _engine_processes(served)
    if not found:
        return {"failed": "the server has no engine process"}
    for process in found:
        process.kill()
    began_s, answers = time.monotonic(), Counter[str]()
    while time.monotonic() - began_s < _AGAIN_S:
        status = _status(served, probe)
        if status == "200" and _engine_processes(served):
            return {"killed": len(found), "again_s": time.monotonic() - began_s, "answers": dict(answers)}
        answers[status] += 1
        time.sleep(_POLL_S)
    return {"failed": f"no answer in {_AGAIN_S:g} s, but {dict(answers)}"}


def _status(served: Served, probe: Payload) -> str:
    try:
        return str(served.ask(probe)[0])
    except NotAsked as failure:  # it is to be 503, and not this: it stands in the table
        return str(failure)


def _engine_processes(served: Served) -> list[psutil.Process]:
    found = []
    for process in psutil.Process(served.running.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it has ended by now
            if _MODULE in process.cmdline():
                found.append(process)
    return found


def _told(fired: _Fired, kills: int) -> Finding:
    errors = dict(fired.errors)
    unforeseen = {kind: count for kind, count in errors.items() if kind not in _FORESEEN}
    found = {"kills": kills, "answered": fired.answered, "errors": errors}
    return found | ({"failed": f"not only 503: {unforeseen}"} if unforeseen else {})


def tell(findings: Sequence[Finding], _all: Findings) -> Sequence[Section]:
    """One table."""
    text = (
        f"The engine's process is killed under a load of {_CONNECTIONS} connections that goes on all the time. Then one request "
        "after the other is sent until there is an answer again: the next process imports PyTorch, loads, proves and warms up."
    )
    rows = [_row(one) for one in findings]
    return (
        [Section("kill -9 of the engine's process", text, ("", "until the next answer", "other answers"), rows)] if rows else []
    )


def _row(one: Finding) -> tuple[str, str, str]:
    title = f"kill {one['kill']}" if "kill" in one else f"the load over all {one['kills']} kills"
    wrong = f"**{one['failed']}**" if "failed" in one else ""
    if "kill" in one:
        answers = ", ".join(f"{count} times {status}" for status, count in one.get("answers", {}).items())
        return title, f"{one['again_s']:.1f} s" if "again_s" in one else "-", wrong or answers
    errors = ", ".join(f"{count:,} {kind}" for kind, count in one["errors"].items()) or "no other"
    return title, f"{one['answered']:,} answers with 200", f"{errors} {wrong}".strip()


STAGE = Stage(
    "kills",
    "kill -9 of the engine's process under load: clients see 503 and nothing else, and the next process answers.",
    measure,
    tell,
)
