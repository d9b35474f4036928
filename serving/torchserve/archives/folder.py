"""A model archive that is a folder, as `torch-model-archiver --archive-format no-archive` makes."""

import os
import stat
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO

from serving.torchserve.archives.members import Contents, Member, checked, refuse_kind

_KINDS = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
}


def folder_contents(folder: Path) -> Contents:
    """The contents of a folder, all of them judged before the first is read; the folder itself may be a link, nothing in it.

    Raises:
        InvalidModelException: it is not let through.
    """
    members = list(checked(folder.name, _members(folder.name, folder, "")))
    return Contents(members, sum(member.size_bytes or 0 for member in members))


def _members(archive: str, folder: Path, above: str) -> Iterator[Member]:
    with os.scandir(folder) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        name, entry_stat = above + entry.name, entry.stat(follow_symlinks=False)
        is_folder = stat.S_ISDIR(entry_stat.st_mode)
        if not is_folder and not stat.S_ISREG(entry_stat.st_mode):
            refuse_kind(archive, name, _KINDS.get(stat.S_IFMT(entry_stat.st_mode), "of no kind that is known"))
        yield Member(name, None if is_folder else entry_stat.st_size, partial(_opened, Path(entry.path)))
        if is_folder:  # it was judged when it was yielded: it is not too deep
            yield from _members(archive, Path(entry.path), f"{name}/")


def _opened(path: Path) -> BinaryIO:
    return os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb")
