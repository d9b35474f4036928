"""A local directory as a place of checkpoints: temporary file beside the target, write, fsync, rename, fsync the directory."""

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import secrets
import weakref
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

from checkpoints.errors import DirectoryTaken, KeeperError
from checkpoints.keeping.fence import taken
from checkpoints.keeping.names import LOCK, is_link
from checkpoints.keeping.store import Written
from checkpoints.pointers import LARGEST_POINTER_BYTES, pointed_name, pointer_text
from foundation.storage import TEMPORARY_PREFIX, fsync_directory

_TEMPORARY = re.compile(re.escape(TEMPORARY_PREFIX) + r".+-[0-9a-f]{16}")
_NO_LINKS = frozenset({errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EACCES, errno.EINVAL})
"""What a file system without symbolic links answers. Where it was forbidden to write at all, the text pointer fails too."""


class LocalStore:
    """The files of one directory, which is made if it is not there.

    Raises KeeperError where it cannot be made, or is not a directory.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory.absolute()  # where a training later goes to does not matter
        try:
            _make(self._directory)
        except (FileExistsError, NotADirectoryError) as error:
            raise KeeperError(f"{directory} is not a directory: checkpoints are kept in a directory of their own.") from error
        except OSError as error:
            raise KeeperError(
                f"{directory} cannot be made: {error.strerror or error}. Make it, or name another place."
            ) from error

    @property
    def where(self) -> str:
        """The directory."""
        return str(self._directory)

    def sizes(self) -> dict[str, int]:
        """As `Store.sizes`; hidden files are none of a checkpoint's."""
        found = {}
        with os.scandir(self._directory) as entries:
            for entry in entries:
                if not entry.name.startswith(".") and entry.is_file(follow_symlinks=False):
                    with contextlib.suppress(FileNotFoundError):  # removed since it was listed
                        found[entry.name] = entry.stat(follow_symlinks=False).st_size
        return {name: size for name, size in found.items() if not self._is_text_pointer(name, size)}

    def write(self, name: str, produce: Callable[[BinaryIO], None]) -> Written:
        """As `Store.write`."""
        target = self._path(name)
        with self._temporary(name) as temporary:
            with temporary.open("xb", buffering=0) as file:
                stream = _Hashed(file)
                produce(cast("BinaryIO", stream))
                os.fsync(file.fileno())
            if os.path.lexists(target):
                raise FileExistsError(errno.EEXIST, "it is there already, and is not overwritten", str(target))
            temporary.rename(target)
        try:
            fsync_directory(self._directory)
        except OSError:  # after a power cut it may not be there: then it is not there now either
            with contextlib.suppress(OSError):
                target.unlink()
            raise
        return Written(stream.size, stream.sha256.hexdigest())

    def read(self, name: str) -> bytes:
        """As `Store.read`."""
        return self._path(name).read_bytes()

    def replace(self, name: str, data: bytes) -> None:
        """As `Store.replace`."""
        with self._temporary(name) as temporary:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self._path(name))
        fsync_directory(self._directory)

    @contextlib.contextmanager
    def local(self, name: str) -> Iterator[Path]:
        """As `Store.local`: the file itself."""
        path = self._path(name)
        path.stat()
        yield path

    def remove(self, name: str) -> None:
        """As `Store.remove`; the directory is flushed, so that what is removed later is not gone earlier after a power cut."""
        self._path(name).unlink(missing_ok=True)
        fsync_directory(self._directory)

    def point(self, link: str, target: str) -> None:
        """As `Store.point`: a relative symbolic link; where the file system has none, a file with the name."""
        path = self._path(link)
        if self._is_own_file(path):
            raise FileExistsError(errno.EEXIST, "a file of its own, which a Keeper does not replace", str(path))
        with self._temporary(link) as temporary:
            try:
                temporary.symlink_to(target)
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                self.replace(link, pointer_text(target))
                return
            temporary.replace(path)
        fsync_directory(self._directory)

    def pointed(self, link: str) -> str | None:
        """As `Store.pointed`."""
        path = self._path(link)
        try:
            target = str(path.readlink())
        except FileNotFoundError:
            return None
        except OSError:  # not a link
            return self._text_pointer(link)
        return target if os.path.basename(target) == target and target not in {"", ".", ".."} else None  # noqa: PTH119

    def links(self) -> list[str]:
        """As `Store.links`."""
        return sorted(name for name in os.listdir(self._directory) if is_link(name) and self.pointed(name) is not None)  # noqa: PTH208

    def free_bytes(self) -> int | None:
        """As `Store.free_bytes`: for a user without privileges. A quota is not seen."""
        found = os.statvfs(self._directory)
        return found.f_bavail * found.f_frsize

    @contextlib.contextmanager
    def hold(self, owner: Mapping[str, Any]) -> Iterator[None]:
        """As `Store.hold`: a lock that ends with this process at the latest; its forked children do not have it."""
        del owner  # a lock says nothing; the fence does
        descriptor = os.open(self._path(LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        held = _Held(descriptor)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise self._taken() from error
            except OSError:  # no locks here (some of NFS): the fence alone keeps two trainers apart
                pass
            yield
        finally:
            held.close()

    def sweep(self) -> list[str]:
        """As `Store.sweep`."""
        with os.scandir(self._directory) as entries:
            files = [entry.name for entry in entries if not entry.is_dir(follow_symlinks=False)]
        found = sorted(filter(_TEMPORARY.fullmatch, files))
        for name in found:
            self._path(name).unlink(missing_ok=True)
        return found

    def _path(self, name: str) -> Path:
        if name in {"", ".", ".."} or os.sep in name or "\0" in name:
            raise KeeperError(f"{name!r} is not the name of a file in {self.where}.")
        return self._directory / name

    @contextlib.contextmanager
    def _temporary(self, name: str) -> Iterator[Path]:
        temporary = self._directory / f"{TEMPORARY_PREFIX}{name}-{secrets.token_hex(8)}"
        try:
            yield temporary
        finally:
            with contextlib.suppress(OSError):  # renamed by now; or the disk fails, which is being told
                temporary.unlink()

    def _is_own_file(self, path: Path) -> bool:
        return os.path.lexists(path) and not path.is_symlink() and self._text_pointer(path.name) is None

    def _is_text_pointer(self, name: str, size: int) -> bool:
        return size <= LARGEST_POINTER_BYTES and is_link(name) and self._text_pointer(name) is not None

    def _text_pointer(self, name: str) -> str | None:
        try:
            with self._path(name).open("rb") as file:
                return pointed_name(file.read(LARGEST_POINTER_BYTES + 1))
        except (FileNotFoundError, IsADirectoryError):
            return None

    def _taken(self) -> DirectoryTaken:
        return taken(self)


def _make(directory: Path) -> None:
    """Make a directory and its parents, so that after a power cut it is there as well as what was written into it."""
    new = [path for path in (directory, *directory.parents) if not path.exists()]
    directory.mkdir(parents=True, exist_ok=True)
    for path in new:
        fsync_directory(path.parent)


class _Hashed:
    """A stream that is written from front to back: what it is given goes to the file, its size and sha256 are kept."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.size = 0
        self.sha256 = hashlib.sha256()

    def write(self, data: Any) -> int:
        """Write all of it: an unbuffered file may take less at once."""
        view = memoryview(data).cast("B")
        self.sha256.update(view)
        self.size += len(view)
        rest = view
        while rest:
            rest = rest[self._file.write(rest) :]
        return len(view)

    def flush(self) -> None:
        """Nothing waits here."""


class _Held:
    """A lock's descriptor, closed in forked children at once: they would hold the lock on after this process was killed."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._open = True
        _close_in_children()
        _HELD.add(self)

    def close(self) -> None:
        """Let the lock go; a second call does nothing."""
        if self._open:
            self._open = False
            os.close(self._descriptor)


_HELD: "weakref.WeakSet[_Held]" = weakref.WeakSet()
_registered: list[bool] = []


def _close_in_children() -> None:
    if not _registered:
        _registered.append(True)
        os.register_at_fork(after_in_child=lambda: [held.close() for held in list(_HELD)])
