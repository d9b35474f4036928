"""Raw golden cases: pictures, texts and rows that travel in the artifact with the tensors and answers that they must become.

The tensors are those of the golden case of the same name (`golden.safetensors`), which an engine replays as any other. File
format (safetensors): `CASE/raw/NAME` and `CASE/answer`, bytes: a picture's file as it is, else JSON. The answer is what the
operations on outputs make of the outputs that the golden case records of the artifact's first format.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from artifact.errors import ArtifactError, DamagedArtifact
from artifact.golden import Arrays, GoldenCase, Replay, scaled_error
from artifact.operations import Operations, RawLimits, RawValue
from artifact.recorded import read_arrays

OPERATIONS = "operations"
"""What stands in a replay where an engine's name does."""

FLOAT_TOLERANCE = 1e-6
"""Scaled error that floating-point numbers may show between two machines: their libraries' `exp` differ in the last bits."""
LOSSY_TOLERANCE = 16 / 255
"""What a JPEG's or a lossy WebP's tensor may differ by between two decoders, as a part of the span that the operations can make.

The standards leave the inverse transform and the upsampling of colours to the decoder, so that single pixels at sharp edges
differ by some levels; a wrong resize, order of channels or scale differs by far more.
"""


@dataclass(frozen=True, slots=True)
class RawCase:
    """One row as a client sends it, and what the server must answer; `name` is that of its golden case.

    `raw` is empty where the artifact declares operations on outputs only; `answer` is None where it declares none.
    """

    name: str
    raw: Mapping[str, RawValue]
    answer: Any


def encode(cases: Iterable[RawCase]) -> bytes:
    """The cases as the bytes of `raw.safetensors`."""
    import safetensors.numpy

    data: dict[str, bytes] = {}
    for case in cases:
        data |= {
            f"{case.name}/raw/{name}": value if isinstance(value, bytes) else _json(value) for name, value in case.raw.items()
        }
        data[f"{case.name}/answer"] = _json(case.answer)
    return safetensors.numpy.save({key: np.frombuffer(value, np.uint8) for key, value in sorted(data.items())})


def decode(data: bytes, operations: Operations) -> tuple[RawCase, ...]:
    """The inverse of `encode`, in the order of the cases' names; what a raw value is, the operations know.

    Raises:
        DamagedArtifact: the bytes are not those of raw cases.
    """
    kinds = {spec.name: spec.kind for spec in operations.raw_inputs}
    raws: dict[str, dict[str, RawValue]] = {}
    answers: dict[str, Any] = {}
    try:
        for key, array in sorted(read_arrays(data).items()):
            case, role, *rest = key.split("/")
            raw = raws.setdefault(case, {})
            if role == "answer":
                answers[case] = _parsed(array.tobytes())
            else:
                (name,) = rest
                {"raw": raw}[role][name] = _value(kinds[name], array.tobytes())
        return tuple(RawCase(name, raw, answers[name]) for name, raw in raws.items())
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as cause:
        raise DamagedArtifact(f"the raw golden cases cannot be read: {cause!r}") from cause


def replay(
    operations: Operations, cases: Sequence[RawCase], golden_cases: Sequence[GoldenCase], recorded_engine: str
) -> list[Replay]:
    """Makes every case's tensors and answer again: without an engine, from what is recorded.

    Integers and texts must be equal, and so must tensors of lossless pictures, but for `FLOAT_TOLERANCE`.

    Raises:
        DamagedArtifact: there are no cases, or one is none of this model.
    """
    if not cases:
        raise DamagedArtifact("there are no raw golden cases, so nothing proves the operations; export again")
    by_name = {case.name: case for case in golden_cases}
    results: list[Replay] = []
    for case in cases:
        if case.name not in by_name or recorded_engine not in by_name[case.name].outputs:
            raise DamagedArtifact(f"raw golden case {case.name} has no golden case with the answer of {recorded_engine}")
        expected = by_name[case.name]
        if case.raw or operations.raw_inputs:
            results += _compare_inputs(operations, case, expected)
        if operations.predicts:
            answer = operations.finish(_declared_outputs(operations, expected, recorded_engine))[0]
            error = answer_error(answer, case.answer)
            results.append(_result(case.name, "answer", error, FLOAT_TOLERANCE, equal=error == 0))
    return results


