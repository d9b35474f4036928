"""Parity: every engine's answers against the float64 reference, over the whole declared input range.

The budget of an output is `max(4 * error of eager PyTorch, floor)`, both scaled errors (see `artifact.scaled_error`): an engine
may be as wrong as the precision of the model makes PyTorch, times a small factor, and no more. TorchInductor judges its own
results by a float64 reference in the same way (`torch._dynamo.utils.same`), with factors of 2 to 10.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from artifact.engines import Engine, EngineOptions, load_engine
from artifact.errors import ArtifactError
from artifact.golden import GoldenCase, scaled_error
from artifact.signature import Signature
from export.capture import Captured
from export.cases import Case, golden_candidates, parity_cases
from export.cost import Clock, ParityLimits, activation_bytes
from export.errors import ParityFailed
from export.precision import FACTOR, FLOOR_ROUNDOFFS, UNIT_ROUNDOFF, Measured, Rounded
from export.reference import Reference, judged_by
from foundation.environment import cores

Arrays = Mapping[str, np.ndarray]
Progress = Callable[[int, int, str], None]

BUDGET_FACTOR = 4.0
FLOORS = {"float16": 5e-3, "float32": 1e-6, "float64": 1e-12}
"""Scaled errors that are always allowed, by the output's dtype: a few roundings. Integers and booleans must be equal."""
CEILINGS = {"float16": 5e-2, "float32": 1e-3, "float64": 1e-9}
"""Scaled errors of eager PyTorch beyond which no rounding explains them: the model is another one in float64."""
FLOAT32_REFERENCE_FLOOR = 1e-5
"""Where there is no float64 reference, eager's own error is unknown: PyTorch's default tolerance for float32 stands in for it."""
BATCHING_TOLERANCE = {"float64": 1e-9, "float32": 1e-5}
MAX_GOLDEN_CASES = 8
MAX_GOLDEN_BYTES = 4_000_000


@dataclass(frozen=True, slots=True)
class Lowered:
    """What is to be proven: the model files' bytes, by format, and those in another precision, if one is declared.

    `rounded` are files whose products and weights are of `precision`: they are judged by its budget, on the CPU.
    """

    models: Mapping[str, bytes]
    precision: str = "float32"
    rounded: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Given:
    """Inputs that were not drawn from the signature: those that operations made of raw samples, by the case's name.

    `golden` are the names of those that shall travel in the artifact.
    """

    inputs: Mapping[str, Arrays] = field(default_factory=dict)
    golden: Sequence[str] = ()


_NOTHING_GIVEN = Given()


@dataclass(frozen=True, slots=True)
class Comparison:
    """One output of one engine (or of eager PyTorch) in one case, against the reference."""

    case: str
    engine: str
    output: str
    reference: str
    max_abs: float
    scaled: float


@dataclass(frozen=True, slots=True)
class Proof:
    """What parity found: the report for parity.json, the golden cases, and the worst comparison of each engine."""

    report: dict[str, Any]
    golden: Sequence[GoldenCase]
    worst: Mapping[str, tuple[Comparison, float]]


@dataclass(frozen=True, slots=True)
class _Trial:
    """What is compared with what, and what was found so far."""

    signature: Signature
    reference: Reference
    engines: Mapping[str, Engine]
    in_precision: "_InPrecision | None" = None
    comparisons: list[Comparison] = field(default_factory=list)
    left_out: list[dict[str, str]] = field(default_factory=list)

    def compare(
        self, case: str, inputs: Arrays, expected: Arrays, precision: str, eager: Arrays | None
    ) -> dict[str, dict[str, np.ndarray]]:
        """Runs every engine on the inputs and notes how far each answer, and eager's, lies from the expected one."""
        answers = {name: _run(engine, inputs, case) for name, engine in self.engines.items()}
        for name, answer in answers.items():
            _require_dtypes(name, answer, self.signature)
        for name, answer in answers.items() if eager is None else {"eager": eager, **answers}.items():
            self._note(case, name, answer, expected, precision)
        if self.in_precision is not None:
            self.in_precision.compare(case, inputs, expected)
        return answers

    def _note(self, case: str, engine: str, actual: Arrays, reference: Arrays, precision: str) -> None:
        for name, expected in reference.items():
            error = scaled_error(actual[name], expected)
            apart = np.abs(actual[name].astype(np.float64) - expected.astype(np.float64)).max() if np.isfinite(error) else np.inf
            self.comparisons.append(Comparison(case, engine, name, precision, float(apart), error))


