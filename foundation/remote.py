"""Files on another storage (`s3://…`, `gs://…`, what fsspec knows): asked with bounds, fetched to a cache, errors in our words.

The libraries are extras and are imported by the first call. What they raise is foreign (botocore, aiohttp, google.auth …) and is
mapped in one place, `explained`: FileNotFoundError and FileExistsError stay, everything else becomes a `StorageError`.
"""

import contextlib
import errno
import fcntl
import glob
import json
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from foundation.errors import StateserveError
from foundation.storage import TEMPORARY_PREFIX, canonical_json, sha256_bytes, sha256_file

CONNECT_TIMEOUT_S = 5
READ_TIMEOUT_S = 40
ATTEMPTS = 3
"""How often botocore sends one request, at most: after a connection that failed, an answer that did not come, a "slow down"."""

ROUNDS = 2
"""How often s3fs lets botocore try, where there was no answer: an S3 that never answers is given up after 4 min."""

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.+)", re.DOTALL)
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}
_SETTINGS = {
    "s3": "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_PROFILE, AWS_DEFAULT_REGION and AWS_ENDPOINT_URL",
    "gcs": "GOOGLE_APPLICATION_CREDENTIALS",
}


class StorageError(StateserveError):
    """Another storage cannot be used: its library is not installed, it cannot be reached, it refuses, or it failed."""


def is_url(text: object) -> bool:
    """Whether this is text that begins as a URL does (`s3://bucket/name`); a Path never is one."""
    return isinstance(text, str) and _URL.match(text) is not None


def collapsed_url(path: Path) -> str | None:
    """`s3://bucket/name`, if the path was made of that text (which takes one slash away), else None."""
    match = re.match(r"(s3a?|gs|gcs|abfs|az|https?|memory|file):/(?=[^/])", str(path))
    return f"{match[1]}://{str(path)[match.end() :]}" if match else None


def scheme_of(url: str) -> str:
    """`s3` of `s3://bucket/name`. Raises StorageError where it is not a URL."""
    match = _URL.match(url)
    if match is None:
        raise StorageError(f"{url!r} is not a URL: expected something like s3://bucket/name.")
    return match[1].lower()


def beside(url: str, name: str) -> str:
    """The URL of the file `name` in the same folder."""
    return f"{url.rpartition('/')[0]}/{name}"


def filesystem(url: str) -> tuple[Any, str]:
    """The file system of fsspec for a URL, which remembers no listings, and the URL's path in it. Nothing is asked of it yet.

    A new one each time, with its own connections: keep it as long as it is used.

    Raises StorageError where the library for the URL's scheme is not installed, or nobody knows the scheme.
    """
    scheme = scheme_of(url)
    try:
        import fsspec

        kind = fsspec.get_filesystem_class(scheme)
    except ImportError as error:
        extra = _EXTRAS.get(scheme)
        line = f"pip install 'stateserve[{extra}]'" if extra else f"install it ({error})"
        raise StorageError(f"{url}: the library for {scheme}:// is not installed: {line}.") from error
    except ValueError as error:
        raise StorageError(f"{url}: no storage is known by {scheme}://; expected s3:// or gs://.") from error
    with explained(url):
        found = kind(skip_instance_cache=True, use_listings_cache=False, **_bounds(scheme))
        if _EXTRAS.get(scheme) == "s3":
            found.retries = ROUNDS
        return found, found._strip_protocol(url)  # noqa: SLF001 - fsspec's own name for it, which it documents


@contextlib.contextmanager
def explained(url: str) -> Iterator[None]:
    """Raise StorageError, with what to do, for whatever the storage's library raises meanwhile.

    As they are go through: FileExistsError; FileNotFoundError about a file (a missing bucket is a StorageError); the OSError of a
    local disk that is full.
    """
    try:
        yield
    except (StateserveError, FileExistsError):
        raise
    except FileNotFoundError as error:
        if _code(error) == "NoSuchBucket":
            raise StorageError(f"{url}: there is no such bucket. Make it, or correct the name.") from error
        raise
    except Exception as error:  # every library has its own errors; here they become ours
        if isinstance(error, OSError) and error.errno in _FULL:
            raise
        raise StorageError(f"{url}: {_reason(url, error)}") from error