def _declared_outputs(operations: Operations, case: GoldenCase, engine: str) -> Arrays:
    """What the engine answered. Raises DamagedArtifact unless it is what the signature says: operations take nothing else."""
    outputs = case.outputs[engine]
    same_rows = len({array.shape[:1] for array in outputs.values()}) == 1
    for spec in operations.signature.outputs:
        array = outputs[spec.name]
        fixed = [size == dim for size, dim in zip(array.shape, spec.shape, strict=False) if isinstance(dim, int)]
        fits = array.ndim == len(spec.shape) and all(fixed) and 0 not in array.shape and same_rows
        if str(array.dtype) != spec.dtype or not fits:
            raise DamagedArtifact(
                f"golden case {case.name} records {spec.name} as {array.dtype} {list(array.shape)}; "
                f"the signature says {spec.dtype} {list(spec.shape)}"
            )
    return outputs


def _compare_inputs(operations: Operations, case: RawCase, expected: GoldenCase) -> list[Replay]:
    try:
        made = operations.prepare(case.raw, RawLimits())
    except ArtifactError as cause:
        raise DamagedArtifact(f"raw golden case {case.name} cannot be prepared here: {cause}") from cause
    lossy = {name for spec in operations.raw_inputs if _is_lossy(case.raw[spec.name]) for name in spec.makes}
    results = []
    rows = len(next(iter(expected.inputs.values())))
    for name, array in operations.join([made] * rows).items():
        recorded = expected.inputs[name]
        equal = np.array_equal(array, recorded)
        if name in lossy:
            error, tolerance = _difference(array, recorded) / (operations.span(name) or 1.0), LOSSY_TOLERANCE
        else:
            error, tolerance = scaled_error(array, recorded), FLOAT_TOLERANCE if recorded.dtype.kind == "f" else 0.0
        results.append(_result(case.name, name, error, tolerance, equal=equal))
    return results


def _result(case: str, what: str, error: float, tolerance: float, *, equal: bool) -> Replay:
    return Replay(OPERATIONS, case, what, 1, tiled=False, error=error, tolerance=tolerance, bit_equal=equal)


def _difference(array: np.ndarray, recorded: np.ndarray) -> float:
    """The largest one between two values at the same place."""
    if array.shape != recorded.shape:
        return math.inf
    return float(np.abs(array.astype(np.float64) - recorded).max())


def answer_error(answer: Any, recorded: Any) -> float:
    """The worst scaled error of the numbers in two answers; infinite where they differ in anything else."""
    if isinstance(recorded, Mapping) and isinstance(answer, Mapping) and answer.keys() == recorded.keys():
        return max((answer_error(answer[key], recorded[key]) for key in recorded), default=0.0)
    if isinstance(recorded, list) and isinstance(answer, list) and len(answer) == len(recorded):
        return max((answer_error(one, other) for one, other in zip(answer, recorded, strict=True)), default=0.0)
    if isinstance(recorded, float) and isinstance(answer, (int, float)) and not isinstance(answer, bool):
        return abs(answer - recorded) / max(1.0, abs(recorded))
    return 0.0 if type(answer) is type(recorded) and answer == recorded else float("inf")


def _is_lossy(value: RawValue) -> bool:
    """Whether decoders may differ: JPEG, and WebP but for its lossless form."""
    if not isinstance(value, bytes):
        return False
    return value[:2] == b"\xff\xd8" or (value[:4] == b"RIFF" and value[12:16] != b"VP8L")


def _json(value: Any) -> bytes:
    return json.dumps(value, allow_nan=False).encode()


def _parsed(data: bytes) -> Any:
    """JSON without Python's NaN and infinities: nothing compares with them."""
    return json.loads(data, parse_float=_finite, parse_constant=_finite)


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text} is no number of JSON")
    return number


def _value(kind: str, data: bytes) -> RawValue:
    if kind == "image":
        return data
    value = _parsed(data)
    return (str(value[0]), str(value[1])) if kind == "pair" else value
