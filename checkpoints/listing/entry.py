"""One checkpoint of a folder, and all that a look into the folder found."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A checkpoint: a file, a folder, or a Keeper's files of one stem.

    `files` is what is removed with it, in that order; with `folder` the one name is a folder. `series` is what it belongs to:
    only checkpoints of one series are compared. `sequence` is a Keeper's. `number` is a number of the name that is neither step
    nor epoch. `order_from` says where step and epoch come from: "name", "content" or "sidecar", None where nothing says them.
    `is_shared`: the same bytes have another name too (a hard link), so that nothing is freed when this one goes.
    `written_s` is when it was last written, in seconds since 1970, as the file system says.
    `protected` are reasons why it stays whatever policies say; `damaged` is why it is no whole checkpoint.
    """

    name: str
    layout: str
    files: tuple[str, ...]
    folder: bool = False
    size_bytes: int
    is_shared: bool = False
    written_s: float | None = None
    series: str
    sequence: int | None = None
    step: int | None = None
    epoch: int | None = None
    number: int | None = None
    version: int = 0
    order_from: str | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    kept_by: tuple[str, ...] = ()
    protected: tuple[str, ...] = ()
    damaged: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """A folder: its checkpoints, series by series, the oldest first; its links; how many other things; what a person should know.

    `links` is link or pointer -> the name that it points to. `others` are names that are no checkpoints, which nothing touches.
    """

    where: str
    entries: tuple[Entry, ...]
    links: Mapping[str, str]
    others: tuple[str, ...]
    notes: tuple[str, ...] = ()
