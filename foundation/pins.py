"""What is installed, pinned: every package's version, and the sha256 of the file that pip has for this kind of machine."""

import contextlib
import importlib.metadata
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from foundation.installed import normalised

DEFAULT_TIMEOUT_S = 180.0
_UNREACHABLE = re.compile(
    r"NewConnectionError|Failed to establish a new connection|Max retries exceeded|Connection broken|timed out"
)
_NOT_FOUND = re.compile(r"No matching distribution found for (?P<name>[A-Za-z0-9._-]+)==")


@dataclass(frozen=True, slots=True)
class Pin:
    """One package in its version; `sha256` of its wheel, or `why` there is none. `conda`: conda installed it, not pip.

    `path_only`: it came from a directory or a version control system, and no index has it.
    """

    name: str
    version: str
    sha256: str | None = None
    why: str | None = None
    path_only: bool = False
    conda: bool = False
    tags: frozenset[str] = frozenset()

    @property
    def line(self) -> str:
        """What pip calls it."""
        return f"{self.name}=={self.version}"


def pins(timeout_s: float = DEFAULT_TIMEOUT_S, *, ask: bool = True) -> tuple[Pin, ...]:
    """Every installed package, by name; with `ask`, pip is asked for the hashes, with its own settings, for `timeout_s` at most.

    pip downloads what its indexes do not tell otherwise, and installs nothing; no package's code runs.
    """
    found = {pin.name: pin for pin in map(_installed, _distributions())}
    open_ = [pin for pin in found.values() if pin.sha256 is None and pin.why is None]
    if ask:
        found |= {pin.name: pin for pin in _asked(open_, time.monotonic() + timeout_s)}
    else:
        found |= {pin.name: replace(pin, why="no index was asked") for pin in open_}
    return tuple(found[name] for name in sorted(found))


def _distributions() -> list[importlib.metadata.Distribution]:
    """Those that `import` would take."""
    found: dict[str, importlib.metadata.Distribution] = {}
    for distribution in importlib.metadata.distributions():
        with contextlib.suppress(KeyError, TypeError):  # a directory without METADATA: left by a removal that was killed
            found.setdefault(normalised(distribution.metadata["Name"]), distribution)
    return list(found.values())


def _installed(distribution: importlib.metadata.Distribution) -> Pin:
    """What the package's own records say of where it came from (PEP 610)."""
    lines = re.findall(r"^Tag:\s*(\S+)", distribution.read_text("WHEEL") or "", re.MULTILINE)
    tags = frozenset(tag for line in lines for tag in _expanded(line))
    pin = Pin(normalised(distribution.metadata["Name"]), distribution.version, tags=tags)
    if (distribution.read_text("INSTALLER") or "").strip() == "conda":
        return replace(pin, why="conda installed it: environment.yml has its build", conda=True)
    try:
        origin = json.loads(distribution.read_text("direct_url.json") or "{}")
    except ValueError:
        origin = {}
    return _from(pin, origin)


def _from(pin: Pin, origin: Mapping[str, Any]) -> Pin:
    if "dir_info" in origin:
        return replace(pin, why="installed from a directory: pip install --no-deps DIRECTORY", path_only=True)
    if "vcs_info" in origin:
        vcs = origin["vcs_info"]
        why = f"installed from {vcs.get('vcs', 'a version control system')}, commit {vcs.get('commit_id', 'not known')}"
        return replace(pin, why=why, path_only=True)
    if "archive_info" in origin:
        sha256 = _sha256(origin["archive_info"])
        return replace(pin, sha256=sha256, why=None if sha256 else "installed from a file whose hash pip did not record")
    return pin


def _asked(wanted: list[Pin], until: float) -> Iterator[Pin]:
    """The pins with what pip found. What its index does not have is taken out, and the others are asked for again."""
    while wanted:
        report, said = _pip_report(wanted, until - time.monotonic())
        if report is not None:
            yield from (_with_hash(pin, report) for pin in wanted)
            return
        missing = [match["name"] for match in _NOT_FOUND.finditer(said)]
        absent = [pin for pin in wanted if pin.name in {normalised(name) for name in missing}]
        if _UNREACHABLE.search(said) or not absent:
            yield from (replace(pin, why=_reason(said)) for pin in wanted)
            return
        yield from (replace(pin, why="the index has no wheel of it for this kind of machine") for pin in absent)
        wanted = [pin for pin in wanted if pin not in absent]


def _pip_report(wanted: list[Pin], timeout_s: float) -> tuple[list[Any] | None, str]:
    """What pip would install for exactly these, or None and what it said."""
    if timeout_s <= 0:
        return None, "the time was up"
    with tempfile.TemporaryDirectory() as folder:
        listed, report = Path(folder, "pins.txt"), Path(folder, "report.json")
        listed.write_text("".join(f"{pin.line}\n" for pin in wanted))
        words = ["install", "--dry-run", "--no-deps", "--ignore-installed", "--only-binary=:all:", "--retries=1", "--no-input"]
        words += ["--quiet", "--disable-pip-version-check", "--report", str(report), "-r", str(listed)]
        variables = {**os.environ, "PIP_NO_COLOR": "1"}
        try:
            done = subprocess.run(  # noqa: S603 - our own Python's pip
                [sys.executable, "-m", "pip", *words],
                env=variables, capture_output=True, text=True, errors="replace", timeout=timeout_s, check=False,
                stdin=subprocess.DEVNULL,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return None, "the time was up"
        if done.returncode != 0:
            return None, done.stderr
        return json.loads(report.read_text())["install"], ""


def _with_hash(pin: Pin, report: list[Any]) -> Pin:
    """The pin with the hash of the file that pip would take, if what is installed was made from such a file."""
    for entry in report:
        if normalised(entry["metadata"]["name"]) == pin.name:
            return _checked(pin, entry["download_info"])
    return replace(pin, why="pip's report does not have it")


def _checked(pin: Pin, download: Mapping[str, Any]) -> Pin:
    sha256 = _sha256(download.get("archive_info", {}))
    if sha256 is None:
        return replace(pin, why="the index does not tell its hash")
    offered = _tags(unquote(urlsplit(download["url"]).path.rsplit("/", 1)[-1]))
    if pin.tags and offered and not pin.tags & offered:
        return replace(pin, why=f"built here ({min(pin.tags)}): the index has {min(offered)}")
    return replace(pin, sha256=sha256)


def _sha256(archive: Mapping[str, Any]) -> str | None:
    """As PEP 610 has it: `hashes`, or, of pip before 23.1, `hash`."""
    earlier = dict([str(archive.get("hash", "")).split("=", 1)]) if "=" in str(archive.get("hash", "")) else {}
    return archive.get("hashes", earlier).get("sha256")


def _tags(wheel: str) -> frozenset[str]:
    """What a wheel is for, as its file's name says."""
    return _expanded("-".join(wheel.removesuffix(".whl").split("-")[-3:])) if wheel.endswith(".whl") else frozenset()


def _expanded(tag: str) -> frozenset[str]:
    """The tags that one stands for: `py2.py3-none-any` is two."""
    parts = [part.split(".") for part in tag.split("-")]
    return frozenset("-".join(choice) for choice in itertools.product(*parts))


def _reason(said: str) -> str:
    if _UNREACHABLE.search(said):
        return "the package index could not be reached"
    last = next((line.strip() for line in reversed(said.splitlines()) if line.strip()), "pip said nothing")
    return f"no answer of pip: {last.removeprefix('ERROR: ')[:120]}"
