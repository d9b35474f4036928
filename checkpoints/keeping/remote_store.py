"""A prefix in an object store as a place of checkpoints: an object is there when its upload is finished, never before.

There are no links, locks or renames. `best.pth` and `latest.pth` are text pointers, which are put in one request; the fence keeps
two trainers apart; a file's bytes go up in parts as they are produced, and a killed process leaves an unfinished upload, which no
listing shows, and which the next Keeper aborts.
"""

import contextlib
import errno
import hashlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

from checkpoints.errors import KeeperError
from checkpoints.keeping.names import is_link
from checkpoints.keeping.store import Written
from checkpoints.pointers import LARGEST_POINTER_BYTES, pointed_name, pointer_text
from foundation.remote import StorageError, explained, filesystem, first_bytes, scheme_of

PART_BYTES = 32 * 2**20
"""How much is sent at once, and held in memory meanwhile. S3 takes 10 000 parts: files of up to 312 GiB."""

SCHEMES = ("s3", "s3a", "gs", "gcs")
"""Where an upload is all or nothing."""


class RemoteStore:
    """The files directly under a URL: `s3://bucket/runs/digits`. The bucket must be there; it is asked at once.

    Raises KeeperError where the URL does not fit, StorageError where its library is missing or the storage does not answer.
    """

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        if scheme_of(url) not in SCHEMES:
            raise KeeperError(
                f"{url}: checkpoints are kept in a local directory, given as its path, or on {'://, '.join(SCHEMES)}://. "
                "That other storages show no file before all of it is there is not known."
            )
        self._files, path = filesystem(self._url)
        self._root = path.rstrip("/")
        if "/" not in self._root:
            raise KeeperError(
                f"{url} is a whole bucket: checkpoints are kept under a prefix of their own, like {self._url}/runs/digits."
            )
        self._listing()

    @property
    def where(self) -> str:
        """The URL."""
        return self._url

    def sizes(self) -> dict[str, int]:
        """As `Store.sizes`; hidden files are none of a checkpoint's."""
        found = {name: size for name, size in self._listing().items() if not name.startswith(".")}
        return {name: size for name, size in found.items() if not self._is_pointer(name, size)}

    def write(self, name: str, produce: Callable[[BinaryIO], None]) -> Written:
        """As `Store.write`: the object is there when the last part and the word that it is the last have arrived."""
        path = self._path(name)
        with explained(self._url_of(name)):
            if self._files.exists(path):
                raise FileExistsError(errno.EEXIST, "it is there already, and is not overwritten", self._url_of(name))
        upload = _Upload(self._files, path, self._url_of(name))
        try:
            produce(cast("BinaryIO", upload))
            return upload.finish()
        except BaseException:
            upload.give_up()
            raise

    def read(self, name: str) -> bytes:
        """As `Store.read`."""
        with explained(self._url_of(name)):
            return self._files.cat_file(self._path(name))

    def replace(self, name: str, data: bytes) -> None:
        """As `Store.replace`: one request."""
        path = self._path(name)
        with explained(self._url_of(name)):
            try:
                self._files.pipe_file(path, data)
            except FileNotFoundError as error:  # GCS says so only now
                raise StorageError(f"{self._url}: there is no such bucket. Make it, or correct the name.") from error

    @contextlib.contextmanager
    def local(self, name: str) -> Iterator[Path]:
        """As `Store.local`: fetched to the directory for temporary files."""
        with tempfile.TemporaryDirectory(prefix="stateserve-") as folder:
            path = Path(folder) / self._checked(name)
            with explained(self._url_of(name)):
                self._files.get_file(self._path(name), str(path))
            yield path

    def remove(self, name: str) -> None:
        """As `Store.remove`."""
        with explained(self._url_of(name)), contextlib.suppress(FileNotFoundError):
            self._files.rm_file(self._path(name))

    def point(self, link: str, target: str) -> None:
        """As `Store.point`: a text pointer."""
        data = pointer_text(self._checked(target))
        size = self._listing().get(link)
        if size is not None and not self._is_pointer(link, size):
            raise FileExistsError(errno.EEXIST, "a file of its own, which a Keeper does not replace", self._url_of(link))
        self.replace(link, data)

    def pointed(self, link: str) -> str | None:
        """As `Store.pointed`."""
        with explained(self._url_of(link)):
            try:
                data = first_bytes(self._files, self._path(link), LARGEST_POINTER_BYTES + 1)
            except FileNotFoundError:
                return None
        return pointed_name(data)

    def links(self) -> list[str]:
        """As `Store.links`."""
        return sorted(name for name, size in self._listing().items() if self._is_pointer(name, size))

    def free_bytes(self) -> int | None:
        """As `Store.free_bytes`: an object store does not say."""
        return None

    def hold(self, owner: Mapping[str, Any]) -> contextlib.AbstractContextManager[None]:
        """As `Store.hold`: there are no locks, the fence alone keeps two trainers apart."""
        del owner
        return contextlib.nullcontext()

    def sweep(self) -> list[str]:
        """As `Store.sweep`: aborts the unfinished uploads of files directly under this URL; on GCS they end by themselves.

        Where listing them is forbidden or unknown nothing is swept: they cost storage until the bucket's own rule ends them.
        """
        if not hasattr(self._files, "call_s3"):
            return []
        bucket, _, prefix = self._root.partition("/")
        aborted = []
        with explained(self._url):
            for key, upload in self._unfinished(bucket, f"{prefix}/"):
                with contextlib.suppress(FileNotFoundError):  # finished or aborted since it was listed
                    self._files.call_s3("abort_multipart_upload", Bucket=bucket, Key=key, UploadId=upload)
                    aborted.append(key.removeprefix(f"{prefix}/"))
        return sorted(aborted)

    def _unfinished(self, bucket: str, prefix: str) -> list[tuple[str, str]]:
        """Key and id of each unfinished upload of a file directly under the prefix."""
        found: list[tuple[str, str]] = []
        after: dict[str, str] = {}
        while True:
            try:
                page = self._files.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=prefix, **after)
            except OSError as error:
                if isinstance(error, PermissionError) or error.errno in {errno.ENOSYS, errno.EPERM}:
                    return found
                raise
            uploads = page.get("Uploads", ())
            found += [(entry["Key"], entry["UploadId"]) for entry in uploads if "/" not in entry["Key"].removeprefix(prefix)]
            if not page.get("IsTruncated") or not uploads:
                return found
            after = {"KeyMarker": uploads[-1]["Key"], "UploadIdMarker": uploads[-1]["UploadId"]}

    def _listing(self) -> dict[str, int]:
        with explained(self._url):
            try:
                entries = self._files.ls(self._root, detail=True)
            except FileNotFoundError as error:
                if error.__cause__ is not None:  # not an empty prefix: the bucket itself
                    raise
                return {}
        prefix = f"{self._root}/"
        names = {entry["name"].removeprefix(prefix): entry for entry in entries if entry["name"].startswith(prefix)}
        return {name: int(entry["size"]) for name, entry in names.items() if entry["type"] == "file" and name and "/" not in name}

    def _is_pointer(self, name: str, size: int) -> bool:
        return is_link(name) and size <= LARGEST_POINTER_BYTES and self.pointed(name) is not None

    def _path(self, name: str) -> str:
        return f"{self._root}/{self._checked(name)}"

    def _url_of(self, name: str) -> str:
        return f"{self._url}/{name}"

    def _checked(self, name: str) -> str:
        if name in {"", ".", ".."} or "/" in name or "\0" in name:
            raise KeeperError(f"{name!r} is not the name of a file in {self.where}.")
        return name


