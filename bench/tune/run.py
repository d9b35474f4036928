"""One tuning, from the first measurement to the choice: whatever is measured is in bench.json before the next begins."""

import dataclasses
import importlib.util
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from artifact import Manifest, tuned
from artifact.artifact import AUTO, computed_precision
from artifact.check import check
from artifact.engines import INSTALL, LOADERS
from artifact.manifest import BENCH
from artifact.tuned import Arm, BenchFile, Failure, Fit, Ignored, Machine, Measurement, Options, Tuning
from bench import alone, bound
from bench.alone import Asked, Point
from bench.errors import NotTuned, ProcessFailed
from bench.observed.cores import load_before
from bench.results import BoundPoint
from bench.tune import halving
from foundation.storage import locked

SERVED = ("onnx", "torchscript")
"""The engines that the server runs on the CPU: what is tuned where nobody says which."""

SERVED_ON_CUDA = (*SERVED, "pt2")
"""The engines that the server runs on a GPU."""

QUIET = 0.1
"""Where other work takes a larger share of the cores' time before a run, that is noted."""

_WATCHED_S = 0.25
_DIGITS = 6
_MODULES = {"onnx": "onnxruntime", "torchscript": "torch", "pt2": "torch"}


@dataclass(frozen=True, slots=True)
class Request:
    """What to tune: with which engines (none: those of the artifact that the server runs), where, and how long at most.

    `again` measures although bench.json has a complete run of this machine. `precision` is what is computed in; `auto`: what the
    artifact declares on a GPU, float32 on the CPU.
    """

    directory: Path
    engines: Sequence[str]
    device: str
    budget_s: float
    max_call_s: float
    again: bool
    precision: str = AUTO


@dataclass(frozen=True, slots=True)
class Step:
    """What is being measured: the round (from 0) of so many at most, the arm, and the last point of it that is there."""

    round: int
    rounds: int
    arm: Arm
    spent_s: float
    point: Point | None = None


class Watcher(Protocol):
    """Whoever wants to know how far it is."""

    def measuring(self, step: Step) -> None:
        """An arm is about to be measured, or another of its points is there."""
        ...

    def tell(self, sentence: str) -> None:
        """Something that a person should know."""
        ...


def tune(request: Request, watcher: Watcher) -> Tuning:
    """Measures, or goes on where an interrupted run was, until there is a choice; bench.json holds it then.

    Where there is a complete run of this machine, that one, with nothing measured, unless `again` is asked for.

    Raises:
        NotAnArtifact, DamagedArtifact: there is no artifact.
        EngineUnavailable: there is no such precision.
        NotTuned: no engine of it runs here, bench.json cannot be written, or another process tunes the same artifact.
    """
    manifest = check(request.directory)
    engines = _engines(request, manifest, watcher)
    with locked(request.directory) as is_ours:
        if not is_ours:
            raise NotTuned(f"{request.directory} is being tuned by another process; wait for its end")
        precision = computed_precision(request.precision, manifest, request.device)
        found = tuned.follow(request.directory, manifest, request.device, precision)
        if isinstance(found, Tuning) and not request.again and set(engines) <= set(found.options.engines):
            watcher.tell(_kept(request, found))
            return found
        return _Run(request, engines, manifest, watcher).to_its_end()


