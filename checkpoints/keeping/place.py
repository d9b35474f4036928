"""A place in a Keeper's hands: claimed, swept, written to, pruned. Everything here may wait for a disk or a network."""

import contextlib
import errno
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from checkpoints.errors import KeeperError, SaveFailed
from checkpoints.keeping.fence import Owner, check_fence, claim, read_fence, this_process, utc_now
from checkpoints.keeping.names import BEST, LATEST, best_link, free_stem
from checkpoints.keeping.policies import Best, Policy, kept
from checkpoints.keeping.scan import Found, scan
from checkpoints.keeping.sidecar import KeptFile, Sidecar
from foundation.errors import StateserveError

if TYPE_CHECKING:
    from checkpoints.keeping.formats import FileToWrite
    from checkpoints.keeping.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A checkpoint that is to be written: `files` gives its files for a stem, `sequence` is what it is expected to get."""

    step: int
    epoch: int | None
    sequence: int
    format: str
    files: "Callable[[str, Mapping[str, Any]], Sequence[FileToWrite]]"
    metrics: Mapping[str, float] = field(default_factory=dict)
    kept_by: tuple[str, ...] = ()
    config: Mapping[str, Any] | None = None
    environment: Mapping[str, Any] = field(default_factory=dict)
    git: Mapping[str, Any] | None = None
    warm_start: tuple[Mapping[str, Any], ...] = ()


class Place:
    """What one Keeper knows of the place that it holds. One thread at a time."""

    def __init__(self, store: "Store", owner: Owner, policies: Sequence[Policy], found: Found, *, dry_run: bool) -> None:
        self._store = store
        self._owner = owner
        self._policies = policies
        self._dry_run = dry_run
        self._damaged: frozenset[str] = frozenset()
        self._known: dict[str, Sidecar] = {}
        self._best_links = _best_links(policies)
        self.complete: tuple[Sidecar, ...] = ()
        self._remember(found)

    def write(self, draft: Draft) -> Sidecar:
        """Write a checkpoint: its files, its sidecar, the links, and then remove what no policy keeps.

        Raises DirectoryTaken where another trainer took over, SaveFailed where the checkpoint could not be written.
        """
        with failing(draft.step, self._store):
            check_fence(self._store, self._owner)
            self._remember(scan(self._store, self._known))
            written = self._write_files(draft)
        self._known[written.name] = written
        self.complete = (*self.complete, written)
        with failing(draft.step, self._store, "is complete, but the links and the removal of older ones failed"):
            check_fence(self._store, self._owner)
            self.point()
            self.prune()
        return written

    def point(self) -> None:
        """Let latest.pth name the newest, and best.pth (and its sisters) the best."""
        if self.complete:
            self._point(LATEST, self.complete[-1])
        for link, policy in self._best_links.items():
            ranked = policy.ranked(self.complete)
            if ranked:
                self._point(link, ranked[0])

    def prune(self) -> None:
        """Remove the checkpoints that no policy keeps, each one's sidecar first; in a dry run nothing."""
        for sidecar in () if self._dry_run else self.removable():
            for name in (sidecar.name, *sidecar.files):
                self._store.remove(name)
            self._known.pop(sidecar.name, None)
            self.complete = tuple(other for other in self.complete if other.stem != sidecar.stem)

    def removable(self) -> tuple[Sidecar, ...]:
        """The checkpoints that no policy keeps, and that no link here names, the oldest first."""
        stay = kept(self._policies, self.complete)
        named = {self._store.pointed(link) for link in self._store.links()}
        return tuple(
            sidecar
            for sidecar in self.complete
            if sidecar.sequence not in stay and named.isdisjoint((sidecar.name, *sidecar.files))
        )

    def refresh(self) -> Found:
        """Look again at what is there."""
        found = scan(self._store, self._known)
        self._remember(found)
        return found

    def pass_over(self, sidecar: Sidecar) -> None:
        """From now on this one is damaged: never best, never removed."""
        self._damaged |= {sidecar.stem}
        self.complete = tuple(other for other in self.complete if other.stem not in self._damaged)

    def _remember(self, found: Found) -> None:
        self._known = {sidecar.name: sidecar for sidecar in found.complete}
        self.complete = tuple(sidecar for sidecar in found.complete if sidecar.stem not in self._damaged)
        self._taken = found.taken
        self._newest = found.complete[-1].sequence if found.complete else 0

    def _write_files(self, draft: Draft) -> Sidecar:
        stem = free_stem(draft.step, self._taken)
        sequence = max(draft.sequence, self._newest + 1)
        facts = {
            "step": draft.step,
            "epoch": draft.epoch,
            "metrics": dict(draft.metrics),
            "config": draft.config,
            "run": self._owner.run,
            "sequence": sequence,
        }
        files: dict[str, KeptFile] = {}
        with self._undone() as begun:
            for file in draft.files(stem, facts):
                begun.append(file.name)
                written = self._store.write(file.name, file.produce)
                files[file.name] = KeptFile(file.role, written.size, written.sha256)
            sidecar = self._sidecar(draft, stem, sequence, files)
            raw = sidecar.encode()
            check_fence(self._store, self._owner)
            begun.append(sidecar.name)
            self._store.write(sidecar.name, lambda stream: _write_all(stream, raw))
        return sidecar

    @contextlib.contextmanager
    def _undone(self) -> Iterator[list[str]]:
        """On an error the files whose writing was begun are removed, the last first.

        Over a network one may have arrived though its answer was lost. A file that was there already is another trainer's.
        """
        begun: list[str] = []
        try:
            yield begun
        except BaseException as error:
            for name in reversed(begun[:-1] if isinstance(error, FileExistsError) else begun):
                with contextlib.suppress(OSError, StateserveError):  # the next Keeper sweeps it
                    self._store.remove(name)
            if isinstance(
                error, FileNotFoundError
            ):  # a newer trainer may have swept what this one was writing: then that is said
                with contextlib.suppress(OSError):
                    check_fence(self._store, self._owner)
            raise

    def _sidecar(self, draft: Draft, stem: str, sequence: int, files: Mapping[str, KeptFile]) -> Sidecar:
        return Sidecar(
            stem=stem,
            step=draft.step,
            epoch=draft.epoch,
            sequence=sequence,
            run=self._owner.run,
            saved_at=utc_now(),
            format=draft.format,
            files=files,
            metrics=draft.metrics,
            kept_by=draft.kept_by,
            config=draft.config,
            environment=draft.environment,
            git=draft.git,
            warm_start=draft.warm_start,
        )

    def _point(self, link: str, sidecar: Sidecar) -> None:
        if self._store.pointed(link) != sidecar.weights:
            self._store.point(link, sidecar.weights)