def list_tree(url: str) -> dict[str, int]:
    """The bytes of every file under a URL by its path relative to it, with slashes; nothing where there is none.

    Raises StorageError.
    """
    with explained(url):
        storage, root = filesystem(url)
        root = root.rstrip("/")
        found = storage.find(root, detail=True)
        return {name[len(root) + 1 :]: int(facts["size"]) for name, facts in found.items() if name.startswith(f"{root}/")}


def read_bytes(url: str, limit_bytes: int, storage: Any = None) -> bytes:
    """A file's first bytes, at most so many; `storage` as in `fetch`. Raises FileNotFoundError, StorageError."""
    storage, path = _storage(url, storage)
    with explained(url):
        return first_bytes(storage, path, limit_bytes)


def first_bytes(storage: Any, path: str, limit_bytes: int) -> bytes:
    """As `read_bytes`, of a file system of fsspec; to be called within `explained`."""
    try:
        return storage.cat_file(path, start=0, end=limit_bytes)
    except OSError as error:
        if _code(error) in {"InvalidRange", "416"}:  # S3's answer for every range of an empty object
            return b""
        raise


def default_cache() -> Path:
    """Where fetched files are kept: `stateserve` under XDG_CACHE_HOME, or under ~/.cache. May be removed at any time.

    Raises StorageError where neither is known.
    """
    home = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        return (home if home.is_absolute() else Path.home() / ".cache") / "stateserve"
    except RuntimeError as error:
        raise StorageError("No place for the cache of fetched files: this user has no home. Set XDG_CACHE_HOME.") from error


def fetch(url: str, cache: Path | None = None, expected_sha256: str | None = None, storage: Any = None) -> Path:
    """The file at a URL as a local one, under its own name, in a folder that those from the same folder share.

    One that was fetched before is taken if its bytes are still those that were fetched, and the storage says that its own did not
    change; with `expected_sha256`, if they have that sum (then nothing is asked at all). Else it is fetched anew and renamed into
    place, so that who reads the one before goes on undisturbed. `cache` is `default_cache()` where None.
    `storage` is what `filesystem` gave for a URL of this kind, to use it again: a new one takes a tenth of a second.

    Raises FileNotFoundError; StorageError where it cannot be fetched, has another sum than expected, or changed meanwhile;
    OSError where the cache cannot be written.
    """
    target = fetched_path(url, cache)
    if expected_sha256 is not None and target.is_file() and sha256_file(target) == expected_sha256:
        return target
    storage, path = _storage(url, storage)
    with explained(url):
        facts = storage.info(path)
    if facts.get("type") == "directory":
        raise StorageError(f"{url} is a folder; expected a file.")
    if expected_sha256 is not None or not _is_current(target, url, _stamp(facts)):
        target.parent.mkdir(parents=True, exist_ok=True)
        with _temporary(target) as temporary:
            sha256 = _download(storage, path, url, facts, temporary)
            if expected_sha256 not in {None, sha256}:
                raise StorageError(f"{url} has the sha256 {sha256}, expected {expected_sha256}: it is damaged, or another file.")
            temporary.replace(target)
        _note(target, {"url": url, "stamp": _stamp(facts), "sha256": sha256})
    return target


def fetched_path(url: str, cache: Path | None = None) -> Path:
    """Where `fetch` puts the file of a URL. Raises StorageError where the URL ends in no name."""
    scheme_of(url)
    folder, _, name = url.rpartition("/")
    if name in {"", ".", ".."} or "\0" in name or "://" not in folder:
        raise StorageError(f"{url} names no file: expected something like s3://bucket/runs/digits/best.pth.")
    return (default_cache() if cache is None else cache) / "fetched" / sha256_bytes(folder.encode())[:32] / name


def _storage(url: str, storage: Any) -> tuple[Any, str]:
    return filesystem(url) if storage is None else (storage, storage._strip_protocol(url))  # noqa: SLF001 - see `filesystem`


