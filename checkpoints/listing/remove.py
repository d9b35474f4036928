"""Carrying out a plan: each checkpoint goes whole, and what changed since the look stays."""

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from checkpoints.errors import KeeperError
from checkpoints.keeping.fence import this_process
from checkpoints.keeping.store import Store, open_store
from checkpoints.listing.entry import Entry
from checkpoints.listing.kept import remove_kept
from checkpoints.listing.plan import Plan
from foundation.storage import TEMPORARY_PREFIX, fsync_directory

PRUNED_PREFIX = f"{TEMPORARY_PREFIX}pruned-"
"""A folder is renamed to such a name before its files go, so that nobody takes half of it for a checkpoint."""


class PruneFailed(KeeperError):
    """A checkpoint could not be removed; those after it are still there."""


def carry_out(plan: Plan) -> tuple[str, ...]:
    """Remove what the plan lets go, the oldest first; the names of those that stayed since they changed after the look.

    Raises DirectoryTaken where a Keeper's training is at work there, PruneFailed where the file system refuses.
    """
    changed, folder = [], Path(plan.listing.where)
    with _held(plan) as store:
        for entry in plan.goes:
            try:
                gone = remove_kept(store, entry) if store and entry.layout == "keeper" else _remove(folder, entry)
            except OSError as error:
                raise PruneFailed(
                    f"{entry.name} in {plan.listing.where} cannot be removed: {error.strerror or error}. "
                    "What was to go after it is still there."
                ) from error
            if not gone:
                changed.append(entry.name)
    return tuple(changed)


@contextlib.contextmanager
def _held(plan: Plan) -> Iterator[Store | None]:
    """The place of a Keeper's checkpoints, locked against a training; None where the plan removes none of a Keeper's."""
    if not any(entry.layout == "keeper" for entry in plan.goes):
        yield None
        return
    store = open_store(plan.listing.where)
    with store.hold(this_process(f"prune-{secrets.token_hex(4)}").fields()):
        yield store


def _remove(folder: Path, entry: Entry) -> bool:
    path = folder / entry.name
    try:
        if path.lstat().st_mtime != entry.written_s or path.is_symlink():
            return False
        if entry.folder:
            _sweep(folder)
            gone = folder / f"{PRUNED_PREFIX}{entry.name}-{secrets.token_hex(8)}"
            path.rename(gone)
            fsync_directory(folder)
            shutil.rmtree(gone)
        else:
            path.unlink()
        fsync_directory(folder)
    except FileNotFoundError:  # somebody else removed it
        return True
    return True


def _sweep(folder: Path) -> None:
    """Removes what a killed prune left; no checkpoint has such a name."""
    for name in os.listdir(folder):  # noqa: PTH208 (the names alone)
        if name.startswith(PRUNED_PREFIX):
            shutil.rmtree(folder / name, ignore_errors=True)
