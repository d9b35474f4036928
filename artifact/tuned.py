"""What `stateserve tune` found on a machine: bench.json, in the artifact's directory and outside its content id.

It lies beside files that are hashed, and is not hashed itself: what it says is numbers, each of which is checked here, and
nothing that it says keeps a model from being served.
"""

import errno
import os
import stat
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, Field, ValidationError

from artifact.engines import LOADERS
from artifact.manifest import BENCH, Manifest
from artifact.signature import Signature
from foundation.environment import speed_identity
from foundation.storage import replace_within

SCHEMA = 1
TIE = 0.03
"""Two speeds or latencies that differ by less are the same: what two measurements of one arm commonly differ by."""

SERVED_CALL_S = 300e-6
"""What a call costs a server beside the engine's own time: the way to a thread and back, joining, splitting (docs/adr/0009)."""

MAX_REASON = 2000
"""Characters of a failure's reason that are kept."""

_MAX_BYTES = 512 << 10
_MAX_ECHOED = 80
"""Characters of another's text that are told on: the log and the model's configuration are no place for more."""
_LIBRARIES: Mapping[str, tuple[str, ...]] = {
    "onnx": ("onnxruntime", "onnxruntime-gpu"),
    "torchscript": ("torch",),
    "pt2": ("torch",),
}

