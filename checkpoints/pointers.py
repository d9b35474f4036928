"""Pointers: a Keeper's best.pth and latest.pth, links or, where links do not work, small files that name the one beside."""

import re
from pathlib import Path
from typing import Final

from checkpoints.errors import UnreadableCheckpoint
from checkpoints.keeping.names import stem_of

HEAD: Final = b"stateserve-pointer 1\n"
"""What every pointer begins with; then comes the name, and a line's end."""

LARGEST_POINTER_BYTES: Final = 4096

_NAME: Final = re.compile(r"[^/\\\x00-\x1f\x7f]{1,255}")


def pointer_text(name: str) -> bytes:
    """The bytes of a pointer to the file `name` beside it; ValueError where that is not a file's name."""
    data = HEAD + name.encode(errors="replace") + b"\n"
    if pointed_name(data) != name:
        raise ValueError(f"{name!r} is not the name of a file beside a pointer")
    return data


def pointed_name(data: bytes) -> str | None:
    """The name that a pointer's bytes hold; None where they are not a pointer, or one to something else than a file beside it."""
    if not data.startswith(HEAD) or not data.endswith(b"\n"):
        return None
    try:
        name = data[len(HEAD) : -1].decode()
    except UnicodeDecodeError:
        return None
    return name if _NAME.fullmatch(name) and name not in {".", ".."} else None


def followed(path: Path) -> Path:
    """The checkpoint's file that a Keeper's link or pointer leads to; the path itself where it is neither.

    A pointer leads to a checkpoint's file beside it and nowhere else: never to another pointer, never along a link.

    Raises UnreadableCheckpoint where a pointer's text is damaged, or leads elsewhere; OSError where it cannot be read.
    """
    file = path.resolve() if path.is_symlink() else path
    if stem_of(file.name) is not None:
        return file
    data = _head(file)
    if not data.startswith(HEAD):
        return path
    name = pointed_name(data)
    if name is None or stem_of(name) is None or file.with_name(name).is_symlink():
        raise UnreadableCheckpoint(
            f"{path.name} is a Keeper's pointer, but names no checkpoint beside it: {_shown(data)}. Give the checkpoint itself."
        )
    return file.with_name(name)


def _head(file: Path) -> bytes:
    if not file.is_file():
        return b""
    with file.open("rb") as opened:
        return opened.read(LARGEST_POINTER_BYTES + 1)


def _shown(data: bytes) -> str:
    text = data[len(HEAD) :].decode("utf-8", "backslashreplace").strip()
    return repr(text if len(text) <= 80 else text[:80] + "…")
