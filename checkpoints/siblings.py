"""Siblings: the whole checkpoint that a person can take instead of a damaged one."""

from pathlib import Path

from checkpoints.errors import CheckpointError
from checkpoints.keeping.names import STATE_SUFFIX, stem_of
from checkpoints.kinds import Kind
from checkpoints.safetensors_header import read_header
from checkpoints.torch_file import scan_torch_file

MAX_TRIED = 20
"""The newest files of the folder are tried, no more: a scan reads every pickle."""


def newest_whole_sibling(path: Path) -> Path | None:
    """The most recently written checkpoint file in the same folder that is whole and safe, if there is one.

    Tables of contents, pickles and sizes are checked, the tensors' bytes are not.
    """
    try:
        beside = [one for one in path.parent.iterdir() if one.is_file() and one.name != path.name and not _is_state(one.name)]
        newest_first = sorted(beside, key=lambda one: one.stat().st_mtime_ns, reverse=True)
        return next((one for one in newest_first[:MAX_TRIED] if _is_whole(one)), None)
    except OSError:
        return None


def name_sibling(path: Path) -> str:
    """A sentence that names the newest whole checkpoint beside a damaged one."""
    sibling = newest_whole_sibling(path)
    return f"The newest whole checkpoint beside it is {sibling.name}." if sibling else "No whole checkpoint stands beside it."


def _is_state(name: str) -> bool:
    """Whether a Keeper's name says that the file holds a training's state and no weights."""
    return name.endswith(STATE_SUFFIX) and stem_of(name) is not None


def _is_whole(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(9)
    try:
        if head.startswith(b"PK\x03\x04"):
            scan_torch_file(path, Kind.TORCH_ZIP)
        elif head.startswith(b"\x80"):
            scan_torch_file(path, Kind.TORCH_LEGACY)
        elif head[8:] == b"{":
            read_header(path)
        else:
            return False
    except CheckpointError:
        return False
    return True
