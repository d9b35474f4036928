"""Where the archive of a model lies: in the model store, or at an address that the settings allow, from where it is fetched.

All of it blocks: the event loop has it run in a thread.
"""

import contextlib
import errno
import fcntl
import logging
import os
import re
import secrets
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from http.client import HTTPException, HTTPMessage
from pathlib import Path
from typing import IO, Any, BinaryIO
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit

from foundation.storage import TEMPORARY_PREFIX
from serving.torchserve.errors import DownloadArchiveException, InternalServerException, ModelNotFoundException

log = logging.getLogger("stateserve")

MOST_BYTES = 64 << 30
"""The largest archive that is fetched."""
_IDLE_S = 20.0
_WHOLE_S = 3600.0
"""How long the other side may send nothing, and take in all."""
_CHUNK_BYTES = 1 << 20
_ADDRESS = re.compile(r"(?i)(file|https?)://")
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS}


@dataclass(frozen=True, slots=True)
class Archive:
    """An archive in the model store: a file or a folder. One that was fetched leaves when its model does."""

    path: Path
    fetched: bool

    def discard(self) -> None:
        """Removes the file, if it was fetched."""
        if self.fetched:
            self.path.unlink(missing_ok=True)


def locate(  # noqa: PLR0913 - what is asked, what is allowed, and how it ends
    url: str,
    store: Path,
    allowed_urls: Iterable[str],
    most_bytes: int = MOST_BYTES,
    *,
    may_be_there: bool = False,
    go_on: Callable[[], None] = lambda: None,
) -> Archive:
    """The archive that a registration names: by its name in the store, or by an address, from where it is fetched.

    What is fetched appears in the store whole or not at all, under the last part of the address, and never over another file.
    With `may_be_there`, a file of that name is taken as it is: it may be what an earlier server fetched, or the operator's own,
    so it stays when its model leaves. `go_on` is called with every piece that comes, and raises what ends the download.

    Raises:
        ModelNotFoundException: it is not there, or none of the patterns in `allowed_urls` lets it be fetched.
        DownloadArchiveException: it cannot be fetched.
        InternalServerException: the store holds a file of that name.
    """
    if not url:
        raise ModelNotFoundException("empty url")
    _require_no_dots(url)
    if not is_address(url):
        return Archive(_in_store(url, store), fetched=False)
    _require_allowed(url, allowed_urls)
    target = store / _file_name(url)
    if may_be_there and target.is_file():
        log.info("%s is not fetched: the model store holds %s, which is taken", url, target.name)
        return Archive(target, fetched=False)
    if os.path.lexists(target):
        raise InternalServerException(f"Model file already exists {target.name}")
    with _opened(url, store, allowed_urls) as source, _new_file(target) as file:
        _copy(source, file, url, most_bytes, go_on)
    return Archive(target, fetched=True)


def is_address(url: str) -> bool:
    """Whether it is an address to fetch from, and not a name in the store."""
    return _ADDRESS.match(url) is not None


def is_allowed(url: str, allowed_urls: Iterable[str]) -> bool:
    """Whether one of the patterns matches all of the address, in any case."""
    return any(re.fullmatch(pattern, url, re.IGNORECASE) for pattern in allowed_urls)


def remove_abandoned(store: Path) -> None:
    """Removes what downloads left that were killed; nobody holds its lock."""
    for path in store.glob(f"{TEMPORARY_PREFIX}*"):
        with contextlib.suppress(OSError), path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()


def _require_no_dots(url: str) -> None:
    if ".." in url or ".." in unquote(url):
        raise ModelNotFoundException(f"Relative path is not allowed in url: {url}")


def _require_allowed(url: str, allowed_urls: Iterable[str]) -> None:
    """Refuses too what a pattern cannot judge: names of users before the host, and characters that no address holds."""
    host = urlsplit(url).netloc
    if not is_allowed(url, allowed_urls) or "@" in host or "\\" in url or not url.isprintable() or " " in url:
        raise ModelNotFoundException(f"Given URL {url} does not match any allowed URL(s)")


def _in_store(url: str, store: Path) -> Path:
    """What the store holds under the last part of a path, which alone counts; the operator's own links are followed."""
    path = store / url.rstrip("/").rpartition("/")[2]
    if path == store or path.name.startswith(".") or not os.path.exists(path):  # noqa: PTH110 - Path's raises for strange names
        raise ModelNotFoundException(f"Model not found at: {url}")
    return path