def _download(storage: Any, path: str, url: str, facts: Mapping[str, Any], to: Path) -> str:
    """Fetch what the facts are about, and nothing else; its sha256 in hex."""
    with explained(url):
        storage.get_file(path, str(to))
        after = storage.info(path)
    if _stamp(after) != _stamp(facts) or to.stat().st_size != facts["size"]:
        raise StorageError(f"{url} changed while it was fetched. Wait until its writer is done, or ask again.")
    return sha256_file(to)


@contextlib.contextmanager
def _temporary(target: Path) -> Iterator[Path]:
    """A new file beside the target, locked as long as this process writes it; those that killed processes left are removed."""
    for left in target.parent.glob(f"{TEMPORARY_PREFIX}{glob.escape(target.name)}-*"):
        _remove_abandoned(left)
    path = target.with_name(f"{TEMPORARY_PREFIX}{target.name}-{secrets.token_hex(8)}")
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        with contextlib.suppress(OSError):  # no locks here: then nothing is ever removed
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield path
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _remove_abandoned(path: Path) -> None:
    with contextlib.suppress(OSError), path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the kernel let the lock go with the process that held it
        path.unlink(missing_ok=True)


def _bounds(scheme: str) -> dict[str, Any]:
    """Times after which a storage that does not answer is given up; a person's own settings for fsspec go before them."""
    if _EXTRAS.get(scheme) != "s3":
        return {}
    from fsspec.config import conf

    given: Mapping[str, Any] = {**conf.get("s3", {}), **conf.get(scheme, {})}.get("config_kwargs", {})
    retries = {"mode": "standard", "total_max_attempts": ATTEMPTS}
    return {
        "config_kwargs": {"connect_timeout": CONNECT_TIMEOUT_S, "read_timeout": READ_TIMEOUT_S, "retries": retries} | dict(given)
    }


def _code(error: BaseException) -> str | None:
    """S3's own word for what went wrong, from the error that s3fs translated."""
    response = getattr(error.__cause__, "response", None) or getattr(error, "response", None)
    code = response.get("Error", {}).get("Code") if isinstance(response, Mapping) else None
    return code if isinstance(code, str) else None


def _reason(url: str, error: Exception) -> str:
    """What happened and what to do, by the error's type; its own words follow."""
    words = " ".join(str(error).split()) or type(error).__name__
    settings = _SETTINGS.get(_EXTRAS.get(scheme_of(url), ""), "the storage's own settings")
    names = {kind.__name__ for kind in type(error).__mro__}
    code = _code(error)
    if isinstance(error, PermissionError) or code in {"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "403"}:
        return f"the storage refuses: {words} Check the credentials and what they are allowed ({settings})."
    if names & {"NoCredentialsError", "PartialCredentialsError", "DefaultCredentialsError", "ProfileNotFound"}:
        return f"there are no credentials: {words}. Set {settings}."
    if names & {"EndpointConnectionError", "HTTPClientError", "ConnectionError", "ClientConnectionError", "TimeoutError"}:
        return f"the storage cannot be reached: {words} Check the network and the endpoint ({settings})."
    return f"the storage failed: {words if type(error) is OSError else f'{type(error).__name__}: {words}'}"


def _stamp(facts: Mapping[str, Any]) -> list[str]:
    """What changes when a file is written again: its size, and whatever the storage knows beside it."""
    known = ("size", "ETag", "etag", "generation", "md5Hash", "VersionId", "LastModified", "mtime", "created")
    return [f"{key}={facts[key]}" for key in known if facts.get(key) is not None]


def _notes_path(target: Path) -> Path:
    return target.with_name(f".fetched-{target.name}.json")


def _note(target: Path, facts: Mapping[str, Any]) -> None:
    path = _notes_path(target)
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{path.name}-{secrets.token_hex(8)}")
    temporary.write_bytes(canonical_json(facts))
    temporary.replace(path)


def _is_current(target: Path, url: str, stamp: list[str]) -> bool:
    """Whether what was fetched before is what the storage still has; its bytes are summed again, so that damage is seen."""
    try:
        noted = json.loads(_notes_path(target).read_bytes())
        return noted["url"] == url and noted["stamp"] == stamp and noted["sha256"] == sha256_file(target)
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return False
