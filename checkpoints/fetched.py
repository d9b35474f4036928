"""A checkpoint on another storage, as a local one: fetched to a cache, with what an exporter reads beside it."""

import contextlib
import secrets
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from checkpoints.errors import UnreadableCheckpoint
from checkpoints.keeping.names import is_link, sidecar_name, stem_of
from checkpoints.keeping.sidecar import Sidecar, parse_sidecar
from checkpoints.pointers import LARGEST_POINTER_BYTES, pointed_name
from foundation.remote import StorageError, beside, collapsed_url, fetch, fetched_path, filesystem, is_url, read_bytes
from foundation.storage import TEMPORARY_PREFIX


def local_checkpoint(location: str | Path, cache: Path | None = None) -> Path:
    """The path itself; of a URL (`s3://bucket/runs/digits/best.pth`), the fetched file's path, under the same name.

    Of a pointer, what it names is fetched too. With a Keeper's checkpoint come its sidecar, whose sha256 the file must have, and
    the labels file of its config; with every checkpoint STEM.yaml beside it, where there is one, and its labels file. What was
    fetched before and is unchanged is not fetched again. `cache` is `foundation.remote.default_cache()` where None.

    Raises UnreadableCheckpoint where the storage cannot be used, or holds no such file.
    """
    if not is_url(location):
        _require_no_collapsed_url(Path(location))
        return Path(location)
    url = str(location)
    with _unreadable(url):
        path = fetched_path(url, cache)
        folder = _Folder(url, cache, filesystem(url)[0])
        config = _fetch_weights(folder, path) if is_link(path.name) else _fetch_file(folder, path.name)
        yaml = folder.fetch_optional(path.with_suffix(".yaml").name)
        for labels in {*_labels(config), *_labels(_parsed(yaml))}:
            folder.fetch_optional(labels)
    return path


@dataclass(frozen=True, slots=True)
class _Folder:
    """The folder of a URL, and the one of the cache that goes with it."""

    url: str
    cache: Path | None
    storage: Any

    def fetch(self, name: str, expected_sha256: str | None = None) -> Path:
        return fetch(beside(self.url, name), self.cache, expected_sha256, self.storage)

    def fetch_optional(self, name: str) -> Path | None:
        """None where there is none; then one that was fetched earlier goes too: what the storage no longer has is not read."""
        try:
            return self.fetch(name)
        except FileNotFoundError:
            fetched_path(beside(self.url, name), self.cache).unlink(missing_ok=True)
            return None

    def pointer(self, name: str) -> tuple[bytes, str | None]:
        """The beginning of a file, and the name of the file that it points to, None where it is no pointer."""
        data = read_bytes(beside(self.url, name), LARGEST_POINTER_BYTES + 1, self.storage)
        target = pointed_name(data)
        if target is not None and is_link(target):
            raise UnreadableCheckpoint(f"{self.url} points to {target}, which is a pointer too. Give the checkpoint itself.")
        return data, target


def _fetch_weights(folder: _Folder, path: Path) -> Any:
    """Fetch what best.pth or latest.pth is or names; the config of its sidecar, if it has one.

    A training that goes on may replace the pointer and remove what it named meanwhile: then the new one is followed.
    """
    data, target = folder.pointer(path.name)
    while target is not None:
        try:
            config = _fetch_file(folder, target)
        except FileNotFoundError:
            before, (data, target) = target, folder.pointer(path.name)
            if target == before:
                raise
            continue
        _replace(path, data)
        return config
    return _fetch_file(folder, path.name)


def _replace(path: Path, data: bytes) -> None:
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{path.name}-{secrets.token_hex(8)}")
    temporary.write_bytes(data)
    temporary.replace(path)


def _fetch_file(folder: _Folder, name: str) -> Any:
    """Fetch a file, which must be as its sidecar says, if there is one; that sidecar's config."""
    sidecar = _fetch_sidecar(folder, name)
    kept = None if sidecar is None else sidecar.files.get(name)
    folder.fetch(name, None if kept is None else kept.sha256)
    return None if sidecar is None else sidecar.config


def _fetch_sidecar(folder: _Folder, name: str) -> Sidecar | None:
    stem = stem_of(name)
    path = folder.fetch_optional(sidecar_name(stem)) if stem is not None else None
    return None if path is None else parse_sidecar(path.read_bytes(), path.name)


def _labels(config: Any) -> Iterator[str]:
    """The labels files that a config's outputs name, those without a folder and not hidden."""
    outputs = config.get("outputs") if isinstance(config, Mapping) else None
    for output in _values(outputs):
        name = output.get("labels") if isinstance(output, Mapping) else None
        if isinstance(name, str) and name == Path(name).name and name and name[0] != "." and name.isprintable():
            yield name


def _values(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, Mapping) else ()


def _parsed(path: Path | None) -> Any:
    """A YAML as data, to see which labels file it names; the exporter reads it again and says what is wrong with it."""
    if path is None:
        return None
    try:
        import yaml
    except ImportError:
        return None
    try:
        return yaml.safe_load(path.read_bytes())
    except (yaml.YAMLError, ValueError, RecursionError):
        return None


def _require_no_collapsed_url(path: Path) -> None:
    url = collapsed_url(path)
    if url is not None and not path.exists():
        raise UnreadableCheckpoint(f"{path} was a URL before it became a path: give {url!r} as text.")


@contextlib.contextmanager
def _unreadable(url: str) -> Iterator[None]:
    try:
        yield
    except StorageError as error:
        raise UnreadableCheckpoint(str(error)) from error
    except FileNotFoundError as error:
        raise UnreadableCheckpoint(f"{url} is not there, or points to a file that is not there: {error}.") from error
    except OSError as error:
        raise UnreadableCheckpoint(f"{url} cannot be kept in the cache: {error.strerror or error}.") from error
