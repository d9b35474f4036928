"""A flat place of files that a Keeper writes to: a local directory, or a prefix in an object store."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol
from urllib.parse import unquote, urlsplit

from checkpoints.errors import KeeperError
from foundation.remote import collapsed_url


@dataclass(frozen=True, slots=True)
class Written:
    """What a file holds that was just written: its size in bytes, and the sha256 of its bytes in hex."""

    size: int
    sha256: str


class Store(Protocol):
    """Files by name, without folders. Whatever is interrupted, a file is whole or not there.

    What a method cannot do for the place's own reasons (full, forbidden, gone, unreachable) is an OSError or a StateserveError.
    """

    @property
    def where(self) -> str:
        """The directory or URL, for messages."""
        ...

    def sizes(self) -> dict[str, int]:
        """The bytes of each whole file by its name; no temporary ones, no links or pointers, no subfolders."""
        ...

    def write(self, name: str, produce: Callable[[BinaryIO], None]) -> Written:
        """Write a new file, flushed to the disk; `produce` is given a stream that is written from front to back, without seek.

        Raises FileExistsError where the name is taken; then, and after every other error, nothing is left behind.
        """
        ...

    def read(self, name: str) -> bytes:
        """The bytes of a small file; FileNotFoundError where there is none."""
        ...

    def replace(self, name: str, data: bytes) -> None:
        """Write a small file that may be there already: at every moment it is whole, as it was or as it is now."""
        ...

    def local(self, name: str) -> AbstractContextManager[Path]:
        """The whole file as a local path while the context lasts: itself, or fetched; FileNotFoundError where there is none."""
        ...

    def remove(self, name: str) -> None:
        """Remove a file or a pointer; no error where there is none."""
        ...

    def point(self, link: str, target: str) -> None:
        """Let `link` name the file `target` beside it; at every moment it names the one before or this one.

        Raises FileExistsError where `link` is a file of its own, neither a link nor a pointer: no data is ever replaced.
        """
        ...

    def pointed(self, link: str) -> str | None:
        """The name of the file beside it that a link or pointer names; None where it is neither, or is not there."""
        ...

    def links(self) -> list[str]:
        """The names of all pointers here that are a Keeper's (`names.is_link`), whether their targets exist or not."""
        ...

    def free_bytes(self) -> int | None:
        """How much can still be written; None where that is unknown or unlimited."""
        ...

    def hold(self, owner: Mapping[str, Any]) -> AbstractContextManager[Any]:
        """Keep other trainers out while the context lasts, where the place has locks; where it has none, do nothing.

        `owner` says who holds. The Keeper itself writes it to the fence file, once it holds.

        Raises DirectoryTaken where another holds, on entering the context at the latest.
        """
        ...

    def sweep(self) -> list[str]:
        """Remove what killed writes left: temporary files, unfinished uploads of this place; what they were called."""
        ...


def open_store(location: str | Path) -> Store:
    """The place at a local path, or at a URL (`s3://bucket/runs/digits`); a local directory is made if it is not there.

    Raises KeeperError where the path is not a directory or cannot be made, or where the URL's library is not installed.
    """
    if isinstance(location, Path) and (url := collapsed_url(location)):
        raise KeeperError(f"{location} was a URL once: give {url!r} as text, not as a Path.")
    if isinstance(location, str) and location.startswith("file://"):
        location = unquote(urlsplit(location).path)
    if isinstance(location, str) and "://" in location:
        from checkpoints.keeping.remote_store import RemoteStore

        return RemoteStore(location)
    from checkpoints.keeping.local_store import LocalStore

    return LocalStore(Path(location))
