"""Golden cases: recorded inputs and outputs that travel inside the artifact, and their replay on an engine.

File format (safetensors): `CASE/input/NAME`, `CASE/output/ENGINE/NAME` (what that engine answered at export) and
`CASE/reference/NAME` (float64, eager PyTorch). A case holds as few rows as the signature allows: one, nearly always.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from artifact.engines import Engine
from artifact.errors import DamagedArtifact, GoldenMismatch, InvalidInput
from artifact.recorded import read_arrays
from artifact.signature import Signature

Arrays = Mapping[str, np.ndarray]
Budgets = Mapping[str, float]

FILL_VALUE = 1e6
"""Larger outputs are masks' fill values (-1e9) as a rule: as the scale of all, one of them would hide every other error."""
MAX_TILED_BYTES = 256 << 20
"""Inputs of a tiled replay take no more: the largest batch may be larger than a start can afford."""
SAME_ENGINE_BUDGET = 1e-6
"""Scaled error that one engine's float32 answers may show between two machines (kernels differ in summation order)."""


@dataclass(frozen=True, slots=True)
class GoldenCase:
    """Inputs, what each engine answered to them at export, and the float64 reference."""

    name: str
    inputs: Arrays
    outputs: Mapping[str, Arrays]
    reference: Arrays


@dataclass(frozen=True, slots=True)
class Replay:
    """How far one output of one engine lies from what was recorded: `error` is scaled, `tolerance` its bound.

    `tiled`: the recorded rows were repeated to a larger batch, which may change bits (kernels differ by batch size).
    """

    engine: str
    case: str
    output: str
    rows: int
    tiled: bool
    error: float
    tolerance: float
    bit_equal: bool

    @property
    def passed(self) -> bool:
        """Whether the error is within its bound; NaN is not."""
        return self.error <= self.tolerance


def scaled_error(actual: np.ndarray, reference: np.ndarray) -> float:
    """`max|actual - reference| / max(1, max|reference|)`: the error measure of all parity.

    Infinite if the shapes differ or a value of either is not finite. Values beyond `FILL_VALUE` are judged apart from the others.

    Scaled, because an absolute bound means nothing for large outputs and a relative one nothing near zero.
    """
    if actual.shape != reference.shape or not (np.isfinite(actual).all() and np.isfinite(reference).all()):
        return float("inf")
    wide = reference.astype(np.float64)
    apart = np.abs(actual.astype(np.float64) - wide)
    is_fill = np.abs(wide) > FILL_VALUE
    return max(_scaled(apart[is_fill], wide[is_fill]), _scaled(apart[~is_fill], wide[~is_fill]))


def _scaled(apart: np.ndarray, reference: np.ndarray) -> float:
    return float(apart.max() / max(1.0, float(np.abs(reference).max()))) if apart.size else 0.0


def encode(cases: Iterable[GoldenCase]) -> bytes:
    """The cases as the bytes of `golden.safetensors`."""
    import safetensors.numpy

    arrays: dict[str, np.ndarray] = {}
    for case in cases:
        arrays |= {f"{case.name}/input/{name}": array for name, array in case.inputs.items()}
        arrays |= {f"{case.name}/reference/{name}": array for name, array in case.reference.items()}
        for engine, outputs in case.outputs.items():
            arrays |= {f"{case.name}/output/{engine}/{name}": array for name, array in outputs.items()}
    return safetensors.numpy.save({key: np.asarray(array, order="C") for key, array in sorted(arrays.items())})


@dataclass(slots=True)
class _Parts:
    inputs: dict[str, np.ndarray] = field(default_factory=dict)
    outputs: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    reference: dict[str, np.ndarray] = field(default_factory=dict)


def decode(data: bytes) -> tuple[GoldenCase, ...]:
    """The inverse of `encode`, in the order of the cases' names.

    Raises:
        DamagedArtifact: the bytes are not those of golden cases.
    """
    cases: dict[str, _Parts] = {}
    try:
        for key, array in sorted(read_arrays(data).items()):
            case, role, *rest = key.split("/")
            parts = cases.setdefault(case, _Parts())
            if role == "output":
                engine, name = rest
                parts.outputs.setdefault(engine, {})[name] = array
            else:
                (name,) = rest
                getattr(parts, {"input": "inputs", "reference": "reference"}[role])[name] = array
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as cause:
        raise DamagedArtifact(f"the golden cases cannot be read: {cause!r}") from cause
    return tuple(GoldenCase(name, parts.inputs, parts.outputs, parts.reference) for name, parts in cases.items())


