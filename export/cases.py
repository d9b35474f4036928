"""Inputs for capture, parity and golden cases, drawn from the signature alone: seeded, and never only those of the trace."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from artifact.signature import DTYPES, Dim, Signature, TensorSpec

Arrays = dict[str, np.ndarray]
Sizes = Mapping[str, int]

_BATCH_OF_CASES = 3


@dataclass(frozen=True, slots=True)
class Case:
    """One set of inputs: a size for every named dimension, and a kind of values. The arrays are made when asked for."""

    name: str
    sizes: Sizes
    kind: str
    seed: int

    def inputs(self, signature: Signature) -> Arrays:
        """The arrays; the same on every call."""
        rng = np.random.default_rng([self.seed, len(signature.inputs)])
        return {spec.name: _values(spec, self.sizes, self.kind, rng) for spec in signature.inputs}

    def elements(self, signature: Signature) -> int:
        """Elements in all inputs: what cost is estimated by."""
        return sum(int(np.prod(spec.concrete(self.sizes))) for spec in signature.inputs)


def parity_cases(signature: Signature) -> list[Case]:
    """Every kind of values at the usual sizes, then every edge of every dimension, then the corners of every pair."""
    base = _usual_sizes(signature)
    shapes = [("usual", base, kind) for kind in value_kinds(signature)]
    for name, dim in signature.dims.items():
        shapes += [(f"{name}={size}", {**base, name: size}, "uniform") for size in edge_sizes(dim) if size != base[name]]
    for first, second in itertools.combinations(signature.dims, 2):
        for low, high in ((first, second), (second, first)):
            sizes = {**base, low: signature.dims[low].min, high: signature.dims[high].max}
            shapes.append((f"{low} min, {high} max", sizes, "uniform"))
    if signature.dims:
        shapes.append(("all min", {name: dim.min for name, dim in signature.dims.items()}, "uniform"))
        shapes.append(("all max", {name: dim.max for name, dim in signature.dims.items()}, "uniform"))
    unique = {(tuple(sizes.items()), kind): (name, sizes, kind) for name, sizes, kind in reversed(shapes)}
    kept = reversed(list(unique.values()))
    return [Case(f"{name}, {kind}", sizes, kind, seed) for seed, (name, sizes, kind) in enumerate(kept)]


def golden_candidates(signature: Signature) -> list[Case]:
    """Cases of the fewest rows: every kind of values at the usual sizes, then the other dimensions' edges."""
    base = {**_usual_sizes(signature)}
    batch = signature.batch_dim
    if batch is not None:
        base[batch] = signature.dims[batch].min
    shapes = [(base, kind) for kind in value_kinds(signature)]
    for name, dim in signature.dims.items():
        if name != batch:
            shapes += [({**base, name: size}, "uniform") for size in (dim.min, dim.max) if size != base[name]]
    return [Case(f"{index:02}-{kind}", sizes, kind, 1000 + index) for index, (sizes, kind) in enumerate(shapes)]


def sample_inputs(signature: Signature) -> Arrays:
    """The inputs that the model is captured with: sizes of at least 2 steps (PyTorch treats 1 as a constant), no two alike."""
    sizes: dict[str, int] = {}
    for name, dim in signature.dims.items():
        start = max(dim.min, 2 * dim.multiple)
        allowed = list(range(start, dim.max + 1, dim.multiple)[:64]) or [dim.max]
        fixed = {size for spec in signature.inputs for size in spec.shape if isinstance(size, int)}
        distinct = [size for size in allowed if size not in sizes.values() and size not in fixed]
        sizes[name] = (distinct or allowed)[0]
    return Case("sample", sizes, "uniform", seed=0).inputs(signature)


def tensors(inputs: Mapping[str, np.ndarray], signature: Signature, dtype: torch.dtype | None = None) -> list[torch.Tensor]:
    """The inputs in the signature's order; floating-point ones in `dtype`, if given. The arrays' memory is never shared."""
    made = [torch.from_numpy(inputs[spec.name].copy()) for spec in signature.inputs]
    return [tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor for tensor in made]


