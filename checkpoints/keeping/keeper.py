"""The Keeper: a few lines in any training loop, and its checkpoints survive.

with Keeper("runs/digits", Best("val_acc", mode="max", top=2), EveryEpochs(5), Last(2), config="digits.yaml") as keeper:
    resumed = keeper.resume(model, optimizer, scheduler)
    for epoch in range(resumed.epoch + 1 if resumed else 0, 30):
        ...
        keeper.save(step, model, optimizer, scheduler, epoch=epoch, metrics={"val_acc": accuracy})
"""

import contextlib
import logging
import os
import secrets
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from checkpoints.errors import KeeperError, NotEnoughSpace, NothingToResume, UnreadableCheckpoint
from checkpoints.keeping.background import Background
from checkpoints.keeping.fence import this_process
from checkpoints.keeping.formats import files_of
from checkpoints.keeping.git import git_state
from checkpoints.keeping.given import given_config, plain_metrics, put_files, whole_number
from checkpoints.keeping.place import Draft, Place, failing, opened, usable
from checkpoints.keeping.policies import Candidate, Last, Moment, Policy, check_policies, is_milestone, wanted_by
from checkpoints.keeping.restore import Restored, restore
from checkpoints.keeping.resumed import Resumed
from checkpoints.keeping.scan import Skipped, scan
from checkpoints.keeping.sidecar import ROLES, Sidecar
from checkpoints.keeping.signals import SignalWatch
from checkpoints.keeping.snapshot import Snapshotter
from checkpoints.keeping.store import open_store
from foundation.differences import differences
from foundation.environment import environment
from foundation.severity import TRAINING

if TYPE_CHECKING:
    import torch

_LOG = logging.getLogger("stateserve.checkpoints")

SPARE_BYTES = 1 << 20
"""What a checkpoint may need beside its tensors: names, the sidecar, a file system's own blocks."""