def require_complete(cases: Sequence[GoldenCase], signature: Signature) -> None:
    """Raises DamagedArtifact if there is no case, or one lacks what a replay needs: nothing would be proven by it."""
    if not cases:
        raise DamagedArtifact("there are no golden cases, so nothing proves the numbers; export again")
    outputs = {spec.name for spec in signature.outputs}
    for case in cases:
        try:
            signature.validate(case.inputs)
        except InvalidInput as cause:
            raise DamagedArtifact(f"golden case {case.name} is not one of this model: {cause}") from cause
        for recorded in (case.reference, *case.outputs.values()):
            if recorded.keys() != outputs:
                raise DamagedArtifact(
                    f"golden case {case.name} records {', '.join(sorted(recorded)) or 'nothing'}; "
                    f"the signature says {', '.join(sorted(outputs))}"
                )


def replay(
    engine: Engine, signature: Signature, cases: Sequence[GoldenCase], budgets: Budgets, *, recorded: bool = True
) -> list[Replay]:
    """Runs every case as recorded, and tiled to the largest batch; `budgets` are this engine's, by output.

    An answer may differ from what this same engine gave at export by 1e-6, scaled, or by the output's recorded budget if that
    is larger; integers and booleans by their budget alone, which is 0. Cases that this engine did not answer at export are
    compared with the float64 reference within the budget; all are where answers are not to be as `recorded`: in another precision
    than float32, whose budgets are against that reference.
    """
    if not recorded:
        cases = [replace(case, outputs={}) for case in cases]
    results = [result for case in cases for result in _compare(engine, [case], dict(case.inputs), None, budgets)]
    for group in _same_shape(cases):
        rows = _tiled_rows(signature, group)
        if rows:
            results += _compare(engine, group, _tile(group, rows), rows, budgets)
    return results


def require(replays: Iterable[Replay]) -> None:
    """Raises GoldenMismatch, naming the worst case, unless every replay passed."""
    failed = [result for result in replays if not result.passed]
    if failed:
        worst = max(failed, key=lambda result: result.error)
        raise GoldenMismatch(
            f"golden case {worst.case} disagrees on engine {worst.engine}: output {worst.output}, {worst.rows} row(s), "
            f"scaled error {worst.error:.2e}, allowed {worst.tolerance:.2e} ({len(failed)} comparison(s) failed). "
            "This machine does not give the numbers that were proven at export; do not serve it, export again or compare the "
            "engine's version with environment.json"
        )


def _same_shape(cases: Sequence[GoldenCase]) -> list[list[GoldenCase]]:
    groups: dict[tuple[tuple[str, tuple[int, ...]], ...], list[GoldenCase]] = {}
    for case in cases:
        key = tuple(sorted((name, array.shape) for name, array in case.inputs.items()))
        groups.setdefault(key, []).append(case)
    return list(groups.values())


def _tiled_rows(signature: Signature, group: Sequence[GoldenCase]) -> int:
    """How many rows the group is tiled to: whole cases, up to the largest batch; 0 where two never fit into one batch.

    Export proved that cases can be joined only where two fit.
    """
    if signature.batch_dim is None:
        return 0
    dim = signature.dims[signature.batch_dim]
    block_bytes = sum(array.nbytes for array in group[0].inputs.values())
    blocks = min(dim.max // dim.min, MAX_TILED_BYTES // max(1, block_bytes))
    return blocks * dim.min if blocks > 1 else 0


def _tile(group: Sequence[GoldenCase], rows: int) -> dict[str, np.ndarray]:
    return {name: _cycle([case.inputs[name] for case in group], rows) for name in group[0].inputs}


def _cycle(arrays: Sequence[np.ndarray], rows: int) -> np.ndarray:
    """The arrays' rows one after another, again and again, until there are `rows`."""
    joined = np.concatenate(arrays)
    return joined[np.arange(rows) % len(joined)]


def _compare(
    engine: Engine, group: Sequence[GoldenCase], inputs: dict[str, np.ndarray], tiled_to: int | None, budgets: Budgets
) -> list[Replay]:
    outputs = engine.run(inputs)
    first = next(iter(inputs.values()))
    rows = tiled_to or (len(first) if first.ndim else 1)
    results = []
    for name, actual in outputs.items():
        recorded = [case.outputs.get(engine.name, case.reference)[name] for case in group]
        expected = recorded[0] if tiled_to is None else _cycle(recorded, tiled_to)
        results.append(
            Replay(
                engine=engine.name,
                case=group[0].name if tiled_to is None else f"{group[0].name} and {len(group) - 1} more",
                output=name,
                rows=rows,
                tiled=tiled_to is not None,
                error=scaled_error(actual, expected),
                tolerance=max(SAME_ENGINE_BUDGET, budgets[name]) if actual.dtype.kind == "f" else budgets[name],
                bit_equal=actual.dtype == expected.dtype and np.array_equal(actual, expected),
            )
        )
    return results
