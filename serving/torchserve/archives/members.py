"""The members of a model archive, none of which is trusted: what a path, a size and a number of them may be.

A member that is let through has a plain relative path, is a file or a folder and stands there once; together they are no larger
than their archive can honestly mean. The readers are `zipped.py`, `tarred.py` and `folder.py`; `mar.py` writes.
"""

import unicodedata
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import IO, NoReturn

from serving.torchserve.errors import InvalidModelException

MAX_MEMBERS = 10_000
MAX_LEVELS = 32
MAX_PATH_BYTES = 1024
MAX_NAME_BYTES = 255
MAX_RATIO = 100
"""How many bytes an archive may unpack to for each of its own: weights hardly shrink, bombs do a thousandfold."""
ALWAYS_ALLOWED_BYTES = 256 << 20
"""What any archive may unpack to, however small it is."""

_UNPRINTABLE = frozenset({"Cc", "Cs", "Zl", "Zp"})


@dataclass(frozen=True, slots=True)
class Member:
    """A file, or a folder, which has no size. `name` is as the archive has it, `parts` are what it means below its root."""

    name: str
    size_bytes: int | None
    open: Callable[[], AbstractContextManager[IO[bytes]]]
    parts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Contents:
    """An archive's members in its order; those of a tar file are read as they come. Together they have `limit_bytes`, at most."""

    members: Iterable[Member]
    limit_bytes: int


def refuse(archive: str, why: str) -> NoReturn:
    """Raises InvalidModelException. `why` says what is wrong, and what to do."""
    raise InvalidModelException(f"{archive} is refused: {why}")


def refuse_kind(archive: str, name: str, kind: str) -> NoReturn:
    """Raises InvalidModelException: the member is a link, a device, or something else that is no file and no folder."""
    refuse(
        archive, f"the member {_shown(name)} is {kind}. Only files and folders are unpacked: put the file itself in its place."
    )


def refuse_bomb(archive: str, limit_bytes: int) -> NoReturn:
    """Raises InvalidModelException: the members are together larger than `limit_bytes`."""
    refuse(
        archive,
        f"it would unpack to more than {limit_bytes} bytes, which is {MAX_RATIO} times its own size or {ALWAYS_ALLOWED_BYTES}. "
        "If that is meant, pack it with --archive-format zip-store.",
    )


def refuse_number(archive: str) -> NoReturn:
    """Raises InvalidModelException: there are more than `MAX_MEMBERS`."""
    refuse(archive, f"it has more than {MAX_MEMBERS} members. Put many small files into one, or install them as a package.")


def limit_bytes(size_bytes: int) -> int:
    """What an archive of this size may unpack to."""
    return max(ALWAYS_ALLOWED_BYTES, MAX_RATIO * size_bytes)


def checked(archive: str, members: Iterable[Member]) -> Iterator[Member]:
    """The members, each with its parts, once its path is known to be safe and no other member's.

    Raises:
        InvalidModelException: a path is unsafe, stands there twice, or is a file's and a folder's; or there are too many.
    """
    files: set[str] = set()
    folders: set[str] = set()
    for number, member in enumerate(members, start=1):
        if number > MAX_MEMBERS:
            refuse_number(archive)
        parts = _parts(archive, member)
        *above, own = ["/".join(parts[:level]) for level in range(1, len(parts) + 1)]
        if own in files:
            refuse(archive, f"the member {_shown(member.name)} stands in it twice. Remove one of the two.")
        if (member.size_bytes is not None and own in folders) or not files.isdisjoint(above):
            refuse(archive, f"the member {_shown(member.name)} is, or is below, a file and a folder of one name. Rename one.")
        (folders if member.size_bytes is None else files).add(own)
        folders.update(above)
        yield replace(member, parts=parts)


def _parts(archive: str, member: Member) -> tuple[str, ...]:
    """What the member's path consists of: names below the folder that the archive is unpacked to."""
    parts = tuple((member.name.removesuffix("/") if member.size_bytes is None else member.name).split("/"))
    if (why := _unsafe(member.name, parts)) is not None:
        refuse(archive, f"the member {_shown(member.name)} {why}. Pack it under a plain path below the archive's own folder.")
    return parts


def _unsafe(name: str, parts: tuple[str, ...]) -> str | None:
    has_drive = len(name) > 1 and name[0].isascii() and name[0].isalpha() and name[1] == ":"
    most_bytes = max(len(part.encode(errors="surrogatepass")) for part in parts)
    is_long = len(parts) > MAX_LEVELS or len(name.encode(errors="surrogatepass")) > MAX_PATH_BYTES or most_bytes > MAX_NAME_BYTES
    reasons = (
        (
            any(unicodedata.category(letter) in _UNPRINTABLE for letter in name),
            "has a control character in its name, or half of one",
        ),
        ("\\" in name, "has a backslash in its name; it is / that divides folders"),
        (name.startswith("/") or has_drive, "has an absolute path"),
        (".." in parts, "has .. in its path"),
        ("" in parts or "." in parts, "has an empty name, or a single dot, in its path"),
        (is_long, f"has a path of more than {MAX_PATH_BYTES} bytes, {MAX_LEVELS} levels, or {MAX_NAME_BYTES} bytes in one name"),
    )
    return next((why for holds, why in reasons if holds), None)


def _shown(name: str) -> str:
    return ascii(name if len(name) <= 80 else f"{name[:77]}...")
