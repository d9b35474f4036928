"""What can happen to a directory in which a Keeper works; each function is called in a child of its own (see `warm`).

A function makes the situation, and returns what became of it as plain facts; the tests judge them.
"""

import contextlib
import errno
import json
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from checkpoints.keeping.keeper import Keeper
from checkpoints.keeping.local_store import LocalStore
from foundation.errors import StateserveError
from tests.checkpoints.keeping import kernel
from tests.checkpoints.keeping.calls import watch
from tests.checkpoints.keeping.history import History
from tests.checkpoints.keeping.places import LocalPlace, look
from tests.checkpoints.keeping.training import METRIC, Told, Trained, metric, policies

_MIB = 1 << 20
_STEP_BYTES = 48 << 10


class Training:
    """A training of one process: the model, the next step, and what is kept."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.trained = Trained()
        self.step = 0

    def save(self, keeper: Keeper, *, flush: bool = True) -> None:
        """One step, and its checkpoint."""
        self.trained.advance()
        self.step += 1
        trained = self.trained
        keeper.save(self.step - 1, trained.model, trained.optimizer, trained.scheduler, metrics={METRIC: metric(self.step - 1)})
        if flush:
            keeper.flush()

    def resume(self, keeper: Keeper) -> int | None:
        """The step from which it goes on; None where there is nothing."""
        resumed = keeper.resume(self.trained.model, self.trained.optimizer, self.trained.scheduler)
        self.step = resumed.step + 1 if resumed else 0
        return resumed.step if resumed else None


def import_all() -> None:
    """Does everything once, so that what is imported on the way is there before children are forked."""
    with tempfile.TemporaryDirectory() as name:
        with opened(Path(name) / "run") as keeper:
            training = Training(Path(name) / "run")
            training.save(keeper)
            training.resume(keeper)
        survey(Path(name) / "run", {0})


def opened(directory: Path, **more: Any) -> Keeper:
    """A Keeper with the policies that `history.wanted` knows."""
    return Keeper(directory, *policies(), **more)


def survey(directory: Path, told: set[int]) -> dict[str, Any]:
    """What lies there, and every fault: torn, lost, not the weights of training that was never interrupted."""
    history = History(LocalPlace(directory), directory / "scratch")
    history.newest = look(history.place).newest
    faults = history.judge(Told(tuple(("durable", step) for step in sorted(told))))
    contents = look(history.place)
    holders = {link: contents.holder(link) for link in contents.links}
    return {
        "steps": sorted(contents.kept),
        "links": {link: holder and holder.step for link, holder in holders.items()},
        "left": [*contents.temporary, *contents.orphans],
        "faults": faults,
    }


def error_of(work: Callable[[], Any]) -> dict[str, Any] | None:
    """What it raised, if that is an error of ours; any other breaks the situation."""
    try:
        work()
    except StateserveError as error:
        facts = {key: value for key, value in vars(error).items() if isinstance(value, str | int)}
        return {"kind": type(error).__name__, "message": str(error), **facts}
    return None


def disk_that_fills(folder: str) -> dict[str, Any]:
    """A disk that somebody else fills before the next checkpoint, and frees again."""
    disk = small_disk(folder, 6 * _MIB)
    with opened(disk / "run") as keeper:
        training = Training(disk / "run")
        for _ in range(3):
            training.save(keeper)
        with ballast(disk, leave_bytes=_MIB // 4):
            error = error_of(lambda: training.save(keeper))
            full = survey(disk / "run", {0, 1, 2})
        freed = error_of(lambda: training.save(keeper))
    return {"error": error, "full": full, "freed": freed, "after": survey(disk / "run", {0, 1, 2, 4})}


def disk_that_fills_unseen(folder: str) -> dict[str, Any]:
    """The same where nothing can be known before (a quota): at every place of a save in turn, the disk has not a byte more."""
    disk = small_disk(folder, 6 * _MIB)
    LocalStore.free_bytes = lambda self: None  # noqa: ARG005 (it is called with one)
    errors, faults, told = [], [], set()
    with opened(disk / "run") as keeper:
        training = Training(disk / "run")
        training.save(keeper)
        told.add(0)
        for number in range(20):
            with ballast(disk, leave_bytes=number * _STEP_BYTES):
                error = error_of(lambda: training.save(keeper))
                errors.append(error and error["kind"])
                told |= set() if error else {training.step - 1}
                found = survey(disk / "run", told)
                faults += [f"{number * _STEP_BYTES} bytes free: {fault}" for fault in found["faults"] + found["left"]]
        training.save(keeper)
        told.add(training.step - 1)
    return {"errors": errors, "faults": faults, "after": survey(disk / "run", told), "last": training.step - 1}


def full_of_leftovers(folder: str) -> dict[str, Any]:
    """A save is killed in the middle, and what it had written takes the rest of the disk: can the next Keeper start?"""
    disk = small_disk(folder, 6 * _MIB)
    training = Training(disk / "run")
    with opened(disk / "run") as keeper:
        training.save(keeper)
    left = disk / "run" / ".tmp-step-00000001.safetensors-0123456789abcdef"
    with contextlib.suppress(OSError), left.open("wb") as file:
        for size in (_MIB, 1 << 12):
            with contextlib.suppress(OSError):
                while file.write(b"x" * size):
                    file.flush()
    free_bytes = os.statvfs(disk).f_bavail
    with opened(disk / "run") as keeper:
        resumed = training.resume(keeper)
        training.save(keeper)
    return {"free_bytes": free_bytes, "resumed": resumed, "after": survey(disk / "run", {0, 1})}


def disk_without_files(folder: str) -> dict[str, Any]:
    """A disk with bytes, but no room for one more file."""
    disk = small_disk(folder, 8 * _MIB, files=24)
    with opened(disk / "run") as keeper:
        training = Training(disk / "run")
        training.save(keeper)
        fillers = []
        with contextlib.suppress(OSError):
            for number in range(100):
                fillers.append(disk / f"filler-{number}")
                fillers[-1].touch(exist_ok=False)
        error = error_of(lambda: training.save(keeper))
        full = survey(disk / "run", {0})
        for filler in fillers:
            filler.unlink(missing_ok=True)
        training.save(keeper)
    return {"error": error, "full": full, "after": survey(disk / "run", {0, 2})}


def permission_lost(folder: str) -> dict[str, Any]:
    """Somebody takes the right to write away, and gives it back."""
    directory = Path(folder) / "run"
    kernel.obey_permissions()
    with opened(directory) as keeper:
        training = Training(directory)
        training.save(keeper)
        directory.chmod(0o555)
        error = error_of(lambda: training.save(keeper))
        without = survey(directory, {0})
        directory.chmod(0o755)
        training.save(keeper)
    return {"error": error, "without": without, "after": survey(directory, {0, 2})}


def disk_turned_read_only(folder: str) -> dict[str, Any]:
    """What a kernel does to a disk that fails."""
    disk = small_disk(folder, 8 * _MIB)
    keeper, training = opened(disk / "run"), Training(disk / "run")
    training.save(keeper)
    kernel.make_read_only(disk)
    error = error_of(lambda: training.save(keeper))
    closing = error_of(keeper.close)
    opening = error_of(lambda: opened(disk / "run"))
    return {"error": error, "closing": closing, "opening": opening, "after": survey(disk / "run", {0})}


def directory_deleted(folder: str) -> dict[str, Any]:
    """Somebody removes the whole directory between two saves."""
    directory = Path(folder) / "run"
    keeper, training = opened(directory), Training(directory)
    training.save(keeper)
    shutil.rmtree(directory)
    error = error_of(lambda: training.save(keeper))
    again = error_of(lambda: training.save(keeper))
    closing = error_of(keeper.close)
    there = directory.exists()
    with opened(directory) as other:
        training.save(other)
    return {"error": error, "again": again, "closing": closing, "there": there, "after": survey(directory, {training.step - 1})}


def clock_set_back(folder: str) -> dict[str, Any]:
    """The clock was fifty years ahead for the first checkpoints: their dates and their files' times say so."""
    directory = Path(folder) / "run"
    training = Training(directory)
    with opened(directory) as keeper:
        for _ in range(3):
            training.save(keeper)
    future = 4_000_000_000
    for path in directory.iterdir():
        if path.name.startswith("step-") and path.suffix == ".json":
            path.write_text(json.dumps(json.loads(path.read_bytes()) | {"saved_at": "2096-10-02T07:06:40Z"}))
    with opened(directory) as keeper:
        training.resume(keeper)
        training.save(keeper)
    for path in directory.iterdir():
        if not path.name.startswith("step-00000003"):
            os.utime(path, (future, future), follow_symlinks=False)
    with opened(directory) as keeper:
        resumed = training.resume(keeper)
        training.save(keeper)
    return {"resumed": resumed, "after": survey(directory, set(range(5)))}