def _file_name(url: str) -> str:
    name = unquote(urlsplit(url).path).rpartition("/")[2]
    if not name or name.startswith(".") or not name.isprintable():
        raise DownloadArchiveException(f"Failed to download archive from: {url}: its path ends with no file's name")
    return name


@contextlib.contextmanager
def _opened(url: str, store: Path, allowed_urls: Iterable[str]) -> Iterator[IO[bytes]]:
    try:
        if url.lower().startswith("file:"):
            source: Any = _local(url, store).open("rb")
        else:
            source = _opener(tuple(allowed_urls)).open(url, timeout=_IDLE_S)
        with source:
            yield source
    except (OSError, HTTPException, ValueError) as cause:
        if isinstance(cause, HTTPError):
            cause.close()
        reason = cause.reason if isinstance(cause, URLError) else cause
        log.warning("%s cannot be fetched: %s", url, reason)
        raise DownloadArchiveException(f"Failed to download archive from: {url}") from cause


def _local(url: str, store: Path) -> Path:
    path = Path(unquote(urlsplit(url).path)).resolve(strict=True)
    if not path.is_relative_to(store.resolve()) or not path.is_file():
        raise ModelNotFoundException(f"Given URL {url} is not a file in the model store")
    return path


def _opener(allowed_urls: tuple[str, ...]) -> urllib.request.OpenerDirector:
    """One for http and https alone; urllib's own would follow a redirect to ftp too."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.HTTPDefaultErrorHandler(),
        _Redirects(allowed_urls),
    ):
        opener.add_handler(handler)
    return opener


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Redirects are followed to where the patterns let models be fetched from."""

    def __init__(self, allowed_urls: tuple[str, ...]) -> None:
        self._allowed_urls = allowed_urls

    def redirect_request(  # noqa: PLR0913, PLR0917 - urllib's signature
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        """The request that follows, where it may."""
        try:
            _require_no_dots(newurl)
            _require_allowed(newurl, self._allowed_urls)
        except ModelNotFoundException:
            fp.close()
            raise
        return super().redirect_request(req, fp, code, msg, headers, newurl)


@contextlib.contextmanager
def _new_file(target: Path) -> Iterator[BinaryIO]:
    """A file that has its name only once it is whole. It is locked meanwhile, so that nobody takes it for abandoned."""
    temporary = target.with_name(f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}")
    try:
        with temporary.open("xb") as file:
            with contextlib.suppress(OSError):  # some file systems have no locks
                fcntl.flock(file, fcntl.LOCK_EX)
            yield file
            file.flush()
            os.fsync(file.fileno())
            _publish(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def _publish(temporary: Path, target: Path) -> None:
    """Gives the file its name, if no other has it."""
    try:
        os.link(temporary, target)
    except FileExistsError as cause:
        raise InternalServerException(f"Model file already exists {target.name}") from cause
    except OSError as cause:
        if cause.errno not in _NO_LINKS:
            raise
        if os.path.lexists(target):
            raise InternalServerException(f"Model file already exists {target.name}") from cause
        temporary.rename(target)


def _copy(source: Any, file: BinaryIO, url: str, most_bytes: int, go_on: Callable[[], None]) -> None:
    """Copies what comes, as it comes: `read` would wait for a whole chunk, and a trickle would never meet its end."""
    expected, end = _length(source), time.monotonic() + _WHOLE_S
    copied = 0
    while data := source.read1(_CHUNK_BYTES):
        go_on()
        copied += len(data)
        if copied > most_bytes:
            raise DownloadArchiveException(f"Failed to download archive from: {url}: it is larger than {most_bytes} bytes")
        if time.monotonic() > end:
            raise DownloadArchiveException(f"Failed to download archive from: {url}: it took longer than {_WHOLE_S:g} s")
        file.write(data)
    if expected is not None and copied != expected:
        raise OSError(f"{copied} bytes came, and {expected} were announced")


def _length(source: Any) -> int | None:
    """What the other side says that it sends, where it does."""
    announced = source.headers.get("Content-Length") if hasattr(source, "headers") else None
    return int(announced) if announced is not None and announced.isdecimal() else None