Count = Annotated[int, Field(ge=1, le=1 << 20)]
Word = Annotated[str, Field(max_length=200)]
Engine = Annotated[str, Field(pattern=r"^(onnx|torchscript|pt2)$")]
Precision = Literal["float32", "tf32", "float16", "bfloat16"]
Moment = Annotated[str, Field(pattern=r"^[0-9-]{10}T[0-9:]{8}\+00:00$")]
Words = Annotated[list[Word], Field(max_length=64, fail_fast=True)]
Share = Annotated[float, Field(ge=0, le=1)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Speed = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Part(BaseModel, frozen=True, extra="forbid", strict=True):
    """One object of the file."""


class Machine(Part, frozen=True):
    """What a speed depends on, as `foundation.environment.speed_identity` tells it; `gpus` where they were used."""

    cpu: Word
    isa: Words
    cores: Count
    packages: Annotated[dict[Word, Word], Field(max_length=16)]
    gpus: Words | None = None

    @classmethod
    def here(cls, device: str) -> "Machine":
        """This one, for runs on a device."""
        return cls.model_validate(speed_identity(gpus=device != "cpu"))

    def differences(self, here: "Machine", engine: str | None = None) -> list[str]:
        """What is other here, a few words each; with `engine`, the versions of the other engines do not matter."""
        facts = ("processor", self.cpu, here.cpu), ("cores", self.cores, here.cores), ("GPUs", self.gpus, here.gpus)
        found = [f"{what} {_cut(there)} there, {_cut(now)} here" for what, there, now in facts if there != now]
        if self.isa != here.isa:
            found.append("other instruction sets")
        names = sorted({*self.packages, *here.packages}) if engine is None else _LIBRARIES[engine]
        versions = [(name, self.packages.get(name, "none"), here.packages.get(name, "none")) for name in names]
        return found + [f"{name} {_cut(there)} there, {_cut(now)} here" for name, there, now in versions if there != now]

    @property
    def is_known(self) -> bool:
        """Whether the processor says what it is: without, another one could not be told from it."""
        return bool(self.cpu and self.isa)


class Arm(Part, frozen=True):
    """A way to run a model: `instances` calls at a time, each with `threads` threads."""

    engine: Engine
    instances: Count
    threads: Count

    def __str__(self) -> str:
        return f"{self.engine}, {_counted(self.instances, 'instance')} x {_counted(self.threads, 'thread')}"


class Measurement(Part, frozen=True):
    """An arm with so many rows in a call: rows in a second by all instances together, and how long one call takes.

    `spread` is what the speeds of parts of the measurement differ by, as a share; `round` 0 was the first and shortest.
    """

    arm: Arm
    rows: Count
    round: Annotated[int, Field(ge=0)]
    calls: Count
    rows_per_s: Speed
    p50_s: Seconds
    p99_s: Seconds
    spread: Seconds


class Fit(Part, frozen=True):
    """The time of an arm's call of n rows as a line: t(n) = `per_row_s` · n + `per_call_s`."""

    arm: Arm
    per_row_s: Seconds
    per_call_s: Seconds


class Failure(Part, frozen=True):
    """Why an arm was not measured, or not to its end."""

    arm: Arm
    reason: Annotated[str, Field(max_length=MAX_REASON)]


class Choice(Part, frozen=True):
    """The arm to run, and how many rows to join: the fewest with which a server is as fast as it can be."""

    arm: Arm
    max_rows: Count

    def __str__(self) -> str:
        return f"{self.arm}, at most {_counted(self.max_rows, 'row')}"


class Options(Part, frozen=True):
    """What was asked: two runs that were asked for the same go on with each other's measurements."""

    engines: Annotated[tuple[Engine, ...], Field(max_length=8, fail_fast=True)]
    budget_s: Seconds
    max_call_s: Seconds


class Tuning(Part, frozen=True):
    """One run of the tuner. An interrupted one is not complete, and has no choice yet; `spent_s` is what it took so far.

    `precision` is what was computed in; `busy_before` is the share of the cores' time that other work took before the run began.
    """

    device: Annotated[str, Field(pattern=r"^(cpu|cuda:\d{1,3})$")]
    precision: Precision = "float32"
    complete: bool
    made_at: Moment
    machine: Machine
    options: Options
    spent_s: Seconds
    busy_before: Share = 0.0
    measurements: Annotated[tuple[Measurement, ...], Field(max_length=8192, fail_fast=True)] = ()
    failures: Annotated[tuple[Failure, ...], Field(max_length=1024, fail_fast=True)] = ()
    fits: Annotated[tuple[Fit, ...], Field(max_length=1024, fail_fast=True)] = ()
    choice: Choice | None = None

    def latest(self) -> dict[tuple[Arm, int], Measurement]:
        """The last measurement of each arm and number of rows, in the order in which they were first measured."""
        return {(one.arm, one.rows): one for one in self.measurements}

    def engines_as_here(self) -> set[str]:
        """The engines whose libraries have the same version here: what was measured with another one does not hold."""
        here = Machine.here(self.device)
        return {engine for engine in _LIBRARIES if not self.machine.differences(here, engine)}


class BenchFile(Part, frozen=True):
    """bench.json: of each device, at most one complete run and one that was interrupted."""

    schema_version: Literal[1] = Field(alias="schema", default=SCHEMA)
    content_id: Word
    tunings: Annotated[tuple[Tuning, ...], Field(max_length=32, fail_fast=True)] = ()

    def of(self, device: str, *, complete: bool) -> Tuning | None:
        """The run for a device, or None."""
        return next((one for one in self.tunings if one.device == device and one.complete == complete), None)

    def put(self, tuning: Tuning) -> "BenchFile":
        """The file with a run in it: a complete one replaces both, an interrupted one leaves the complete one as it is."""
        kept = [one for one in self.tunings if one.device != tuning.device or (one.complete and not tuning.complete)]
        return BenchFile(content_id=self.content_id, tunings=(*kept, tuning))

    def without(self, tuning: Tuning) -> "BenchFile":
        """The file without a run."""
        return BenchFile(content_id=self.content_id, tunings=tuple(one for one in self.tunings if one != tuning))


@dataclass(frozen=True, slots=True)
class Ignored:
    """Why bench.json is not followed: the end of a sentence that begins with its name."""

    reason: str


def read(directory: Path, manifest: Manifest) -> BenchFile | Ignored | None:
    """What bench.json says of this artifact; None where there is none."""
    path = directory / BENCH
    try:
        data = _bytes_of(path)
        if data is None:
            return Ignored("is not a file that the tuner wrote")
        file = BenchFile.model_validate_json(data)
    except FileNotFoundError:
        return None
    except OSError as cause:
        return Ignored(f"cannot be read: {cause.strerror}")
    except ValidationError as cause:
        first = cause.errors(include_url=False, include_context=False, include_input=False)[0]
        where = _shortened(".".join(_key(part) for part in first["loc"]))
        return Ignored(f"is not of schema {SCHEMA}: {f'{where}: ' if where else ''}{_shortened(first['msg'])}")
    if file.content_id != manifest.content_id:
        return Ignored(f"is about another artifact: content id {file.content_id[:12]!r} there, {manifest.content_id[:12]!r} here")
    return file


def _bytes_of(path: Path) -> bytes | None:
    """None where it is no file, or too large for one that the tuner wrote; as it is read, and not as it was a moment ago."""
    if not stat.S_ISREG(path.lstat().st_mode):
        return None
    with path.open("rb") as file:
        data = file.read(_MAX_BYTES + 1)
    return data if len(data) <= _MAX_BYTES else None


def write(directory: Path, file: BenchFile) -> None:
    """Writes bench.json, whole or not at all; one with no run in it goes away.

    Raises:
        OSError: the directory, or the one around it, cannot be written; or the file would be larger than `read` allows.
    """
    if not file.tunings:
        (directory / BENCH).unlink(missing_ok=True)
        return
    data = file.model_dump_json(by_alias=True).encode() + b"\n"
    if len(data) > _MAX_BYTES:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(directory / BENCH))
    replace_within(directory, BENCH, data)


