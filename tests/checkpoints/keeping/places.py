"""What lies in a keeper's directory, read without any of the room's code: from a local directory, or from an S3 server."""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

POINTER = b"stateserve-pointer 1\n"
LINKS = ("latest.pth", "best.pth")
OWNER, LOCK = ".keeper.json", ".keeper.lock"
TEMPORARY = ".tmp-"


class Place(Protocol):
    """Where checkpoints are kept."""

    @property
    def location(self) -> str:
        """What a Keeper is given."""
        ...

    def names(self) -> list[str]:
        """All that lies there, hidden files too."""
        ...

    def read(self, name: str) -> bytes:
        """A file's bytes."""
        ...

    def pointed(self, link: str) -> str | None:
        """The name to which a link, or a pointer, leads; None where it is not there."""
        ...

    def unfinished(self) -> int:
        """Uploads that were begun and not finished."""
        ...

    def local(self, scratch: Path) -> Path:
        """A local directory with the same files, links or pointers included."""
        ...


@dataclass(frozen=True, slots=True)
class LocalPlace:
    """A directory."""

    directory: Path

    @property
    def location(self) -> str:
        return str(self.directory)

    def names(self) -> list[str]:
        return sorted(path.name for path in self.directory.iterdir()) if self.directory.is_dir() else []

    def read(self, name: str) -> bytes:
        return (self.directory / name).read_bytes()

    def pointed(self, link: str) -> str | None:
        path = self.directory / link
        if path.is_symlink():
            return str(path.readlink())
        return _pointer(path.read_bytes()) if path.exists() else None

    def unfinished(self) -> int:
        return 0

    def local(self, scratch: Path) -> Path:  # noqa: ARG002 (it is local already)
        return self.directory


@dataclass(frozen=True, slots=True)
class S3Place:
    """A prefix of a bucket, asked with boto3."""

    client: Any
    bucket: str
    prefix: str

    @property
    def location(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}"

    def names(self) -> list[str]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=f"{self.prefix}/")
        return sorted(entry["Key"].removeprefix(f"{self.prefix}/") for page in pages for entry in page.get("Contents", ()))

    def read(self, name: str) -> bytes:
        return self.client.get_object(Bucket=self.bucket, Key=f"{self.prefix}/{name}")["Body"].read()

    def pointed(self, link: str) -> str | None:
        return _pointer(self.read(link)) if link in self.names() else None

    def unfinished(self) -> int:
        return len(self.client.list_multipart_uploads(Bucket=self.bucket, Prefix=f"{self.prefix}/").get("Uploads", ()))

    def local(self, scratch: Path) -> Path:
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        for name in self.names():
            (scratch / name).write_bytes(self.read(name))
        return scratch


@dataclass(frozen=True, slots=True)
class Kept:
    """A complete checkpoint: its sidecar is there, and every file that it lists, with the size and the sha256 that it lists."""

    stem: str
    step: int
    sequence: int
    files: tuple[str, ...]
    weights: str


@dataclass(frozen=True, slots=True)
class Contents:
    """What lies in a place: complete checkpoints by step, where the links lead, and what belongs to none of it."""

    kept: dict[int, Kept]
    links: dict[str, str]
    temporary: tuple[str, ...]
    orphans: tuple[str, ...]
    torn: tuple[str, ...]
    """Faults: a sidecar whose files are missing, short, or other bytes; a step twice; something that should not be there."""

    @property
    def newest(self) -> int | None:
        """The step of the complete checkpoint with the largest sequence."""
        return max(self.kept.values(), key=lambda kept: kept.sequence).step if self.kept else None

    def holder(self, link: str) -> Kept | None:
        """The complete checkpoint to whose weights a link leads."""
        return next((kept for kept in self.kept.values() if kept.weights == self.links.get(link)), None)


def look(place: Place) -> Contents:
    """Reads everything and checks every hash."""
    names = place.names()
    kept: dict[int, Kept] = {}
    torn: list[str] = []
    for name in names:
        if name.startswith("step-") and name.endswith(".json"):
            try:
                one = _complete(name, place.read)
            except (KeyError, ValueError, OSError) as cause:
                torn.append(f"{name}: {cause!r}")
                continue
            torn += [f"step {one.step} is there twice: {name}"] if one.step in kept else []
            kept[one.step] = one
    links = {link: target for link in LINKS if (target := place.pointed(link))}
    known = {file for one in kept.values() for file in (*one.files, f"{one.stem}.json")} | {*links, OWNER, LOCK}
    rest = [name for name in names if name not in known]
    temporary = tuple(name for name in rest if name.startswith(TEMPORARY))
    orphans = tuple(name for name in rest if name.startswith("step-"))
    torn += [f"{name} is no file of a keeper" for name in rest if name not in {*temporary, *orphans} and not name.startswith(".")]
    return Contents(kept, links, temporary, orphans, tuple(torn))


def _complete(name: str, read: Callable[[str], bytes]) -> Kept:
    sidecar = json.loads(read(name))
    for file, entry in sidecar["files"].items():
        data = read(file)
        if len(data) != entry["size"] or hashlib.sha256(data).hexdigest() != entry["sha256"]:
            raise ValueError(f"{file} is not what the sidecar says: {len(data)} bytes of {entry['size']}")
    weights = next(file for file, entry in sidecar["files"].items() if entry["role"] in {"weights", "checkpoint"})
    return Kept(name.removesuffix(".json"), sidecar["step"], sidecar["sequence"], tuple(sidecar["files"]), weights)


def _pointer(data: bytes) -> str:
    if not data.startswith(POINTER) or not data.endswith(b"\n") or data.count(b"\n") != 2:
        raise ValueError(f"no pointer: {data[:80]!r}")
    return data.removeprefix(POINTER).decode().strip()