@dataclass(frozen=True, slots=True)
class _InPrecision:
    """The model, and the files made for it, in the declared precision: `engines` by the file's name.

    A CPU without float16 arithmetic is slow at it: at most half of the time goes here, and the largest cases are left out.
    """

    model: Rounded
    engines: Mapping[str, Engine]
    clock: Clock
    worst: dict[tuple[str, str], Measured] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)

    def compare(self, case: str, inputs: Arrays, expected: Arrays) -> None:
        """Notes how far the model, and every file, lies from the expected answer in this precision."""
        elements = sum(array.size for array in inputs.values())
        if not self.clock.allows(self.model.precision, elements):
            self.left_out.append(case)
            return
        started = time.perf_counter()
        self._compare(case, inputs, expected)
        self.clock.note(self.model.precision, elements, time.perf_counter() - started)

    def _compare(self, case: str, inputs: Arrays, expected: Arrays) -> None:
        self.model.measure(case, inputs, expected)
        for file, engine in self.engines.items():
            answer = _run(engine, inputs, case)
            _require_dtypes(file, answer, self.model.signature)
            for name, array in answer.items():
                error = scaled_error(array, expected[name])
                if (file, name) not in self.worst or error > self.worst[file, name].scaled:
                    self.worst[file, name] = Measured(error, case)

    def report(self) -> dict[str, Any]:
        """What parity.json says of this precision.

        Raises:
            ParityFailed: the model does not stand it, or a file is beyond the budget.
        """
        budgets = self.model.budgets()
        for (file, output), worst in self.worst.items():
            if not worst.scaled <= budgets[output]:
                raise ParityFailed(
                    f"{file} is off by a scaled error of {worst.scaled:.2e} in output {output}, case {worst.case!r}; the model "
                    f"itself allows {budgets[output]:.2e} in {self.model.precision}. Declare precision: float32, or leave onnx "
                    "out with --format"
                )
        return {
            "unit_roundoff": UNIT_ROUNDOFF[self.model.precision],
            "budget": f"max({FACTOR:g} * measured, {FLOOR_ROUNDOFFS} * unit_roundoff), against the float64 reference",
            "outputs": {
                name: {"budget": budget, "measured": self.model.worst[name].scaled, "case": self.model.worst[name].case}
                for name, budget in budgets.items()
            },
            "files": {file: {"outputs": {name: self._found(file, name) for name in budgets}} for file in self.engines},
            "left_out": self.left_out,
        }

    def _found(self, file: str, output: str) -> dict[str, Any]:
        worst = self.worst[file, output]
        return {"scaled": worst.scaled, "case": worst.case}


def prove(  # noqa: PLR0913, PLR0917 - what is proven, by whom, within which limits
    model: nn.Module,
    captured: Captured,
    lowered: Lowered,
    limits: ParityLimits,
    progress: Progress,
    given: Given = _NOTHING_GIVEN,
) -> Proof:
    """Runs all cases, and the given inputs, on all formats through the artifact room's engines, and judges them.

    Raises:
        ParityFailed: an engine is outside its budget, answers differ between batched and unbatched rows, or the model itself
            fails, or answers with NaN, on a declared input.
    """
    signature = captured.signature
    cases = sorted(parity_cases(signature), key=lambda case: case.elements(signature))
    reference = Reference(model, signature, cases[0].inputs(signature))
    engines = {name: _load(name, data, signature) for name, data in lowered.models.items()}
    trial = _Trial(signature, reference, engines, _in_precision(model, lowered, signature, limits))
    _compare_cases(trial, cases, captured, Clock(limits), progress)
    batching = _compare_batching(trial)
    kept = _golden_cases(trial, given)
    budgets = _judge(trial, captured.sample)
    determinism = {
        name: _determinism(engine, lowered.models[name], cases[0].inputs(signature), signature)
        for name, engine in engines.items()
    }
    report = _report(trial, budgets, batching, determinism)
    if trial.in_precision is not None:
        report["precisions"] = {lowered.precision: trial.in_precision.report()}
    return Proof(
        report=report,
        golden=kept,
        worst={name: _worst(trial.comparisons, name, budgets) for name in trial.engines},
    )