def follow(directory: Path, manifest: Manifest, device: str = "cpu", precision: str | None = None) -> Tuning | Ignored | None:
    """The complete run that holds on this machine, or why none does; None where there is no bench.json.

    With `precision`, what was measured in another one does not hold: it is another speed.
    """
    file = read(directory, manifest)
    if not isinstance(file, BenchFile):
        return file
    tuning = file.of(device, complete=True)
    if tuning is None:
        others = ", ".join(sorted({one.device for one in file.tunings if one.complete}))
        unfinished = "is not complete: the tuner was interrupted, or is at work"
        return Ignored(f"is about {others}, not about {device}" if others else unfinished)
    if precision not in {None, tuning.precision}:
        return Ignored(f"is about precision {tuning.precision}, not about {precision}")
    if tuning.choice is None:
        return Ignored("makes no choice")
    reason = _why_not(tuning, tuning.choice, manifest)
    return tuning if reason is None else Ignored(reason)


def _why_not(tuning: Tuning, choice: Choice, manifest: Manifest) -> str | None:
    here = Machine.here(tuning.device)
    if different := tuning.machine.differences(here, choice.arm.engine):
        return f"was made on another machine: {'; '.join(different)}"
    if not here.is_known:
        return "may be of another machine: this one does not say what its processor is"
    for arm, rows in [(choice.arm, choice.max_rows), *((one.arm, one.rows) for one in tuning.measurements)]:
        if problem := _impossible(arm, rows, manifest, tuning.machine.cores):
            return f"says what cannot be: {problem}"
    return None


def _impossible(arm: Arm, rows: int, manifest: Manifest, cores: int) -> str | None:
    if arm.engine not in manifest.formats or arm.engine not in LOADERS:
        return f"the artifact holds {', '.join(manifest.formats)}, not {arm.engine}"
    if arm.instances * arm.threads > cores:
        return f"{arm} on {_counted(cores, 'core')}"
    if not _takes(manifest.signature, rows):
        return f"calls of {_counted(rows, 'row')}"
    return None


def _takes(signature: Signature, rows: int) -> bool:
    return rows == 1 if signature.batch_dim is None else signature.dims[signature.batch_dim].allows(rows)


def choose(measurements: Collection[Measurement], max_call_s: float) -> Choice:
    """The arm with the most rows in a second; within 3 %, the one whose smallest call is shortest; then the smallest arm.

    The rows are the fewest with which a server that runs the arm reaches 97 % of its best, every call costing it `SERVED_CALL_S`
    beside the engine's time: more would only make every call longer. Calls that take longer than `max_call_s` do not count,
    unless an arm has no shorter one. Of a size measured twice, the last counts.

    Raises:
        ValueError: there is no measurement.
    """
    arms = usable(measurements, max_call_s)
    fastest = max(best(points).rows_per_s for points in arms.values())
    fast = {arm: points for arm, points in arms.items() if best(points).rows_per_s >= fastest * (1 - TIE)}
    shortest_s = min(points[0].p50_s for points in fast.values())
    quick = [arm for arm, points in fast.items() if points[0].p50_s * (1 - TIE) <= shortest_s]
    preferred = list(LOADERS)
    arm = min(quick, key=lambda one: (one.instances * one.threads, one.instances, preferred.index(one.engine)))
    enough = max(map(served_rows_per_s, arms[arm])) * (1 - TIE)
    return Choice(arm=arm, max_rows=next(point.rows for point in arms[arm] if served_rows_per_s(point) >= enough))


def served_rows_per_s(point: Measurement) -> float:
    """Rows in a second if every call takes `SERVED_CALL_S` longer, as in a server."""
    at_once = point.rows * point.arm.instances
    return at_once / (at_once / point.rows_per_s + SERVED_CALL_S)


def usable(measurements: Collection[Measurement], max_call_s: float) -> dict[Arm, list[Measurement]]:
    """Each arm's last measurements by rows, without the calls that take too long; its smallest call is always among them."""
    latest = {(one.arm, one.rows): one for one in measurements}
    found: dict[Arm, list[Measurement]] = {}
    for one in sorted(latest.values(), key=lambda one: one.rows):
        points = found.setdefault(one.arm, [])
        if not points or one.p50_s <= max_call_s:
            points.append(one)
    return found


def best(points: Sequence[Measurement]) -> Measurement:
    """The one with the most rows in a second."""
    return max(points, key=lambda point: point.rows_per_s)


def _key(part: int | str) -> str:
    """A part of a place in the file, as it is where it is a number or a word."""
    return str(part) if isinstance(part, int) or (part.isascii() and part.isidentifier()) else _cut(part)


def _cut(value: object) -> str:
    return _shortened(repr(value))


def _shortened(text: str) -> str:
    return text if len(text) <= _MAX_ECHOED else f"{text[: _MAX_ECHOED - 1]}…"


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
