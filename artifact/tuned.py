"""What `stateserve tune` found on a machine: bench.json, in the artifact's directory and outside its content id.

It lies beside files that are hashed, and is not hashed itself: what it says is numbers, each of which is checked here, and
nothing that it says keeps a model from being served.
"""

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

_MAX_BYTES = 4 << 20
_LIBRARIES: Mapping[str, tuple[str, ...]] = {
    "onnx": ("onnxruntime", "onnxruntime-gpu"),
    "torchscript": ("torch",),
    "pt2": ("torch",),
}

Count = Annotated[int, Field(ge=1, le=1 << 20)]
Word = Annotated[str, Field(max_length=200)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Speed = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Part(BaseModel, frozen=True, extra="forbid", strict=True):
    """One object of the file."""


class Machine(Part, frozen=True):
    """What a speed depends on, as `foundation.environment.speed_identity` tells it; `gpus` where they were used."""

    cpu: Word
    isa: list[Word]
    cores: Count
    packages: dict[Word, Word]
    gpus: list[Word] | None = None

    @classmethod
    def here(cls, device: str) -> "Machine":
        """This one, for runs on a device."""
        return cls.model_validate(speed_identity(gpus=device != "cpu"))

    def differences(self, here: "Machine", engine: str | None = None) -> list[str]:
        """What is other here, a few words each; with `engine`, the versions of the other engines do not matter."""
        facts = ("processor", self.cpu, here.cpu), ("cores", self.cores, here.cores), ("GPUs", self.gpus, here.gpus)
        found = [f"{what} {there!r} there, {now!r} here" for what, there, now in facts if there != now]
        if self.isa != here.isa:
            found.append("other instruction sets")
        names = sorted({*self.packages, *here.packages}) if engine is None else _LIBRARIES[engine]
        versions = [(name, self.packages.get(name, "none"), here.packages.get(name, "none")) for name in names]
        return found + [f"{name} {there!r} there, {now!r} here" for name, there, now in versions if there != now]


class Arm(Part, frozen=True):
    """A way to run a model: `instances` calls at a time, each with `threads` threads."""

    engine: Annotated[str, Field(pattern=r"^(onnx|torchscript|pt2)$")]
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
    reason: str


class Choice(Part, frozen=True):
    """The arm to run, and how many rows to join: the fewest with which it is as fast as it can be."""

    arm: Arm
    max_rows: Count

    def __str__(self) -> str:
        return f"{self.arm}, at most {_counted(self.max_rows, 'row')}"


class Options(Part, frozen=True):
    """What was asked: two runs that were asked for the same go on with each other's measurements."""

    engines: tuple[str, ...]
    budget_s: Seconds
    max_call_s: Seconds


class Tuning(Part, frozen=True):
    """One run of the tuner. An interrupted one is not complete, and has no choice yet; `spent_s` is what it took so far."""

    device: Annotated[str, Field(pattern=r"^(cpu|cuda:\d{1,3})$")]
    complete: bool
    made_at: Word
    machine: Machine
    options: Options
    spent_s: Seconds
    measurements: tuple[Measurement, ...] = ()
    failures: tuple[Failure, ...] = ()
    fits: tuple[Fit, ...] = ()
    choice: Choice | None = None

    def latest(self) -> dict[tuple[Arm, int], Measurement]:
        """The last measurement of each arm and number of rows, in the order in which they were first measured."""
        return {(one.arm, one.rows): one for one in self.measurements}


class BenchFile(Part, frozen=True):
    """bench.json: of each device, at most one complete run and one that was interrupted."""

    schema_version: Literal[1] = Field(alias="schema", default=SCHEMA)
    content_id: str
    tunings: tuple[Tuning, ...] = ()

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
        found = path.lstat()
        if not stat.S_ISREG(found.st_mode) or found.st_size > _MAX_BYTES:
            return Ignored("is not a file that the tuner wrote")
        file = BenchFile.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as cause:
        return Ignored(f"cannot be read: {cause.strerror}")
    except ValidationError as cause:
        first = cause.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        return Ignored(f"is not of schema {SCHEMA}: {f'{where}: ' if where else ''}{first['msg']}")
    if file.content_id != manifest.content_id:
        return Ignored(f"is about another artifact: content id {file.content_id[:12]!r} there, {manifest.content_id[:12]!r} here")
    return file


def write(directory: Path, file: BenchFile) -> None:
    """Writes bench.json, whole or not at all; one with no run in it goes away.

    Raises:
        OSError: the directory, or the one around it, cannot be written.
    """
    if not file.tunings:
        (directory / BENCH).unlink(missing_ok=True)
        return
    replace_within(directory, BENCH, file.model_dump_json(by_alias=True, indent=1).encode() + b"\n")


def follow(directory: Path, manifest: Manifest, device: str = "cpu") -> Tuning | Ignored | None:
    """The complete run that holds on this machine, or why none does; None where there is no bench.json."""
    file = read(directory, manifest)
    if not isinstance(file, BenchFile):
        return file
    tuning = file.of(device, complete=True)
    if tuning is None:
        others = ", ".join(sorted({one.device for one in file.tunings if one.complete}))
        unfinished = "is not complete: the tuner was interrupted, or is at work"
        return Ignored(f"is about {others}, not about {device}" if others else unfinished)
    if tuning.choice is None:
        return Ignored("makes no choice")
    reason = _why_not(tuning, tuning.choice, manifest)
    return tuning if reason is None else Ignored(reason)


def _why_not(tuning: Tuning, choice: Choice, manifest: Manifest) -> str | None:
    if different := tuning.machine.differences(Machine.here(tuning.device), choice.arm.engine):
        return f"was made on another machine: {'; '.join(different)}"
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

    The rows are the fewest with which the arm reaches 97 % of its best: more would only make every call longer. Calls that take
    longer than `max_call_s` do not count, unless an arm has no shorter one. Of a size measured twice, the last counts.

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
    enough = best(arms[arm]).rows_per_s * (1 - TIE)
    return Choice(arm=arm, max_rows=next(point.rows for point in arms[arm] if point.rows_per_s >= enough))


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


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