def _in_precision(model: nn.Module, lowered: Lowered, signature: Signature, limits: ParityLimits) -> _InPrecision | None:
    if lowered.precision == "float32":
        return None
    engines = {file: _load("onnx", data, signature, precision=lowered.precision) for file, data in lowered.rounded.items()}
    half = ParityLimits(limits.time_s / 2, limits.memory_bytes)
    return _InPrecision(Rounded(model, signature, lowered.precision), engines, Clock(half))


def _load(name: str, data: bytes, signature: Signature, threads: int | None = None, precision: str = "float32") -> Engine:
    try:
        return load_engine(name, data, signature, EngineOptions(threads, precision=precision))
    except ArtifactError as cause:
        raise ParityFailed(f"the lowered model does not load: {cause}") from cause


def _run(engine: Engine, inputs: Arrays, case: str) -> dict[str, np.ndarray]:
    try:
        return engine.run(inputs)
    except ArtifactError as cause:
        raise ParityFailed(f"engine {engine.name} fails in case {case!r}, which the model itself answers: {cause}") from cause


def _require_dtypes(engine: str, answer: Arrays, signature: Signature) -> None:
    """Equal numbers of another dtype are not what a client is promised."""
    for spec in signature.outputs:
        dtype = str(answer[spec.name].dtype)
        if dtype != spec.dtype:
            raise ParityFailed(
                f"engine {engine} gives {spec.name} as {dtype}; the signature says {spec.dtype}. The lowering changed it; "
                f"leave {engine} out with --format"
            )


def _compare_cases(trial: _Trial, cases: Sequence[Case], captured: Captured, clock: Clock, progress: Progress) -> None:
    """All cases, the smallest first; the largest fall to a float32 reference, or out, where the limits say so."""
    best = trial.reference.precision
    for number, case in enumerate(cases):
        progress(number, len(cases), case.name)
        memory = activation_bytes(captured, trial.signature, case.sizes)
        elements = case.elements(trial.signature)
        precision = _affordable(best, clock, memory, elements) if number else best
        if precision is None:
            limits = f"{clock.limits.time_s:g} s or {clock.limits.memory_bytes} bytes"
            trial.left_out.append({"case": case.name, "reason": f"beyond {limits}"})
            continue
        started = time.perf_counter()
        inputs = case.inputs(trial.signature)
        eager = trial.reference.eager(inputs)
        expected = trial.reference.expected(inputs, eager) if precision == "float64" else eager
        trial.compare(case.name, inputs, expected, precision, eager if precision == "float64" else None)
        clock.note(precision, elements, time.perf_counter() - started)
    progress(len(cases), len(cases), "judging")


def _affordable(best: str, clock: Clock, memory_bytes: int, elements: int) -> str | None:
    """The best precision of the reference that fits the limits; a float64 run holds tensors of twice the size."""
    for precision, factor in (("float64", 2), ("float32", 1)):
        fits = memory_bytes * factor <= clock.limits.memory_bytes and clock.allows(precision, elements)
        if fits and best in {precision, "float64"}:
            return precision
    return None


