"""Training that saves all the time, killed at random moments: `python -m tests.checkpoints.keeping.kills --times 500`.

A warm process, which has imported everything and has no threads, forks every run: a run that is killed costs milliseconds.
"""

import argparse
import contextlib
import json
import os
import random
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import torch

from tests.checkpoints.keeping import kernel
from tests.checkpoints.keeping.calls import kill_before
from tests.checkpoints.keeping.history import History
from tests.checkpoints.keeping.places import LocalPlace, Place
from tests.checkpoints.keeping.training import NARROW, RESUMED, SAVED, WIDE, Told, Uninterrupted, train

DEADLINE_S = 60.0
_OPENING_SHARE = 0.25
_MOST_SAVES = 4
_STEPS_AT_THE_END = 3
_SMALLEST_PART_BYTES = 5 << 20
"""S3 takes no smaller parts of a file, but for the last."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of place, and when a run there is killed: a quarter of them in the first moments, the others while they train."""

    name: str
    opens_s: float
    """A run of the first kind is killed within this time from its start."""
    saves_s: float
    """One of the others within this time, about that of a save, from one of its first saves or from when it begins to train."""
    prepare: Callable[[], None] = lambda: None
    width: int = NARROW


def _refuse_links() -> None:
    kernel.refuse(kernel.NO_LINKS | kernel.NO_LOCKS)


def _send_small_parts() -> None:
    from checkpoints.keeping import remote_store

    remote_store.PART_BYTES = _SMALLEST_PART_BYTES