class _Run:
    """A run: what was measured so far, and the file that it is kept in."""

    def __init__(self, request: Request, engines: tuple[str, ...], manifest: Manifest, watcher: Watcher) -> None:
        self._request, self._signature, self._watch = request, manifest.signature, watcher
        self._options = Options(engines=engines, budget_s=request.budget_s, max_call_s=request.max_call_s)
        machine = Machine.here(request.device)
        self._precision = computed_precision(request.precision, manifest, request.device)
        self._arms = halving.arms(self._options.engines, machine.cores, request.device)
        read = tuned.read(request.directory, manifest)
        if isinstance(read, Ignored):
            watcher.tell(f"the {BENCH} that is there {read.reason}; it is replaced")
        self._file = read if isinstance(read, BenchFile) else BenchFile(content_id=manifest.content_id)
        self._tuning = self._begun(machine)
        self._note_other_work()
        self._began_s = time.perf_counter() - self._tuning.spent_s

    def to_its_end(self) -> Tuning:
        self._keep()  # whether it can be written is known before anything is measured
        for number in range(halving.rounds(len(self._arms))):
            arms = self._arms_of(number)
            if not arms:
                break
            self._measure_round(number, arms)
        return self._complete()

    def _begun(self, machine: Machine) -> Tuning:
        """The interrupted run that is there, where it is one of this machine and for the same options; else a new one."""
        fresh = Tuning.model_validate(
            {
                "device": self._request.device,
                "precision": self._precision,
                "complete": False,
                "made_at": _now(),
                "machine": machine,
                "options": self._options,
                "spent_s": 0.0,
            }
        )
        there = self._file.of(self._request.device, complete=False)
        if there is None or not there.measurements:
            return fresh
        reasons = there.machine.differences(machine)
        if there.options != self._options or there.precision != self._precision:
            reasons.append("other options")
        if reasons:
            self._watch.tell(f"begins anew: the interrupted run that is there had {'; '.join(reasons)}")
            return fresh
        self._watch.tell(f"goes on with the run of {there.made_at}, which had measured for {there.spent_s:.0f} s")
        return there

    def _note_other_work(self) -> None:
        busy = load_before(_WATCHED_S)
        if busy > QUIET:
            self._watch.tell(
                f"the machine is not quiet: other work takes {busy:.0%} of its cores' time, and part in what is measured"
            )
        update = {"busy_before": max(busy, self._tuning.busy_before)}
        self._tuning = self._tuning.model_copy(update=update)

    def _arms_of(self, number: int) -> list[Arm]:
        """The arms of a round; none where it is decided, or the budget is spent."""
        if number == 0:
            failed = {failure.arm for failure in self._tuning.failures}
            return [arm for arm in self._arms if arm not in failed]
        standing = self._standing({one.arm for one in self._tuning.measurements if one.round == number - 1})
        decided = number > 1 and halving.is_decided(standing, self._tuning.measurements)
        if not standing or self._left_s() <= 0 or decided:
            return []
        found = halving.survivors(standing)
        return found[::-1] if number % 2 else found  # so that what grows with time (heat, other work) does not favour the first

    def _standing(self, arms: set[Arm]) -> dict[Arm, list[Measurement]]:
        measured = [one for one in self._tuning.measurements if one.arm in arms]
        return tuned.usable(measured, self._options.max_call_s)

    def _measure_round(self, number: int, arms: Sequence[Arm]) -> None:
        done = {one.arm for one in self._tuning.measurements if one.round == number}
        for arm in arms:
            if arm not in done and (self._left_s() > 0 or not self._tuning.measurements):
                self._measure(number, arm)

    def _measure(self, number: int, arm: Arm) -> None:
        sizes = self._sizes(arm)
        seconds = halving.seconds(number, len(self._arms), self._options.budget_s) / len(sizes)
        asked = Asked(
            directory=str(self._request.directory.resolve()),
            engine=arm.engine,
            instances=arm.instances,
            threads=arm.threads,
            seconds=dict.fromkeys(sizes, seconds),
            device=self._request.device,
            precision=self._precision,
            max_call_s=self._options.max_call_s,
            limit_s=max(self._left_s(), 0.0),
            prove=not any(one.arm.engine == arm.engine for one in self._tuning.measurements),
        )
        try:
            points = list(self._shown(number, arm, asked))
        except ProcessFailed as cause:
            self._watch.tell(f"{arm}: left out: {cause}")
            measured = tuple(one for one in self._tuning.measurements if one.arm != arm)
            failure = Failure(arm=arm, reason=str(cause)[: tuned.MAX_REASON])
            self._keep(failures=(*self._tuning.failures, failure), measurements=measured)
            return
        new = tuple(_measurement(number, arm, point) for point in points)
        self._keep(measurements=(*self._tuning.measurements, *new))

    def _shown(self, number: int, arm: Arm, asked: Asked) -> Iterator[Point]:
        most = halving.rounds(len(self._arms))
        self._watch.measuring(Step(number, most, arm, self._spent_s()))
        for point in alone.points(asked):
            self._watch.measuring(Step(number, most, arm, self._spent_s(), point))
            yield point

    def _sizes(self, arm: Arm) -> list[int]:
        points = self._standing({arm}).get(arm)
        return alone.sizes(self._signature) if points is None else halving.sizes_again(points)

    def _complete(self) -> Tuning:
        """The choice is among those that came to the last round; those that fell out earlier were slower."""
        measured = self._tuning.measurements
        if not measured:
            reason = self._tuning.failures[0].reason
            self._write(self._file.without(self._tuning))
            raise NotTuned(f"{self._request.directory} has no engine that runs here: {reason}")
        tried = {*(one.arm for one in measured), *(failure.arm for failure in self._tuning.failures)}
        if left := len(set(self._arms) - tried):
            self._watch.tell(f"the budget was spent before {left} of {len(self._arms)} ways were measured; --budget-s gives more")
        last = max(one.round for one in measured)
        standing = self._standing({one.arm for one in measured if one.round >= last - 1})
        finalists = halving.survivors(standing) if last else list(standing)
        choice = tuned.choose([one for one in measured if one.arm in finalists], self._options.max_call_s)
        self._keep(complete=True, made_at=_now(), choice=choice, fits=_fits(measured))
        return self._tuning

    def _keep(self, **changes: object) -> None:
        self._tuning = self._tuning.model_copy(update={**changes, "spent_s": self._spent_s()})
        self._file = self._file.put(self._tuning)
        self._write(self._file)

    def _write(self, file: BenchFile) -> None:
        try:
            tuned.write(self._request.directory, file)
        except OSError as cause:
            raise NotTuned(
                f"{self._request.directory / BENCH} cannot be written: {cause.strerror}; tune a copy of the artifact, or as "
                "someone who may write there and in the folder above"
            ) from cause

    def _spent_s(self) -> float:
        return time.perf_counter() - self._began_s

    def _left_s(self) -> float:
        return self._options.budget_s - self._spent_s()


