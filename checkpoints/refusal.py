"""The refusal: the error for what was recognised and is not read."""

from pathlib import Path

from checkpoints.errors import CheckpointError, UnreadableCheckpoint, UnsafeCheckpoint
from checkpoints.kinds import Kind, Recognised
from checkpoints.pickles import scan_pickle
from foundation.pt2 import pt2_pickles

UNSAFE_KINDS = frozenset({Kind.PICKLE, Kind.TORCH_TAR, Kind.DCP_FOLDER})
"""Kinds that only an unrestricted unpickler reads."""

MAX_NAMED_BYTES = 64_000_000
"""A larger plain pickle is refused without a list of what it names."""


def refusal(found: Recognised) -> CheckpointError:
    """UnsafeCheckpoint where reading it would run code, else UnreadableCheckpoint; both say what it is and what to do."""
    name, detail = found.path.name or str(found.path.resolve()), ""
    error: type[CheckpointError] = UnsafeCheckpoint if found.kind in UNSAFE_KINDS else UnreadableCheckpoint
    if found.kind is Kind.PT2 and (pickles := pt2_pickles(found.path)):
        error, detail = UnsafeCheckpoint, f"; loading it would unpickle {', '.join(pickles[:3])}"
    if found.kind is Kind.PICKLE and found.size_bytes <= MAX_NAMED_BYTES and (named := _named_by_pickle(found.path)):
        detail = f"; it names {', '.join(named[:3])}"
    return error(f"{name} is {found.summary}{detail}. {found.remedy}")


def _named_by_pickle(path: Path) -> tuple[str, ...]:
    try:
        return scan_pickle(path.read_bytes()).unsafe
    except UnreadableCheckpoint:  # cut off: it is refused as a pickle all the same
        return ()