class Keeper:
    """Keeps a training's checkpoints in a directory, or under a prefix of an object store (`s3://bucket/runs/digits`).

    Without a policy the last three are kept. `config` is the model's YAML (then an export needs nothing but the checkpoint), or
    any mapping of plain values. `format` is "safetensors" (weights in a file of their own) or "pth" (one file with all).
    `warm_start` are reports of `warm_start`, which every checkpoint then carries. With `background=False` a save returns when it
    is on the disk. With `save_on_signals=True` SIGTERM and SIGINT end the training at its next save, after that was written; a
    second one ends it at once. With `dry_run=True` nothing is removed, and `would_remove` says what would be.

    Where a training has several processes (torch.distributed, or RANK in the environment), only rank 0 writes; the others read.

    Raises DirectoryTaken where another trainer keeps its checkpoints there, KeeperError where the place or an argument does not
    fit.
    """

    def __init__(  # noqa: PLR0913 - one keyword per choice of a person
        self,
        directory: str | Path,
        *policies: Policy,
        config: str | Path | Mapping[str, Any] | None = None,
        format: Literal["safetensors", "pth"] = "safetensors",  # noqa: A002 - what it is called in every file
        warm_start: Any = (),
        background: bool = True,
        save_on_signals: bool = False,
        dry_run: bool = False,
    ) -> None:
        check_policies(policies)
        if format not in ROLES:
            raise KeeperError(f"format is {format!r}, expected one of {', '.join(map(repr, sorted(ROLES)))}.")
        self._policies: tuple[Policy, ...] = policies or (Last(3),)
        self._format = format
        self._in_background = background
        self._given = given_config(config)
        self._reports = _reports(warm_start)
        self._background = Background()
        self._snapshotter = Snapshotter(format)
        self._environment: Mapping[str, Any] | None = None
        self._pending: Draft | None = None
        self._owed: frozenset[str] = frozenset()
        self._before = _start(self._policies)
        self._rank = _rank()
        self._pid = os.getpid()
        self._closed = False
        self._stack = contextlib.ExitStack()
        self._store = open_store(directory)
        self._git = git_state() if self._rank == 0 else None
        try:
            self._place = self._hold(dry_run=dry_run) if self._rank == 0 else None
            self._watch = SignalWatch() if save_on_signals else None
        except BaseException:
            self._stack.close()
            raise

    def save(  # noqa: PLR0913 - what a training has
        self,
        step: int,
        model: "torch.nn.Module",
        optimizer: Any = None,
        scheduler: Any = None,
        scaler: Any = None,
        *,
        epoch: int | None = None,
        metrics: Mapping[str, Any] | None = None,
        config: str | Path | Mapping[str, Any] | None = None,
        extra: Mapping[str, Any] | None = None,
        force: bool = False,
    ) -> bool:
        """Save if a policy wants it or it is forced; whether it was. Returns when all is copied; it is written meanwhile.

        `epoch` (from 0 on) belongs to the save at an epoch's end. `extra` are plain values, tensors, or objects with `state_dict`
        and `load_state_dict` (an EMA model, a dataloader). `config` is for this checkpoint in place of the Keeper's.

        A save that is still being written is waited for. What went wrong with it is raised here, and then this one is not saved:
        SaveFailed, DirectoryTaken. Raises NotEnoughSpace before anything is written, KeeperError for what cannot be saved.
        """
        self._check_open()
        moment = self._moment(whole_number("step", step), None if epoch is None else whole_number("epoch", epoch), metrics)
        ending = self.ending
        saved = False
        if self._place is not None:
            if not self._background.busy:
                self._background_done()
            labels = wanted_by(self._policies, moment, self._candidates())
            if labels or self._owed or force or ending:
                self._background_done()
                self._start(self._draft(moment, labels, config, (model, optimizer, scheduler, scaler, extra)))
                saved = True
            self._before = _after(moment, labels)
        if ending:
            self.close()
        return saved

    def resume(
        self,
        model: "torch.nn.Module",
        optimizer: Any = None,
        scheduler: Any = None,
        scaler: Any = None,
        *,
        extra: Mapping[str, Any] | None = None,
    ) -> Resumed | None:
        """Go on from the newest complete checkpoint: everything given gets its saved state, and so do the random numbers.

        Damaged ones are passed over for the next older, which is said in `Resumed.skipped` and logged. None where nothing was
        saved.

        Raises NothingToResume where something was saved and nothing of it can be read; KeysDoNotMatch where the model is another.
        Then nothing was changed in any object.
        """
        self._check_open()
        self._background_done()
        with usable(self._store):
            found = self._place.refresh() if self._place is not None else scan(self._store)
        skipped = list(found.skipped)
        for sidecar in reversed(found.complete):
            try:
                restored = restore(self._store, sidecar, model, optimizer, scheduler, scaler, extra, rank=self._rank)
            except UnreadableCheckpoint as error:
                skipped.append(Skipped(sidecar.name, str(error)))
                if self._place is not None:
                    self._place.pass_over(sidecar)
                continue
            self._before = _before(self._before, sidecar, found.complete)
            return self._resumed(sidecar, restored, skipped)
        if skipped:
            raise NothingToResume(_nothing(self._store.where, skipped))
        return None

    @property
    def ending(self) -> bool:
        """Whether a signal asked for the end: the next save is written whatever the policies say, and ends the training.

        For a loop that offers saves rarely, and may offer one now.
        """
        return self._watch is not None and self._watch.received is not None

    @property
    def would_remove(self) -> tuple[str, ...]:
        """The files that no policy keeps: what the next save would remove, if it were not a dry run."""
        self._check_open()
        self._background_done()
        if self._place is None:
            return ()
        with usable(self._store):
            removable = self._place.removable()
        return tuple(name for sidecar in removable for name in (sidecar.name, *sidecar.files))

    def flush(self) -> None:
        """Wait until everything that was saved is on the disk. Raises what went wrong with it."""
        self._check_open()
        self._background_done()

    def close(self) -> None:
        """Flush, and let the place go; a second call does nothing. A signal that no save has answered yet takes effect now."""
        if self._closed or os.getpid() != self._pid:  # a forked child has the object, not what it holds
            return
        self._closed = True
        with self._stack:
            if self._watch is not None:
                self._stack.callback(self._watch.restore)
            self._background_done()
        if self._watch is not None:
            self._watch.end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is not None and self._watch is not None:
            self._watch.received = None  # the training ends by its own error
        try:
            self.close()
        except Exception as failed:
            if error is None:
                raise
            error.add_note(f"Beside this, a checkpoint was not written: {failed}")
            _LOG.error("A checkpoint was not written: %s", failed)

    def _hold(self, *, dry_run: bool) -> Place:
        run = secrets.token_hex(8)
        with usable(self._store):
            self._stack.enter_context(self._store.hold(this_process(run).fields()))
            place = opened(self._store, run, self._policies, dry_run=dry_run)
            put_files(self._store, self._given)
        return place

    def _moment(self, step: int, epoch: int | None, metrics: Mapping[str, Any] | None) -> Moment:
        return replace(self._before, step=step, epoch=epoch, metrics=plain_metrics(metrics), seconds=time.monotonic())

    def _candidates(self) -> Sequence[Candidate]:
        pending = self._pending if self._background.busy else None  # asked first: it may be complete a moment later
        complete = self._place.complete if self._place is not None else ()
        if pending is None or any(sidecar.sequence == pending.sequence for sidecar in complete):
            return complete
        return (*complete, pending)

    def _draft(self, moment: Moment, labels: tuple[str, ...], config: Any, objects: tuple[Any, ...]) -> Draft:
        given = self._given if config is None else given_config(config)
        if config is not None:
            with failing(moment.step, self._store):
                put_files(self._store, given)
        with failing(moment.step, self._store):
            free_bytes = self._store.free_bytes()
        gathered = self._snapshotter.gather(*objects)
        _check_space(self._store.where, gathered.size_bytes + SPARE_BYTES, free_bytes)
        snapshot = gathered.copy()
        format = self._format  # noqa: A001 - what it is called in every file
        return Draft(
            step=moment.step,
            epoch=moment.epoch,
            sequence=self._next_sequence(),
            format=format,
            files=lambda stem, facts: files_of(snapshot, stem, format, facts),
            metrics=moment.metrics,
            kept_by=tuple(sorted({*labels, *self._owed})),
            config=given.config,
            git=self._git,
            warm_start=self._reports,
        )

    def _next_sequence(self) -> int:
        complete = self._place.complete if self._place is not None else ()
        return 1 + max((sidecar.sequence for sidecar in complete), default=0)

    def _start(self, draft: Draft) -> None:
        self._pending, self._owed = draft, frozenset()
        self._background.start(lambda: self._write(draft))
        if not self._in_background:
            self._background_done()

    def _write(self, draft: Draft) -> None:
        if self._place is not None:
            if self._environment is None:
                self._environment = environment()
            self._place.write(replace(draft, environment=self._environment))

    def _background_done(self) -> None:
        pending = self._pending
        try:
            self._background.wait()
        except Exception:
            if pending is not None and not self._is_complete(pending):  # kept for good is then the next save in its place
                self._owed = frozenset(filter(is_milestone, pending.kept_by))
            raise
        self._pending = None

    def _is_complete(self, draft: Draft) -> bool:
        complete = self._place.complete if self._place is not None else ()
        return any(sidecar.step == draft.step and sidecar.sequence >= draft.sequence for sidecar in complete)

    def _resumed(self, sidecar: Sidecar, restored: Restored, skipped: Sequence[Skipped]) -> Resumed:
        for passed in skipped:
            _LOG.warning("%s was passed over: %s", passed.name, passed.reason)
        _LOG.info("Resumed from %s in %s: step %d.", sidecar.weights, self._store.where, sidecar.step)
        self._reports = (*sidecar.warm_start, *(report for report in self._reports if report not in sidecar.warm_start))
        return Resumed(
            step=sidecar.step,
            epoch=sidecar.epoch,
            name=sidecar.weights,
            metrics=sidecar.metrics,
            config=sidecar.config,
            extra=restored.extra,
            skipped=tuple(skipped),
            notes=(*restored.notes, *_elsewhere(sidecar, self._git)),
        )

    def _check_open(self) -> None:
        if self._closed:
            raise KeeperError("The Keeper is closed; make a new one to go on.")
        if os.getpid() != self._pid:
            raise KeeperError("This process was forked from the one that made the Keeper, which alone can use it.")