def _compare_batching(trial: _Trial) -> dict[str, Any]:
    """Unlike rows in one batch must be answered as each alone: this is what lets a server join requests."""
    batch = trial.signature.batch_dim
    if batch is None:
        return {"dim": None, "reason": "inputs and outputs share no leading dimension: requests cannot be joined"}
    dim = trial.signature.dims[batch]
    if dim.max < 2 * dim.min:
        return {"dim": batch, "reason": f"{batch} is {dim}: two requests never fit into one batch"}
    blocks = _unlike_blocks(trial.signature, dim.max // dim.min)
    joined = {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
    together = trial.reference.wide(joined)
    apart = [trial.reference.wide(block) for block in blocks]
    expected = {name: np.concatenate([answer[name] for answer in apart]) for name in together}
    error = max(scaled_error(together[name], expected[name]) for name in together)
    rows = dim.min * len(blocks)
    if not error <= BATCHING_TOLERANCE[trial.reference.precision]:
        raise ParityFailed(
            f"rows of one batch influence one another: {rows} rows together and the same rows alone differ by a scaled error "
            f"of {error:.2e}. A server that joins requests would give wrong answers; make forward treat each row by itself, "
            f"or declare dims.{batch} with min and max 1"
        )
    alone = [judged_by(wide, trial.reference.eager(block)) for wide, block in zip(apart, blocks, strict=True)]
    judged = {name: np.concatenate([answer[name] for answer in alone]) for name in together}
    trial.compare("mixed rows, batched", joined, judged, trial.reference.precision, None)
    return {"dim": batch, "rows": rows, "scaled": error}


def _unlike_blocks(signature: Signature, most: int) -> list[dict[str, np.ndarray]]:
    """Inputs of the fewest rows, of all kinds of values at one size, two at least: they can be joined to a batch."""
    candidates = golden_candidates(signature)
    alike = [case.inputs(signature) for case in candidates if case.sizes == candidates[0].sizes]
    return (alike if len(alike) > 1 else alike * 2)[:most]


def _golden_cases(trial: _Trial, given: Given) -> list[GoldenCase]:
    """The cases that travel in the artifact: the given ones that shall, then drawn ones of as few rows as possible.

    Of the drawn ones at most 8 and 4 MB, one at least. All given inputs are compared.
    """
    raw = [_golden_case(trial, name, inputs) for name, inputs in given.inputs.items()]
    kept: list[GoldenCase] = []
    size = 0
    for case in golden_candidates(trial.signature):
        made = _golden_case(trial, case.name, case.inputs(trial.signature))
        size += _size(made)
        if kept and (size > MAX_GOLDEN_BYTES or len(kept) == MAX_GOLDEN_CASES):
            break
        kept.append(made)
    return [*(case for case in raw if case.name in given.golden), *kept]


def _golden_case(trial: _Trial, name: str, inputs: Arrays) -> GoldenCase:
    precision, eager = trial.reference.precision, trial.reference.eager(inputs)
    expected = trial.reference.expected(inputs, eager)
    outputs = trial.compare(f"golden {name}", inputs, expected, precision, eager if precision == "float64" else None)
    return GoldenCase(name, inputs, outputs, {output: array.astype(np.float64) for output, array in expected.items()})


def _size(case: GoldenCase) -> int:
    groups = (case.inputs, case.reference, *case.outputs.values())
    return sum(array.nbytes for arrays in groups for array in arrays.values())


def _judge(trial: _Trial, sample: Arrays) -> dict[str, float]:
    """The budget of every output; raises ParityFailed, naming the worst comparison, if any is exceeded."""
    budgets = {spec.name: _budget(spec.name, spec.dtype, trial.comparisons) for spec in trial.signature.outputs}
    failed = [c for c in trial.comparisons if c.engine != "eager" and not c.scaled <= budgets[c.output]]
    if failed:
        worst = max(failed, key=lambda comparison: comparison.scaled)
        passed = len({c.case for c in trial.comparisons} - {c.case for c in failed})
        shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in sample.items())
        raise ParityFailed(
            f"the numbers disagree: engine {worst.engine}, case {worst.case!r}, output {worst.output}: scaled error "
            f"{worst.scaled:.2e} (max abs {worst.max_abs:.2e}), budget {budgets[worst.output]:.2e}; {len(failed)} comparison(s) "
            f"failed on {', '.join(sorted({c.engine for c in failed}))}, {passed} case(s) passed. The model was captured with "
            f"{shapes}: where only other sizes or values fail, forward behaves otherwise there and must not; where all fail, "
            "the lowering is wrong"
        )
    return budgets


def _budget(output: str, dtype: str, comparisons: Sequence[Comparison]) -> float:
    eager = [c.scaled for c in comparisons if c.engine == "eager" and c.output == output]
    floor = FLOORS.get(dtype, 0.0)
    if max(eager, default=0.0) > CEILINGS.get(dtype, 0.0):
        raise ParityFailed(
            f"output {output} of the model differs between {dtype} and float64 by a scaled error of {max(eager):.2e}, more "
            "than rounding explains: forward depends on its dtype (torch.finfo, a cast, a comparison of close numbers), so that "
            "nothing can be proven. Make it independent of the dtype, or narrow the inputs' range"
        )
    if not eager and floor:
        return max(floor, FLOAT32_REFERENCE_FLOOR)
    return max(BUDGET_FACTOR * max(eager, default=0.0), floor) if floor else 0.0


def _determinism(engine: Engine, data: bytes, inputs: Arrays, signature: Signature) -> dict[str, Any]:
    """Whether three runs, and one thread against all, give the same bits: recorded, since no engine promises it."""
    first = engine.run(inputs)
    again = [engine.run(inputs) for _ in range(2)]
    before = torch.get_num_threads()
    try:
        single = _load(engine.name, data, signature, threads=1).run(inputs)
        several = _load(engine.name, data, signature, threads=cores()).run(inputs)
    finally:
        torch.set_num_threads(before)
    return {
        "three_runs_bit_equal": all(np.array_equal(first[name], other[name]) for other in again for name in first),
        "threads": [1, cores()],
        "threads_bit_equal": all(np.array_equal(single[name], several[name]) for name in first),
    }


def _worst(comparisons: Sequence[Comparison], engine: str, budgets: Mapping[str, float]) -> tuple[Comparison, float]:
    """The comparison of this engine that comes closest to its budget, and that budget."""
    worst = max(
        (c for c in comparisons if c.engine == engine),
        key=lambda c: c.scaled / budgets[c.output] if budgets[c.output] else c.scaled,
    )
    return worst, budgets[worst.output]


def _report(
    trial: _Trial,
    budgets: Mapping[str, float],
    batching: Mapping[str, Any],
    determinism: Mapping[str, Any],
) -> dict[str, Any]:
    """The content of parity.json, but for the weights' comparison."""
    return {
        "schema": 1,
        "measure": "scaled = max|a - b| / max(1, max|reference|)",
        "budget": f"max({BUDGET_FACTOR:g} * scaled error of eager PyTorch, floor)",
        "reference": {"precision": trial.reference.precision, "obstacle": trial.reference.obstacle},
        "engines": {
            engine: {
                "outputs": {
                    output: {
                        "budget": budget,
                        "scaled": max(c.scaled for c in trial.comparisons if (c.engine, c.output) == (engine, output)),
                        "max_abs": max(c.max_abs for c in trial.comparisons if (c.engine, c.output) == (engine, output)),
                    }
                    for output, budget in budgets.items()
                },
                "determinism": found,
            }
            for engine, found in determinism.items()
        },
        "batching": dict(batching),
        "left_out": trial.left_out,
        "comparisons": [
            {
                "case": c.case,
                "engine": c.engine,
                "output": c.output,
                "reference": c.reference,
                "max_abs": c.max_abs,
                "scaled": c.scaled,
                "budget": budgets[c.output],
            }
            for c in trial.comparisons
        ],
    }
