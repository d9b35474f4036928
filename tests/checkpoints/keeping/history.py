"""What was saved over many runs that were killed, and what must therefore lie in the directory: the judge of every kill."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import checkpoints
from checkpoints.errors import CheckpointError
from tests.checkpoints.keeping.places import LINKS, Contents, Kept, Place, look
from tests.checkpoints.keeping.training import EVERY, NEWEST, TOP, Told, Uninterrupted, metric, wanted

MOST_LEFT = 6
"""Files that one killed save leaves at most: its own unfinished ones, and what it had begun to remove."""
PUSHED_OUT = 2
"""Checkpoints that one save makes superfluous at most: of the newest ones one, and of the best one."""

OPENING = "while it opened: locking, sweeping, resuming"
WRITING = "while a file was written"
BEFORE_SIDECAR = "a checkpoint's files there, its sidecar not"
BEFORE_LATEST = "complete, `latest` still at the one before"
BEFORE_BEST = "`latest` moved, `best` not yet"
PRUNING = "while checkpoints were removed"
BETWEEN = "between two saves: a training step, or the copy of the weights"


@dataclass(slots=True)
class History:
    """Of one directory: grows with each run that was killed."""

    place: Place
    scratch: Path
    expected: Uninterrupted = field(default_factory=Uninterrupted)
    told: set[int] = field(default_factory=set)
    """Steps that a run told to be on the disk."""
    known: set[int] = field(default_factory=set)
    """Those, and all that was ever found complete."""
    newest: int | None = None
    """The newest complete one as it lay there after the last kill."""
    unswept: int = 0
    """Runs in a row, the last one too, that were killed before their Keeper had opened."""
    unpruned: int = 0
    """Runs in a row that were killed before one of their saves was through."""
    equal: set[str] = field(default_factory=set)
    """Hashes of weights that were compared, bit for bit."""
    killed: Counter[str] = field(default_factory=Counter)
    resumed: int = 0
    most_left: int = 0

    def judge(self, told: Told) -> list[str]:
        """Looks at what a run left behind; every fault in words."""
        contents = look(self.place)
        self.told |= told.durable
        self.known |= told.durable | contents.kept.keys()
        self.unswept = 0 if told.opened else self.unswept + 1
        self.unpruned = 0 if told.durable else self.unpruned + 1
        self.killed[_where(told, contents, self.place.unfinished())] += 1
        faults = [*contents.torn, *self._resumed(told), *self._kept(contents), *self._links(contents), *self._left(contents)]
        faults += self._loads(contents)
        self.newest = contents.newest
        self.expected.forget(set(contents.kept))
        return faults

    def judge_end(self, told: Told) -> list[str]:
        """After a run that ended by itself: besides all the above, nothing is left over and nothing more is kept than wanted."""
        faults = self.judge(told)
        contents = look(self.place)
        left = [*contents.temporary, *contents.orphans]
        faults += [f"left over after the end: {left}"] if left else []
        more = contents.kept.keys() - wanted(self.known)
        faults += [f"kept after the end, though no policy wants them: {sorted(more)}"] if more else []
        return faults

    def _resumed(self, told: Told) -> Iterator[str]:
        expected = -1 if self.newest is None else self.newest
        if told.resumed is not None:
            self.resumed += told.resumed >= 0
            if told.resumed != expected:
                yield f"resumed from step {told.resumed}, the newest complete one was {expected}"

    def _kept(self, contents: Contents) -> Iterator[str]:
        lost = wanted(self.known) - contents.kept.keys()
        if lost:
            yield f"lost, though policies keep them: steps {sorted(lost)} of {sorted(self.known)[-20:]}"
        more = contents.kept.keys() - wanted(self.known)
        if len(more) > PUSHED_OUT * (1 + self.unpruned):
            yield f"pile up, though no policy keeps them: steps {sorted(more)}"

    def _links(self, contents: Contents) -> Iterator[str]:
        if not self.told:
            return
        for link in LINKS:
            if link not in contents.links:
                yield f"{link} is not there"
            elif contents.holder(link) is None:
                yield f"{link} leads to {contents.links[link]}, which is not a complete checkpoint"
        latest, best = (contents.holder(link) for link in LINKS)
        if latest and latest.step < max(self.told):
            yield f"latest.pth is step {latest.step}, step {max(self.told)} was on the disk"
        if best and metric(best.step) < max(map(metric, self.told)):
            yield f"best.pth is step {best.step}, though a better one was on the disk: step {max(self.told, key=metric)}"

    def _left(self, contents: Contents) -> Iterator[str]:
        left, unfinished = [*contents.temporary, *contents.orphans], self.place.unfinished()
        self.most_left = max(self.most_left, len(left) + unfinished)
        if len(left) + unfinished > MOST_LEFT * (1 + self.unswept):
            yield f"pile up: {len(left)} files of unfinished saves, {unfinished} uploads: {left}"

    def _loads(self, contents: Contents) -> Iterator[str]:
        local = self.place.local(self.scratch)
        names = {link: holder for link in LINKS if (holder := contents.holder(link))}
        new = {kept.weights: kept for kept in contents.kept.values() if kept.weights not in self.equal}
        for name, kept in (names | new).items():
            fault = self._load(local / name, kept)
            if fault is None:
                self.equal.add(kept.weights)
            else:
                yield fault

    def _load(self, path: Path, kept: Kept) -> str | None:
        """Reads it as the exporter does, and compares it with training that was never interrupted."""
        try:
            tensors = checkpoints.read(path).select(None).tensors
        except CheckpointError as cause:
            return f"{path.name} (step {kept.step}) does not load: {cause}"
        difference = self.expected.differs(kept.step, tensors)
        return (
            f"{path.name} (step {kept.step}) has other weights than training without a kill: {difference}" if difference else None
        )


def _where(told: Told, contents: Contents, unfinished: int) -> str:
    """In the middle of what the run was killed, as far as what it left tells."""
    if told.resumed is None:
        return OPENING
    newest = contents.newest if contents.newest is not None else -1
    if contents.temporary or unfinished:
        return WRITING
    if any(_step(name) > newest for name in contents.orphans):
        return BEFORE_SIDECAR
    latest, best = (contents.holder(link) for link in LINKS)
    if latest is None or latest.step != newest:
        return BEFORE_LATEST if contents.kept else BETWEEN
    if best is None or metric(best.step) < max(map(metric, contents.kept)):
        return BEFORE_BEST
    return PRUNING if contents.orphans or contents.kept.keys() - wanted(set(contents.kept)) else BETWEEN


def _step(name: str) -> int:
    return int(name.removeprefix("step-").split(".")[0].split("-")[0])


POLICIES = f"the {TOP} best, the {NEWEST} newest, every {EVERY}th step"