def _engines(request: Request, manifest: Manifest, watcher: Watcher) -> tuple[str, ...]:
    """The engines to measure, of which the libraries are here. Raises NotTuned where there is none."""
    held = ", ".join(manifest.formats)
    served = SERVED if request.device == "cpu" else SERVED_ON_CUDA
    wanted = tuple(dict.fromkeys(request.engines)) or tuple(name for name in manifest.formats if name in served)
    if not wanted:
        raise NotTuned(
            f"{request.directory} holds {held}, which the server does not run; --engine {held} measures it all the same"
        )
    for name in wanted:
        if name not in LOADERS:
            raise NotTuned(f"there is no engine {name!r}; the engines are {', '.join(LOADERS)}")
        if name not in manifest.formats:
            raise NotTuned(f"{request.directory} holds {held}, not {name}; export it with --format {name}")
    missing = [name for name in wanted if importlib.util.find_spec(_MODULES[name]) is None]
    reasons = [f"{name} needs {_MODULES[name]}, which is not installed: {INSTALL[name]}" for name in missing]
    if len(missing) == len(wanted):
        raise NotTuned(f"{request.directory} has no engine that runs here: {'; '.join(reasons)}")
    for reason in reasons:
        watcher.tell(f"left out: {reason}")
    return tuple(name for name in wanted if name not in missing)


def _measurement(number: int, arm: Arm, point: Point) -> Measurement:
    """As it is kept: with six digits, which is more than are meaningful."""
    values = dataclasses.asdict(point)
    rounded: dict[str, Any] = {name: float(f"{value:.{_DIGITS}g}") for name, value in values.items() if isinstance(value, float)}
    return Measurement(arm=arm, round=number, **values | rounded)


def _kept(request: Request, found: Tuning) -> str:
    """What to say of a run that is there already, and of what it was asked differently."""
    told = f"{request.directory} was tuned on this machine at {found.made_at}"
    if request.max_call_s != found.options.max_call_s:
        told += f", for calls of at most {found.options.max_call_s:g} s and not {request.max_call_s:g} s"
    return f"{told}; --again measures anew"


def _fits(measured: Collection[Measurement]) -> tuple[Fit, ...]:
    """One line for each arm, through the last measurement of each of its sizes."""
    points: dict[Arm, list[Measurement]] = {}
    for one in {(one.arm, one.rows): one for one in measured}.values():
        points.setdefault(one.arm, []).append(one)
    return tuple(_fit(arm, found) for arm, found in points.items())


def _fit(arm: Arm, points: Collection[Measurement]) -> Fit:
    times = [BoundPoint(rows=point.rows, call_s=point.p50_s, rows_per_s=point.rows_per_s) for point in points]
    per_row_s, per_call_s = bound.fit(times)
    return Fit(arm=arm, per_row_s=per_row_s, per_call_s=per_call_s)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