def two_trainers(folder: str) -> dict[str, Any]:
    """A second one comes while the first trains, and again when the first was killed."""
    directory = Path(folder) / "run"
    with first_trainer(directory) as pid:
        error = error_of(lambda: opened(directory))
        during = survey(directory, {0})
    training = Training(directory)
    with opened(directory) as keeper:
        resumed = training.resume(keeper)
        training.save(keeper)
    return {"error": error, "first_pid": pid, "during": during, "resumed": resumed, "after": survey(directory, {0, 1})}


def two_trainers_without_locks(folder: str) -> dict[str, Any]:
    """Where no lock can tell that the first one lives, the second takes over, and the first may write no more."""
    directory = Path(folder) / "run"
    kernel.refuse(kernel.NO_LINKS | kernel.NO_LOCKS)
    first, training = opened(directory), Training(directory)
    training.save(first)
    second, other = opened(directory), Training(directory)
    resumed = other.resume(second)
    other.save(second)
    error = error_of(lambda: training.save(first))
    again = error_of(lambda: training.save(first))
    closing = error_of(first.close)
    second.close()
    return {"error": error, "again": again, "closing": closing, "resumed": resumed, "after": survey(directory, {0, 1})}


def no_links(folder: str) -> dict[str, Any]:
    """A file system that knows neither links nor locks."""
    directory = Path(folder) / "run"
    kernel.refuse(kernel.NO_LINKS | kernel.NO_LOCKS)
    training = Training(directory)
    with opened(directory) as keeper:
        for _ in range(5):
            training.save(keeper)
    with opened(directory, format="pth") as keeper:
        resumed = training.resume(keeper)
        training.save(keeper)
    pointers = {name: (directory / name).read_text() for name in ("latest.pth", "best.pth")}
    return {"resumed": resumed, "pointers": pointers, "after": survey(directory, set(range(6)))}


