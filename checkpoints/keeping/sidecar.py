"""The JSON beside a checkpoint's files: what they are, and the facts of the training that wrote them.

It is written last, so that its being there means that everything that it lists was written before.
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeGuard

from checkpoints.errors import UnreadableCheckpoint
from checkpoints.keeping.names import LARGEST_STEP, sidecar_name, stem_of
from foundation.storage import canonical_json

KIND = "stateserve-checkpoint"
SCHEMA = 1
LARGEST_BYTES = 64 << 20
"""A sidecar with more is not read: it is a few kilobytes, unless a training's config is very long."""

ROLES: Mapping[str, frozenset[str]] = {
    "safetensors": frozenset({"weights", "state"}),
    "pth": frozenset({"checkpoint"}),
}
"""Which files each format consists of, one of each."""

_NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class KeptFile:
    """One of a checkpoint's files: what it is for (`weights`, `state` or `checkpoint`), its bytes, and their sha256 in hex."""

    role: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sidecar:
    """The facts of one checkpoint. `sequence` counts the checkpoints of a place; `saved_at` is for people, and decides nothing.

    `kept_by` are the labels of the policies that wanted it when it was saved.
    """

    stem: str
    step: int
    epoch: int | None
    sequence: int
    run: str
    saved_at: str
    format: str
    files: Mapping[str, KeptFile]
    metrics: Mapping[str, float] = field(default_factory=dict)
    kept_by: tuple[str, ...] = ()
    config: Mapping[str, Any] | None = None
    environment: Mapping[str, Any] = field(default_factory=dict)
    git: Mapping[str, Any] | None = None
    warm_start: tuple[Mapping[str, Any], ...] = ()

    @property
    def name(self) -> str:
        """The sidecar's own file name."""
        return sidecar_name(self.stem)

    @property
    def weights(self) -> str:
        """The name of the file with the weights: what `best` and `latest` point to, and the exporter reads."""
        return self._file("weights", "checkpoint")

    @property
    def state(self) -> str:
        """The name of the file with the optimizer and the rest; in the format "pth" that with the weights."""
        return self._file("state", "checkpoint")

    def encode(self) -> bytes:
        """Canonical JSON; metrics that are not finite numbers stand as "NaN", "Infinity" and "-Infinity".

        Raises ValueError or TypeError where config, environment or a report hold what JSON does not.
        """
        return canonical_json(
            {
                "kind": KIND,
                "schema": SCHEMA,
                "step": self.step,
                "epoch": self.epoch,
                "sequence": self.sequence,
                "run": self.run,
                "saved_at": self.saved_at,
                "format": self.format,
                "files": {
                    name: {"role": file.role, "size": file.size, "sha256": file.sha256} for name, file in self.files.items()
                },
                "metrics": {name: _number_text(value) for name, value in self.metrics.items()},
                "kept_by": list(self.kept_by),
                "config": self.config,
                "environment": self.environment,
                "git": self.git,
                "warm_start": list(self.warm_start),
            }
        )

    def _file(self, *roles: str) -> str:
        return next(name for name, file in self.files.items() if file.role in roles)


def parse_sidecar(raw: bytes, name: str) -> Sidecar:
    """Read a sidecar's bytes; `name` is its file's. Fields that we do not know are passed over.

    Raises UnreadableCheckpoint, and nothing else, where the bytes are not a sidecar: whatever they are.
    """
    fields = _json_object(raw, name)
    _check_kind(fields, name)
    stem = stem_of(name)
    if stem is None or sidecar_name(stem) != name:
        raise UnreadableCheckpoint(f"{name} is not the name of a sidecar; expected step-<8 digits>.json.")
    for key, (fits, expected) in _FIELDS.items():
        if not fits(fields.get(key)):
            raise UnreadableCheckpoint(f"{name} is not a sidecar: {key} is {_shown(fields.get(key))}, expected {expected}.")
    return Sidecar(
        stem=stem,
        step=fields["step"],
        epoch=fields["epoch"],
        sequence=fields["sequence"],
        run=fields["run"],
        saved_at=fields["saved_at"],
        format=fields["format"],
        files=_files(fields, stem, name),
        metrics={key: _NOT_FINITE[value] if isinstance(value, str) else float(value) for key, value in fields["metrics"].items()},
        kept_by=tuple(fields["kept_by"]),
        config=fields["config"],
        environment=fields["environment"],
        git=fields["git"],
        warm_start=tuple(fields["warm_start"]),
    )