def _start(policies: Sequence[Policy]) -> Moment:
    now = time.monotonic()
    return Moment(step=0, epoch=None, metrics={}, seconds=now, seconds_before={policy.label: now for policy in policies})


def _after(moment: Moment, labels: Sequence[str]) -> Moment:
    """What the next save sees as the one before."""
    epoch_before = moment.epoch_before if moment.epoch is None else moment.epoch
    seconds_before = {**moment.seconds_before, **dict.fromkeys(labels, moment.seconds)}
    return replace(moment, step_before=moment.step, epoch_before=epoch_before, seconds_before=seconds_before)


def _before(moment: Moment, resumed: Sidecar, complete: Sequence[Sidecar]) -> Moment:
    """What the first save after a resume sees as the one before; in the middle of an epoch, the last epoch that was saved."""
    epochs = [sidecar.epoch for sidecar in complete if sidecar.epoch is not None and sidecar.sequence <= resumed.sequence]
    epoch = resumed.epoch if resumed.epoch is not None else max(epochs, default=-1)
    return replace(moment, step_before=resumed.step, epoch_before=epoch)


def _rank() -> int:
    """This process's place among those of a training; 0 where it is the only one.

    RANK decides where a launcher set it; some set only a process's place on its machine, and the machine's, or a job scheduler's.
    """
    torch = sys.modules.get("torch")
    if torch is not None and torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank()
    names = ("RANK",) if "RANK" in os.environ else ("LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID")
    ranks = {name: int(os.environ[name]) for name in names if os.environ.get(name, "").isdecimal()}
    if [name for name, rank in ranks.items() if rank] == ["SLURM_PROCID"]:  # it may well be one of several trainings
        _LOG.warning("SLURM_PROCID is %s: this process writes no checkpoints. RANK=0 says otherwise.", os.environ["SLURM_PROCID"])
    return max(ranks.values(), default=0)


