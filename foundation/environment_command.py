"""`stateserve environment`: what decides the numbers here, printed, written for another machine, or beside another's record."""

import contextlib
import importlib
import json
import platform
import secrets
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from foundation.differences import Difference, by_severity, differences
from foundation.environment import whole_environment
from foundation.errors import StateserveError
from foundation.pins import DEFAULT_TIMEOUT_S, Pin, pins
from foundation.requirements import MADE_BY, environment_yml, requirements_txt
from foundation.storage import TEMPORARY_PREFIX, write_file

ENVIRONMENT, REQUIREMENTS, CONDA = "environment.json", "requirements.txt", "environment.yml"
_LIBRARIES = ("numpy", "onnxruntime", "torch")
_MAX_RECORD_BYTES = 16 << 20


class NoRecord(StateserveError):
    """The path holds no record of an environment."""

    exit_code: ClassVar[int] = 2


class EnvironmentNotWritten(StateserveError):
    """The directory holds somebody else's file of that name, or cannot be written; what was there is as it was."""

    exit_code: ClassVar[int] = 9


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked for: `to` writes the three files there, `against` compares with another's record.

    `ask_index`: whether pip may ask its indexes for hashes, for `timeout_s` at most. `force`: others' files are replaced.
    """

    to: Path | None = None
    against: Path | None = None
    ask_index: bool = True
    timeout_s: float = DEFAULT_TIMEOUT_S
    force: bool = False


@dataclass(frozen=True, slots=True)
class Told:
    """This machine's record; the files that were written, with the packages that have no hash; what differs from the other's."""

    record: Mapping[str, Any]
    written: tuple[Path, ...] = ()
    without_hash: tuple[Pin, ...] = ()
    differing: tuple[Difference, ...] | None = None

    def to_json(self) -> dict[str, Any]:
        """The record itself; with more beside it only where more was asked for."""
        more: dict[str, Any] = {}
        if self.written:
            more["written"] = [str(path) for path in self.written]
            more["without_hash"] = {pin.line: pin.why for pin in self.without_hash}
        if self.differing is not None:
            more["differences"] = [found.to_json() for found in self.differing]
        return {**self.record, **more}


def run(request: Request, git: Mapping[str, Any] | None) -> Told:
    """Does what was asked for, in the working directory's project, whose `git` state is given.

    Raises:
        NoRecord: `against` has no record.
        EnvironmentNotWritten: `to` holds files of these names that we did not make (without `force`), or cannot be written.
    """
    other = None if request.against is None else read_record(request.against)
    if request.to is not None:
        _require_ours(request.to, force=request.force)
    _load_libraries()
    record = whole_environment(Path.cwd(), git)
    differing = None if other is None else differences(other, record)
    if request.to is None:
        return Told(record, differing=differing)
    every = pins(request.timeout_s, ask=request.ask_index)
    written = _write(request.to, _files(record, every))
    return Told(record, written, tuple(pin for pin in every if pin.sha256 is None), differing)


def read_record(path: Path) -> dict[str, Any]:
    """The record of an environment.json, an artifact, or a keeper's checkpoint (its sidecar, or any file that has one beside it).

    Raises:
        NoRecord: there is none that can be read.
    """
    try:
        value = json.loads(_record_file(path).read_bytes()[:_MAX_RECORD_BYTES])
    except (OSError, ValueError, RecursionError) as cause:
        raise NoRecord(
            f"{path} holds no record of an environment ({cause}); give an {ENVIRONMENT}, an artifact's directory, or a "
            "checkpoint that a Keeper wrote, with its .json beside it"
        ) from cause
    if isinstance(value, dict) and isinstance(value.get("environment"), dict):  # a sidecar, which has the commit beside it
        value = {**value["environment"], "git": value.get("git")}
    if not isinstance(value, dict) or "python" not in value:
        raise NoRecord(f"{path} is JSON, but no record of an environment: it has no `python`")
    return value


def text(told: Told) -> str:
    """What a person reads: the facts by what they decide, worst first; or the differences; and what was written."""
    lines = _record_lines(told.record) if told.differing is None else _difference_lines(told.differing)
    lines += [f"written: {path}" for path in told.written]
    lines += [f"without hash: {pin.line}: {pin.why}" for pin in told.without_hash]
    return "\n".join(lines)


def _record_lines(record: Mapping[str, Any]) -> list[str]:
    lines = []
    for severity, facts in by_severity(record):
        if facts:
            lines.append(f"{severity.name} (if it differs: {severity.why})")
            lines += [f"  {name}: {value}" for name, value in facts.items()]
    installed, lock_files = record.get("installed", {}), record.get("lock_files", {})
    return [*lines, f"installed: {len(installed)} packages", *(f"{name}: sha256 {value}" for name, value in lock_files.items())]


def _difference_lines(differing: Iterable[Difference]) -> list[str]:
    lines = [f"{number}. {found} ({', '.join(found.concerns)})" for number, found in enumerate(differing, 1)]
    return ["differs, worst first:", *lines] if lines else ["nothing that decides the numbers differs"]


def _record_file(path: Path) -> Path:
    """Where a path's record stands: links are followed, since `best.pth` is one."""
    if path.is_dir():
        return path / ENVIRONMENT
    beside = path.resolve().with_suffix(".json")
    return path if path.suffix == ".json" or not beside.exists() else beside


def _load_libraries() -> None:
    """Loads what computes, so that it tells its build and its switches; what cannot be loaded cannot decide a number."""
    for name in _LIBRARIES:
        with contextlib.suppress(ImportError, OSError):
            module = importlib.import_module(name)
            if name == "torch" and module.cuda.is_available():
                module.cuda.init()  # so that it tells the GPUs' capabilities


def _files(record: Mapping[str, Any], every: Iterable[Pin]) -> dict[str, str]:
    python = platform.python_version()
    return {
        ENVIRONMENT: json.dumps(record, indent=2, sort_keys=True, ensure_ascii=False) + "\n",
        REQUIREMENTS: requirements_txt(every, python, record["system"]),
        CONDA: environment_yml(python, Path(sys.prefix, "conda-meta")),
    }


def _require_ours(directory: Path, *, force: bool) -> None:
    """Raises EnvironmentNotWritten where a file would be replaced that this command did not make."""
    for path in (directory / name for name in (ENVIRONMENT, REQUIREMENTS, CONDA)):
        if path.exists() and not force and not _made_here(path):
            raise EnvironmentNotWritten(
                f"{path} is there, and not made by this command; take another directory for --to, or --force to replace it"
            )


def _made_here(path: Path) -> bool:
    if path.name != ENVIRONMENT:
        with path.open("rb") as file:
            return file.read(len(MADE_BY)) == MADE_BY.encode()
    try:
        read_record(path)
    except NoRecord:
        return False
    return True


def _write(directory: Path, files: Mapping[str, str]) -> tuple[Path, ...]:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, page in files.items():
            _replace(directory / name, page.encode())
    except OSError as cause:
        raise EnvironmentNotWritten(f"the environment could not be written to {directory}: {cause.strerror or cause}") from cause
    return tuple(directory / name for name in files)


def _replace(path: Path, data: bytes) -> None:
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{path.name}-{secrets.token_hex(8)}")
    try:
        write_file(temporary, data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