def links_that_come_and_go(folder: str) -> dict[str, Any]:
    """A directory that was copied to a file system without links, and back: each kind is replaced by the other."""
    directory = Path(folder) / "run"
    training = Training(directory)
    with opened(directory) as keeper:
        training.save(keeper)
    before = (directory / "latest.pth").is_symlink()
    with forked(lambda: _saves_without_links(directory)):
        pass
    between = (directory / "latest.pth").is_symlink()
    with opened(directory) as keeper:
        training.resume(keeper)
        training.save(keeper)
    return {"links": [before, between, (directory / "latest.pth").is_symlink()], "after": survey(directory, {0, 1, 2})}


def disk_that_does_not_flush(folder: str) -> dict[str, Any]:
    """fsync fails from some moment on: what was written since cannot be relied on, and must not become a checkpoint."""
    directory = Path(folder) / "run"
    keeper, training = opened(directory), Training(directory)
    training.save(keeper)
    kernel.refuse(kernel.NO_FLUSH)
    error = error_of(lambda: training.save(keeper))
    closing = error_of(keeper.close)
    return {"error": error, "closing": closing, "after": survey(directory, {0})}


def flush_that_fails_once(folder: str) -> dict[str, Any]:
    """Each flush of a save in turn fails, and none after it: after a failed one the others succeed, as Linux has it."""
    directory = Path(folder) / "run"
    flush, errors, faults, told, failing = os.fsync, [], [], {0}, [0]

    def fails_in_turn(descriptor: int) -> None:
        failing[0] -= 1
        if failing[0] == 0:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        flush(descriptor)

    keeper, training = opened(directory), Training(directory)
    training.save(keeper)
    os.fsync = fails_in_turn
    for number in range(1, 100):
        failing[0] = number
        error = error_of(lambda: training.save(keeper))
        if failing[0] > 0:  # this save has fewer flushes: all of them had their turn
            told.add(training.step - 1)
            break
        errors.append(error and error["kind"])
        faults += [f"flush {number}: {fault}" for fault in survey(directory, told)["faults"]]
        failing[0] = 0
        training.save(keeper)
        told.add(training.step - 1)
        faults += [f"after flush {number}: {fault}" for fault in survey(directory, told)["faults"]]
    os.fsync = flush
    keeper.close()
    opened(directory).close()
    return {"errors": errors, "faults": faults, "flushes": len(errors), "after": survey(directory, told)}


def order_of_calls(folder: str) -> dict[str, Any]:
    """Everything by which one save changes or flushes the directory, in order; it moves `best`, and two go."""
    directory = Path(folder) / "run"
    keeper, training = opened(directory), Training(directory)
    for _ in range(7):
        training.save(keeper)
    calls: list[list[str]] = []
    watch(directory, calls.append)
    training.save(keeper)
    keeper.close()
    return {"calls": calls}


def small_disk(folder: str, size_bytes: int, *, files: int | None = None) -> Path:
    """A disk of this child alone."""
    disk = Path(folder) / "disk"
    disk.mkdir(exist_ok=True)
    kernel.mount_small_disk(disk, size_bytes, files=files)
    return disk


@contextlib.contextmanager
def ballast(disk: Path, *, leave_bytes: int) -> Iterator[None]:
    """Fills a disk but for some bytes."""
    free = os.statvfs(disk)
    with (disk / "ballast").open("xb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, free.f_bavail * free.f_frsize - leave_bytes))
    try:
        yield
    finally:
        (disk / "ballast").unlink()


@contextlib.contextmanager
def forked(work: Callable[[], Any]) -> Iterator[int]:
    """A child that does the work, waited for; an error in it breaks the situation."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    yield pid
    _, status = os.waitpid(pid, 0)
    if status:
        raise RuntimeError(f"the other process ended with {os.waitstatus_to_exitcode(status)}")


@contextlib.contextmanager
def first_trainer(directory: Path) -> Iterator[int]:
    """Another process with a Keeper in this directory, which saved once; killed at the end."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            with opened(directory) as keeper:
                Training(directory).save(keeper)
                os.write(writing, b"saved")
                signal.pause()
        finally:
            os._exit(1)
    os.close(writing)
    try:
        if os.read(reading, 5) != b"saved":
            raise RuntimeError("the first trainer did not save")
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(reading)


def _saves_without_links(directory: Path) -> None:
    kernel.refuse(kernel.NO_LINKS)
    training = Training(directory)
    with opened(directory) as keeper:
        training.resume(keeper)
        training.save(keeper)
