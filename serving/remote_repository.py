"""A model repository on another storage (`s3://bucket/models`): its versions in a local cache, each as its manifest says.

The server serves what lies in the cache, as from any local repository. A version appears there by one rename, when its manifest
and every file that it lists were fetched and have the sha256 that it states.
"""

import contextlib
import re
import secrets
import shutil
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from artifact.errors import ArtifactError
from artifact.manifest import MANIFEST, UNLISTED, FileEntry, Manifest, check_listing, decode, read_listed, read_manifest, versions
from foundation.errors import StateserveError
from foundation.remote import explained, filesystem
from foundation.storage import TEMPORARY_PREFIX, write_directory

_VERSION_FILE = re.compile(r"(?P<name>[^/.\x00][^/\x00]*)/(?P<version>[1-9][0-9]{0,17})/(?P<file>[^/\x00]+)")
_MARKS = ("ETag", "etag", "generation", "md5Hash", "LastModified", "mtime")
"""What tells of a file's change, beside its size: the first that the storage says."""

Listing = Mapping[str, tuple[int, str]]
"""A version's files on the storage: bytes, and the mark of what they hold, by name."""


class NotFetched(StateserveError):
    """A version on the other storage is damaged there, or not complete yet."""


@dataclass(slots=True, eq=False)
class Mirror:
    """The storage at `url`, and what of it was fetched into `root`. Any thread may call it; calls wait for each other.

    `failures` says of each model why versions of it are not in the cache, by the model's name.
    """

    url: str
    root: Path
    failures: Mapping[str, str] = field(default_factory=dict)
    _storage: Any = None
    _known: dict[tuple[str, int], Listing] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def update(self, name: str | None = None) -> None:
        """Makes the cache agree with the storage, for one model or all: fetches what is new or changed, removes what is gone.

        A version whose files are not all there yet is left alone; where a storage holds no model at all, nothing is removed. Of a
        model that is named, every fetched file is compared with its manifest again.

        Raises StorageError where the storage cannot be asked, OSError where the cache cannot be written; what was fetched stays.
        """
        with self._lock:
            self.root.mkdir(parents=True, exist_ok=True)
            there = self._listings()
            if name is not None:
                self._known = {key: listing for key, listing in self._known.items() if key[0] != name}
            failures: dict[str, list[str]] = {}
            for (model, version), listing in sorted(there.items()):
                if name in {None, model}:
                    try:
                        self._fetch_unless_known(model, version, listing)
                    except NotFetched as failed:
                        failures.setdefault(model, []).append(f"version {version} {failed}")
            others = {model: text for model, text in self.failures.items() if name not in {None, model}}
            self.failures = others | {model: "; ".join(texts) for model, texts in failures.items()}
            if there:
                self._remove_gone({key for key in self._here() if key not in there and name in {None, key[0]}})

    def _listings(self) -> dict[tuple[str, int], Listing]:
        if self._storage is None:
            self._storage = filesystem(self.url)
        storage, root = self._storage
        root = root.rstrip("/")
        with explained(self.url):
            found = storage.find(root, detail=True)
        listings: dict[tuple[str, int], dict[str, tuple[int, str]]] = {}
        for path, facts in found.items():
            match = _VERSION_FILE.fullmatch(path[len(root) + 1 :]) if path.startswith(f"{root}/") else None
            if match is not None:
                mark = next((str(facts[key]) for key in _MARKS if facts.get(key) is not None), "")
                listings.setdefault((match["name"], int(match["version"])), {})[match["file"]] = (int(facts["size"]), mark)
        return dict(listings)

    def _here(self) -> Iterator[tuple[str, int]]:
        for model in sorted(path for path in self.root.iterdir() if path.is_dir() and not path.name.startswith(".")):
            yield from ((model.name, version) for version in versions(model))

    def _fetch_unless_known(self, name: str, version: int, listing: Listing) -> None:
        """Raises NotFetched where the version on the storage is damaged; what the cache has of it stays then."""
        if MANIFEST not in listing or self._known.get((name, version)) == listing:
            return
        directory = self.root / name / str(version)
        data = self._read(name, version, MANIFEST)
        manifest = _parsed(data, directory)
        if any(file not in listing or listing[file][0] != entry.size for file, entry in manifest.listed.items()):
            raise NotFetched(
                "is not complete on the storage yet, or damaged there: files that its manifest lists have other sizes"
            )
        if not _is_as_stated(directory, data, manifest, listing):
            self._fetch(name, version, data, manifest, listing)
        self._known[name, version] = listing

    def _fetch(self, name: str, version: int, data: bytes, manifest: Manifest, listing: Listing) -> None:
        wanted = listing.keys() & (manifest.listed.keys() | UNLISTED - {MANIFEST})
        files = {MANIFEST: data} | {file: self._read(name, version, file) for file in sorted(wanted)}
        for file, entry in manifest.listed.items():
            actual = FileEntry.of(files[file])
            if actual != entry:
                raise NotFetched(
                    f"is damaged on the storage: {file} has sha256 {actual.sha256}, its manifest says {entry.sha256}"
                )
        directory = self.root / name / str(version)
        _remove(directory)
        try:
            write_directory(directory, files)
        except FileExistsError:  # another server with this cache was faster
            if not _is_as_stated(directory, data, manifest, listing):
                raise

    def _read(self, name: str, version: int, file: str) -> bytes:
        storage, root = self._storage
        with explained(self.url):
            try:
                return storage.cat_file(f"{root.rstrip('/')}/{name}/{version}/{file}")
            except FileNotFoundError as error:
                raise NotFetched(f"changed while it was fetched: {file} is gone") from error

    def _remove_gone(self, gone: set[tuple[str, int]]) -> None:
        for name, version in gone:
            self._known.pop((name, version), None)
            _remove(self.root / name / str(version))
            with contextlib.suppress(OSError):  # it has other versions
                (self.root / name).rmdir()


def _parsed(data: bytes, directory: Path) -> Manifest:
    try:
        return decode(data, directory)
    except ArtifactError as error:
        raise NotFetched(f"has no manifest that can be read: {error}") from error


def _is_as_stated(directory: Path, data: bytes, manifest: Manifest, listing: Listing) -> bool:
    """Whether the cache has the version with this very manifest, every file as it says, and the others in their sizes."""
    try:
        if (directory / MANIFEST).read_bytes() != data:
            return False
        if any((directory / name).stat().st_size != listing[name][0] for name in UNLISTED & listing.keys()):
            return False
        check_listing(directory, read_manifest(directory))
        for name, entry in manifest.listed.items():
            read_listed(directory, name, entry)
    except (OSError, ArtifactError):
        return False
    return True


def _remove(directory: Path) -> None:
    """Takes a version away by one rename, so that it is never seen in part."""
    aside = directory.with_name(f"{TEMPORARY_PREFIX}{directory.name}-{secrets.token_hex(8)}")
    with contextlib.suppress(FileNotFoundError):
        directory.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)