class _Upload:
    """A stream that is written from front to back: its bytes go up in parts, and their size and sha256 are kept."""

    def __init__(self, files: Any, path: str, url: str) -> None:
        self._files = files
        self._path = path
        self._url = url
        self._size = 0
        self._sha256 = hashlib.sha256()
        with explained(url):
            self._file = files.open(path, "xb", block_size=PART_BYTES)

    def write(self, data: Any) -> int:
        """Take all of it; what is enough for a part is sent before this returns."""
        view = memoryview(data).cast("B")
        self._sha256.update(view)
        for start in range(0, len(view), PART_BYTES):  # fsspec copies what it is given
            with explained(self._url):
                self._file.write(view[start : start + PART_BYTES])
        self._size += len(view)
        return len(view)

    def flush(self) -> None:
        """A part is sent when it is full."""

    def finish(self) -> Written:
        """Send the rest, and the word that it was all."""
        written = Written(self._size, self._sha256.hexdigest())
        try:
            with explained(self._url):
                self._file.close()
        except (FileExistsError, FileNotFoundError):  # another's; or ours, sent again because the answer was lost on its way
            if not self._arrived(written):
                raise
            self.give_up()
        return written

    def _arrived(self, written: Written) -> bool:
        with explained(self._url):
            if not self._files.exists(self._path) or self._files.size(self._path) != written.size:
                return False
            with self._files.open(self._path, "rb", block_size=PART_BYTES) as file:
                return hashlib.file_digest(file, "sha256").hexdigest() == written.sha256

    def give_up(self) -> None:
        """Abort the upload; where that fails too, the next sweep does it."""
        with contextlib.suppress(OSError, StorageError), explained(self._url):
            self._file.closed = True  # else it would be finished as it is when it is collected
            self._file.discard()
