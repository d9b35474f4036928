"""Errors of the checkpoints room.

- CheckpointError
  - UnreadableCheckpoint    the bytes are not a checkpoint that we read (exit 3)
  - UnsafeCheckpoint        reading them would run code (exit 4)
  - KeysDoNotMatch          the file's keys or shapes are not the model's (exit 5)
  - AmbiguousWeights        more than one answer fits; a person must choose (exit 6)
  - KeeperError             a checkpoint cannot be kept, or a Keeper was told what it cannot do
    - DirectoryTaken        another trainer keeps its checkpoints in this place
    - NotEnoughSpace        what is about to be written does not fit
    - SaveFailed            a checkpoint was not written, or its links were not; those before it are whole
    - NothingToResume       there are checkpoints, but none of them can be resumed from
"""

from collections.abc import Sequence
from typing import ClassVar

from foundation.errors import StateserveError


class CheckpointError(StateserveError):
    """A checkpoint cannot be used."""


class UnreadableCheckpoint(CheckpointError):
    """The bytes are not a checkpoint that we read: another format, damaged, incomplete, or missing."""

    exit_code: ClassVar[int] = 3


class UnsafeCheckpoint(CheckpointError):
    """Reading the file would run code that it carries or names."""

    exit_code: ClassVar[int] = 4


class KeysDoNotMatch(CheckpointError):
    """The file's keys or shapes are not the model's, under no rewrite that we apply.

    All three are under the rewrite that fits best. `missing` are keys that the model needs and the file lacks. `unexpected` are
    the file's own keys that the model does not have. `mismatched` holds (the model's key, shape in the file, shape in the model).
    """

    exit_code: ClassVar[int] = 5

    def __init__(
        self,
        message: str,
        *,
        missing: Sequence[str] = (),
        unexpected: Sequence[str] = (),
        mismatched: Sequence[tuple[str, tuple[int, ...], tuple[int, ...]]] = (),
    ) -> None:
        super().__init__(message)
        self.missing = tuple(missing)
        self.unexpected = tuple(unexpected)
        self.mismatched = tuple(mismatched)


class AmbiguousWeights(CheckpointError):
    """More than one weight set, or more than one key rewrite, fits; a person must choose."""

    exit_code: ClassVar[int] = 6


class KeeperError(CheckpointError):
    """A checkpoint cannot be kept, or a Keeper was told what it cannot do."""


class DirectoryTaken(KeeperError):
    """Another trainer keeps its checkpoints in this place.

    `host`, `pid` and `since` (UTC, as that trainer's clock said) are those of the other, None where it left no word.
    """

    def __init__(self, message: str, *, host: str | None = None, pid: int | None = None, since: str | None = None) -> None:
        super().__init__(message)
        self.host = host
        self.pid = pid
        self.since = since


class NotEnoughSpace(KeeperError):
    """What is about to be written does not fit; nothing was written. Both figures are bytes."""

    def __init__(self, message: str, *, needed_bytes: int, free_bytes: int) -> None:
        super().__init__(message)
        self.needed_bytes = needed_bytes
        self.free_bytes = free_bytes


class SaveFailed(KeeperError):
    """A checkpoint was not written, or, if the message says so, its links were not; those before it are whole."""


class NothingToResume(KeeperError):
    """There are checkpoints, but none of them can be resumed from; the message says why of each."""