LOCAL = Kind("local", 0.03, 0.06)
WITHOUT_LINKS = Kind("without-links", 0.03, 0.06, _refuse_links)
S3 = Kind("s3", 1.0, 0.4)
S3_PARTS = Kind("s3-parts", 1.0, 1.0, _send_small_parts, WIDE)
EVERY_CALL = Kind("every-call", 0, 0)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a number of kills came to."""

    kind: Kind
    times: int
    faults: tuple[str, ...]
    history: History
    took_s: float

    def facts(self) -> dict[str, object]:
        """As JSON."""
        return {
            "kind": self.kind.name,
            "times": self.times,
            "faults": self.faults,
            "killed": dict(self.history.killed),
            "saved": len(self.history.known),
            "resumed": self.history.resumed,
            "compared": len(self.history.equal),
            "most_left": self.history.most_left,
            "took_s": round(self.took_s, 1),
        }


def main() -> None:
    """Kills as often as asked, prints what came of it as JSON, and writes the page if asked; ends with 1 after a fault."""
    asked = _arguments()
    torch.set_num_threads(1)
    _do_everything_once()
    outcomes = []
    counts = {LOCAL: asked.times, WITHOUT_LINKS: asked.without_links_times, S3: asked.s3_times, S3_PARTS: asked.s3_parts_times}
    with tempfile.TemporaryDirectory(dir=asked.within) as folder:
        for kind in (kind for kind, times in counts.items() if times):
            with _place(kind, Path(folder)) as place:
                outcomes.append(_kill_many(place, kind, counts[kind], asked.seed, Path(folder) / "scratch"))
                print(json.dumps(outcomes[-1].facts()), flush=True)
        if asked.every_call:
            outcomes.append(_kill_at_every_call(LocalPlace(Path(folder) / EVERY_CALL.name), asked.seed, Path(folder) / "scratch"))
            print(json.dumps(outcomes[-1].facts()), flush=True)
    if asked.to:
        from tests.checkpoints.keeping.kills_page import write

        write(asked.to, outcomes)
    sys.exit(any(outcome.faults for outcome in outcomes))


def _do_everything_once() -> None:
    """So that what is imported on the way is there before children are forked."""
    with tempfile.TemporaryDirectory() as folder, Path(os.devnull).open("wb") as nobody:
        for seed in range(4):  # both formats
            train(folder, seed, nobody.fileno(), steps=2)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Kills training that saves all the time, and looks at what it left behind.")
    parser.add_argument("--times", type=int, default=50, help="kills on the local file system")
    parser.add_argument(
        "--without-links-times", type=int, default=0, help="kills where the file system has no links and no locks"
    )
    parser.add_argument("--s3-times", type=int, default=0, help="kills against an S3 server that is started for it")
    parser.add_argument("--s3-parts-times", type=int, default=0, help="the same with files that are sent in several parts")
    parser.add_argument("--every-call", action="store_true", help="kills before each call that changes the directory, in turn")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    parser.add_argument("--within", type=Path, help="where the directories are made (default: the system's temporary directory)")
    parser.add_argument("--to", type=Path, help="the page to write")
    return parser.parse_args()


def _kill_many(place: Place, kind: Kind, times: int, seed: int, scratch: Path) -> Outcome:
    started, rng, faults = time.monotonic(), random.Random(seed), []
    history = History(place, scratch, Uninterrupted(kind.width))
    for number in range(times):
        before = rng.random() < _OPENING_SHARE
        delay_s = rng.uniform(0, kind.opens_s if before else kind.saves_s)
        run = start(lambda tell, one=number: train(place.location, seed * 10**6 + one, tell, width=kind.width), kind.prepare)
        raw = b"" if before else run.until(RESUMED.encode(), SAVED.encode(), rng.randrange(_MOST_SAVES))
        time.sleep(delay_s)  # the random moment
        told, status = run.kill(raw)
        if status != -signal.SIGKILL:
            faults.append(f"run {number} ended by itself with {status} after {told.lines[-3:]}: see standard error")
        faults += [f"kill {number}: {fault}" for fault in history.judge(told)]
    run = start(lambda tell: train(place.location, seed, tell, steps=_STEPS_AT_THE_END, width=kind.width), kind.prepare)
    told, status = run.end()
    faults += [] if status == 0 else [f"the run that was not killed ended with {status}: see standard error"]
    faults += [f"after the end: {fault}" for fault in history.judge_end(told)]
    return Outcome(kind, times, tuple(faults), history, time.monotonic() - started)


def _kill_at_every_call(place: LocalPlace, seed: int, scratch: Path) -> Outcome:
    """Each run saves a few times and is killed before its first call that changes the directory, its second, and so on."""
    started, history, faults = time.monotonic(), History(place, scratch), []
    for number in count(1):
        run = start(
            lambda tell, one=number: train(place.location, seed + one, tell, steps=_STEPS_AT_THE_END),
            lambda one=number: kill_before(place.directory, one),
        )
        told, status = run.end()
        if status != -signal.SIGKILL:
            faults += [] if status == 0 else [f"call {number}: ended with {status}: see standard error"]
            faults += [f"after the end: {fault}" for fault in history.judge_end(told)]
            return Outcome(EVERY_CALL, number - 1, tuple(faults), history, time.monotonic() - started)
        faults += [f"call {number}: {fault}" for fault in history.judge(told)]
    raise AssertionError


@dataclass(frozen=True, slots=True)
class Run:
    """A forked child that trains, and the pipe through which it tells how far it is."""

    pid: int
    pipe: int

    def until(self, word: bytes, then: bytes = b"", times: int = 0) -> bytes:
        """Waits until it told the one, and the other some times; all that it told. One that ends, or takes too long, ends it."""
        raw, deadline = b"", time.monotonic() + DEADLINE_S
        while (word not in raw or (then and raw.count(then) < times)) and (left := deadline - time.monotonic()) > 0:
            if select.select([self.pipe], [], [], left)[0]:
                more = os.read(self.pipe, 1 << 16)
                if not more:
                    break
                raw += more
        return raw

    def kill(self, raw: bytes) -> tuple[Told, int]:
        """Kills it; all that it told, and what it ended with."""
        os.kill(self.pid, signal.SIGKILL)
        return self.end(raw)

    def end(self, raw: bytes = b"") -> tuple[Told, int]:
        """Reads all that it tells until its end; too long a time ends it."""
        raw += self.until(b"\0")
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)  # of no effect where it has ended
        os.close(self.pipe)
        _, status = os.waitpid(self.pid, 0)
        return Told.parse(raw), os.waitstatus_to_exitcode(status)


def start(work: Callable[[int], None], prepare: Callable[[], None]) -> Run:
    """Forks a child that does the work; it is given the descriptor through which it tells."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        return Run(pid, reading)
    status = 1
    try:
        os.close(reading)
        prepare()
        work(writing)
        status = 0
    except BaseException:  # noqa: BLE001 (a child must not return into its parent's code, whatever happens)
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


@contextlib.contextmanager
def _place(kind: Kind, folder: Path) -> Iterator[Place]:
    if kind in {S3, S3_PARTS}:
        import s3fs  # noqa: F401 (so that children need not import it)

        from tests.s3_server import s3_place

        with s3_place() as place:
            yield place
    else:
        yield LocalPlace(folder / kind.name)
        shutil.rmtree(folder / kind.name, ignore_errors=True)


if __name__ == "__main__":
    main()