@contextlib.contextmanager
def failing(step: int, store: "Store", what: str = "was not written") -> Iterator[None]:
    """Whatever a place or a library fails with becomes a SaveFailed that says of which step, where and why."""
    try:
        yield
    except StateserveError:
        raise
    except Exception as error:
        raise SaveFailed(f"The checkpoint of step {step} {what} in {store.where}: {_reason(error)}. {_remedy(error)}") from error


@contextlib.contextmanager
def usable(store: "Store") -> Iterator[None]:
    """Where a place cannot be looked at or written, that becomes a KeeperError that says which and why."""
    try:
        yield
    except OSError as error:
        raise KeeperError(
            f"{store.where} cannot be used for checkpoints: {_reason(error)}. "
            "A Keeper reads, writes and removes files there: allow it, or name another directory."
        ) from error


def _reason(error: Exception) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else f"{type(error).__name__}: {error}"


def _best_links(policies: Sequence[Policy]) -> dict[str, Best]:
    """best.pth for the first policy about the best; for those of other metrics (or the other mode) one of their own each."""
    found: dict[str, Best] = {}
    first: Best | None = None
    for policy in policies:
        if isinstance(policy, Best):
            first = first or policy
            same = (policy.metric, policy.mode) == (first.metric, first.mode)
            found.setdefault(BEST if same else best_link(policy.metric), policy)
    return found


def _write_all(stream: Any, raw: bytes) -> None:
    stream.write(raw)


def _remedy(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "Was the directory removed? Checkpoints that were in it are gone; make it again, or name another."
    return "The checkpoints before it are as they were."


def opened(store: "Store", run: str, policies: Sequence[Policy], *, dry_run: bool) -> Place:
    """Take over a place that is already held: remove what killed writes left, put up the fence, mend the links.

    Files that lay there before any Keeper came are never taken for leftovers, whatever their names.

    Raises KeeperError where best.pth or latest.pth is a file of its own, or where the place cannot be used.
    """
    with usable(store):
        before = read_fence(store)
        found = scan(store)
        strangers = before.strangers if before is not None else found.orphans
        owner = this_process(run, strangers)
        _check_links(store, policies)
        _claim(store, owner, dry_run=dry_run)
        if not dry_run:
            found = _swept(store, strangers)
        place = Place(store, owner, policies, found, dry_run=dry_run)
        place.point()
    return place


def _claim(store: "Store", owner: Owner, *, dry_run: bool) -> None:
    """Put up the fence. Where the disk is full of what a killed write left, that is swept before it, else after it."""
    try:
        claim(store, owner)
    except OSError as error:
        if dry_run or error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        _swept(store, owner.strangers)
        claim(store, owner)


def _swept(store: "Store", strangers: Sequence[str]) -> Found:
    """Remove what killed writes and half-done removals left; after the claim, so that no trainer goes on with what is removed."""
    store.sweep()
    found = scan(store)
    for name in sorted(set(found.orphans) - set(strangers)):
        store.remove(name)
    return found


def _check_links(store: "Store", policies: Sequence[Policy]) -> None:
    sizes = store.sizes()
    for link in (LATEST, *_best_links(policies)):
        if link in sizes:
            raise KeeperError(
                f"{store.where} has a file {link}; a Keeper's {link} is a link, and does not replace a file that holds weights. "
                f"Move {link} away, or keep in a directory of its own."
            )