def _json_object(raw: bytes, name: str) -> dict[str, Any]:
    if len(raw) > LARGEST_BYTES:
        raise UnreadableCheckpoint(f"{name} has {len(raw)} bytes; a sidecar has at most {LARGEST_BYTES}.")
    try:
        fields = json.loads(raw.decode(), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise UnreadableCheckpoint(f"{name} is not JSON: {error}.") from error
    if not isinstance(fields, dict):
        raise UnreadableCheckpoint(f"{name} is not a sidecar: expected a JSON object, found {type(fields).__name__}.")
    return fields


def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} is not JSON")


def _check_kind(fields: Mapping[str, Any], name: str) -> None:
    kind, schema = fields.get("kind"), fields.get("schema")
    if kind != KIND:
        raise UnreadableCheckpoint(f'{name} is not a sidecar: kind is {_shown(kind)}, expected "{KIND}".')
    if not _is_count(schema) or schema < 1:
        raise UnreadableCheckpoint(f"{name} is not a sidecar: schema is {_shown(schema)}, expected {SCHEMA}.")
    if schema > SCHEMA:
        raise UnreadableCheckpoint(
            f"{name} has schema {schema}, this stateserve reads {SCHEMA}. Install the stateserve that wrote it."
        )


def _files(fields: Mapping[str, Any], stem: str, name: str) -> dict[str, KeptFile]:
    files = {}
    for file_name, facts in fields["files"].items():
        if stem_of(file_name) != stem or file_name == name:
            raise UnreadableCheckpoint(f"{name} is not a sidecar: it lists {_shown(file_name)}, which is not a file of {stem}.")
        if not _is_file(facts):
            raise UnreadableCheckpoint(
                f"{name} is not a sidecar: {file_name} is {_shown(facts)}, expected role, size and sha256."
            )
        files[file_name] = KeptFile(facts["role"], facts["size"], facts["sha256"])
    roles = sorted(file.role for file in files.values())
    if roles != sorted(ROLES[fields["format"]]):
        expected = ", ".join(sorted(ROLES[fields["format"]]))
        raise UnreadableCheckpoint(
            f"{name} is not a sidecar: the files' roles are {roles}, the format has one each of {expected}."
        )
    return files


def _is_file(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and isinstance(value.get("role"), str)
        and _is_count(value.get("size"))
        and isinstance(value.get("sha256"), str)
        and _SHA256.fullmatch(value["sha256"]) is not None
    )


def _is_count(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63


def _is_step(value: Any) -> bool:
    return _is_count(value) and value <= LARGEST_STEP


def _is_metric(value: Any) -> bool:
    if isinstance(value, str):
        return value in _NOT_FINITE
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(float(value))
    except OverflowError:
        return False


def _is_optional_object(value: Any) -> bool:
    return value is None or isinstance(value, dict)


def _is_list_of(kind: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(isinstance(item, kind) for item in value)


_FIELDS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "step": (_is_step, f"a whole number from 0 to {LARGEST_STEP}"),
    "epoch": (lambda value: value is None or _is_count(value), "a whole number from 0 on, or null"),
    "sequence": (lambda value: _is_count(value) and value >= 1, "a whole number from 1 on"),
    "run": (lambda value: isinstance(value, str), "a text"),
    "saved_at": (lambda value: isinstance(value, str), "a text"),
    "format": (lambda value: isinstance(value, str) and value in ROLES, " or ".join(sorted(ROLES))),
    "files": (lambda value: isinstance(value, dict), "an object"),
    "metrics": (
        lambda value: isinstance(value, dict) and all(map(_is_metric, value.values())),
        'an object of numbers, "NaN", "Infinity" or "-Infinity"',
    ),
    "kept_by": (_is_list_of(str), "a list of texts"),
    "config": (_is_optional_object, "an object or null"),
    "environment": (lambda value: isinstance(value, dict), "an object"),
    "git": (_is_optional_object, "an object or null"),
    "warm_start": (_is_list_of(dict), "a list of objects"),
}


def _number_text(value: float) -> float | str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return value


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:80] + "…"