def tensor_bytes(tensor: torch.Tensor) -> bytes:
    """A tensor's values as they lie in memory, row by row, of any dtype: NumPy has no bfloat16."""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def edge_sizes(dim: Dim) -> list[int]:
    """Where sizes go wrong: min, the next, 2, an odd one, the usual one, the last but one, max."""
    step = dim.multiple
    middle = (dim.min + dim.max) // 2 // step * step
    odd = middle if middle % 2 else middle + step
    candidates = {dim.min, dim.min + step, 2, odd, dim.opt or dim.min, dim.max - step, dim.max}
    return sorted(size for size in candidates if dim.allows(size))


def value_kinds(signature: Signature) -> list[str]:
    """The kinds of values that these inputs can take; `uniform` first."""
    kinds = {"uniform": None}
    for spec in signature.inputs:
        kinds |= dict.fromkeys(_kinds(spec))
    if len(signature.inputs) > 1 and any(is_mask(spec) for spec in signature.inputs):
        kinds |= dict.fromkeys(("full mask", "one in mask", "empty mask"))
    return list(kinds)


def is_mask(spec: TensorSpec) -> bool:
    """An integer input of 0 and 1, or a bool one."""
    return spec.dtype == "bool" or (not spec.dtype.startswith("float") and spec.range == (0, 1))


def _usual_sizes(signature: Signature) -> dict[str, int]:
    batch = signature.batch_dim
    return {name: _usual(dim, _BATCH_OF_CASES if name == batch else dim.opt) for name, dim in signature.dims.items()}


def _usual(dim: Dim, wanted: int | None) -> int:
    """The allowed size closest to the wanted one; without one, the smallest above 1."""
    target = wanted if wanted is not None else max(2, dim.min)
    nearest = round(target / dim.multiple) * dim.multiple
    return min(max(nearest, dim.min), dim.max)


def _kinds(spec: TensorSpec) -> tuple[str, ...]:
    if not spec.dtype.startswith("float"):
        return ("low", "high")
    return ("low", "high", "zeros", "extremes") if spec.range is not None else ("normal", "zeros", "ones", "large")


def _values(spec: TensorSpec, sizes: Sizes, kind: str, rng: np.random.Generator) -> np.ndarray:
    shape = spec.concrete(sizes)
    if is_mask(spec):
        return _mask(kind, shape, rng).astype(DTYPES[spec.dtype])
    if spec.dtype.startswith("float"):
        low, high = spec.range or (-1.0, 1.0)
        values = _FLOATS.get(kind, _uniform)(shape, rng, low, high)
        return (values if spec.range is None else np.clip(values, low, high)).astype(DTYPES[spec.dtype])
    low, high = (int(bound) for bound in spec.range or (0, 0))
    if kind in {"low", "high"}:
        return np.full(shape, low if kind == "low" else high, DTYPES[spec.dtype])
    return rng.integers(low, high, shape, endpoint=True).astype(DTYPES[spec.dtype])


def _mask(kind: str, shape: Sequence[int], rng: np.random.Generator) -> np.ndarray:
    random = rng.integers(0, 1, shape, endpoint=True)
    if kind in {"low", "empty mask"}:
        return np.zeros_like(random)
    if kind in {"high", "full mask"}:
        return np.ones_like(random)
    if kind == "one in mask":
        one = np.zeros_like(random)
        one[..., :1] = 1
        return one
    return random


def _uniform(shape: Sequence[int], rng: np.random.Generator, low: float, high: float) -> np.ndarray:
    return rng.uniform(low, high, shape)


_FLOATS: Mapping[str, Callable[[Sequence[int], np.random.Generator, float, float], np.ndarray]] = {
    "low": lambda shape, _rng, low, _high: np.full(shape, low),
    "high": lambda shape, _rng, _low, high: np.full(shape, high),
    "zeros": lambda shape, *_: np.zeros(shape),
    "ones": lambda shape, *_: np.ones(shape),
    "extremes": lambda shape, rng, low, high: rng.choice([low, high], shape),
    "normal": lambda shape, rng, *_: rng.standard_normal(shape),
    "large": lambda shape, rng, *_: 10 * rng.standard_normal(shape),
}
