"""Which packages this Python has, by the names of their directories (a millisecond: none is opened), and what pins them."""

import contextlib
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

from foundation.storage import canonical_json, sha256_bytes

LOCK_FILES = (
    "Pipfile.lock",
    "conda-lock.yml",
    "constraints.txt",
    "environment.yml",
    "pdm.lock",
    "pixi.lock",
    "poetry.lock",
    "pylock.toml",
    "requirements.txt",
    "uv.lock",
)
_RECORD = re.compile(r"(?P<name>[A-Za-z0-9._]+)-(?P<version>[^-]+)(-py[\d.]+)?\.(dist-info|egg-info)")


def installed() -> dict[str, str]:
    """Package -> version, sorted; of a name that is there twice, the one that `import` would take."""
    found: dict[str, str] = {}
    for place in sys.path:
        for match in filter(None, map(_RECORD.fullmatch, _names(place))):
            found.setdefault(normalised(match["name"]), match["version"])
    return dict(sorted(found.items()))


def installed_sha256(packages: Mapping[str, str]) -> str:
    """One word for all of them: equal where the same packages are there in the same versions."""
    return sha256_bytes(canonical_json(dict(packages)))


def lock_files(directory: Path) -> dict[str, str]:
    """The sha256 of every file in a project's directory that pins versions, by name."""
    found = {}
    for name in LOCK_FILES:
        with contextlib.suppress(OSError):  # it is not there, or cannot be read
            found[name] = sha256_bytes((directory / name).read_bytes())
    return found


def _names(place: str) -> list[str]:
    try:
        return sorted(entry.name for entry in os.scandir(place or "."))
    except OSError:  # a zip archive, or a place that is not there
        return []


def normalised(name: str) -> str:
    """A package's name as indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()