def _check_space(where: str, needed_bytes: int, free_bytes: int | None) -> None:
    if free_bytes is not None and needed_bytes > free_bytes:
        raise NotEnoughSpace(
            f"{where} has {free_bytes} bytes free; this checkpoint needs about {needed_bytes}. "
            "Nothing was written. Make room, or keep fewer: the new one is written before an old one is removed.",
            needed_bytes=needed_bytes,
            free_bytes=free_bytes,
        )


def _elsewhere(sidecar: Sidecar, git: Mapping[str, Any] | None) -> tuple[str, ...]:
    """What is different here from where the checkpoint was saved and changes a training's numbers, the worst first."""
    there, here = dict(sidecar.environment), environment()
    if sidecar.git is not None and git is not None:
        there, here = {**there, "git": sidecar.git}, {**here, "git": git}
    return tuple(str(difference) for difference in differences(there, here) if TRAINING in difference.concerns)


def _reports(warm_start: Any) -> tuple[Mapping[str, Any], ...]:
    several = warm_start if isinstance(warm_start, list | tuple) else (warm_start,)
    return tuple(report if isinstance(report, Mapping) else report.facts() for report in several)


def _nothing(where: str, skipped: Sequence[Skipped]) -> str:
    lines = [f"  {passed.name}: {passed.reason}" for passed in skipped]
    return "\n".join(
        [
            f"{where} has checkpoints, and none of them can be resumed from:",
            *lines,
            "To start afresh, move them away or name another directory.",
        ]
    )
