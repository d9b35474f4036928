"""The mismatch: what a person is told when the file's keys are not the model's.

Counts first, then at most five examples of each kind, nearest names, and what is known about left-overs of other tools: a few
lines, however many keys there are.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]

EXAMPLES = 5


@dataclass(frozen=True, slots=True)
class Mismatch:
    """The differences under the rewrite that fits best.

    `missing` are the model's keys, `unexpected` the file's own; `names` is what the rewrite makes of the file's. `mismatched`
    holds (the model's key, shape in the file, shape in the model).
    """

    rewrite: str
    matched: int
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    names: Mapping[str, str]
    mismatched: tuple[tuple[str, Shape, Shape], ...]


@dataclass(frozen=True, slots=True)
class Leftover:
    """Keys that a known tool or version leaves behind or lacks: how to tell them, and what to do."""

    among: str  # "missing" or "unexpected"
    is_one: Callable[[str], bool]
    advice: str


def _ends(*names: str) -> Callable[[str], bool]:
    return lambda key: key.rsplit(".", 1)[-1] in names


LEFTOVERS = (
    Leftover(
        "unexpected",
        _ends("weight_g", "weight_v"),
        "weight norm in its old form (weight_g, weight_v); the model has parametrizations.weight.original0/1 or a plain weight: "
        "re-save with torch.nn.utils.parametrizations.weight_norm, or after remove_weight_norm",
    ),
    Leftover(
        "unexpected",
        lambda key: ".parametrizations." in f".{key}",
        "a parametrization (weight norm, spectral norm, LoRA …) is still on: call "
        "torch.nn.utils.parametrize.remove_parametrizations before saving",
    ),
    Leftover(
        "unexpected",
        _ends("weight_orig", "weight_mask", "bias_orig", "bias_mask"),
        "pruning is still on, or spectral norm in its old form: "
        "call torch.nn.utils.prune.remove (or remove_spectral_norm) before saving",
    ),
    Leftover(
        "unexpected", _ends("weight_u"), "spectral norm in its old form: call torch.nn.utils.remove_spectral_norm before saving"
    ),
    Leftover("unexpected", _ends("_extra_state"), "a module's extra state, which the model does not keep: ignore it by a glob"),
    Leftover(
        "unexpected",
        _ends("total_ops", "total_params"),
        "counters that the profiler thop left in the module: ignore them by a glob",
    ),
    Leftover("unexpected", _ends("position_ids"), "a constant that older releases of transformers saved: ignore it by a glob"),
    Leftover(
        "missing",
        _ends("num_batches_tracked"),
        "the file is from before torch 0.4.1, or lost its _metadata: load it in the training repository and save it again",
    ),
    Leftover(
        "unexpected", lambda key: "pooler" in key.split("."), "the file has a pooler, the model has none: ignore it by a glob"
    ),
    Leftover(
        "missing",
        lambda key: "pooler" in key.split("."),
        "the model has a pooler, the file has none: build the model without it",
    ),
    Leftover(
        "unexpected",
        lambda key: "lora_" in key,
        "LoRA adapters are not merged: merge them first (peft: model.merge_and_unload()) and save again",
    ),
)
"""Checked in this order; each key is explained once."""


def explain(mismatch: Mismatch) -> str:
    """The whole message: counts, examples, nearest names, known left-overs."""
    lines = [_counts(mismatch)]
    lines += _examples("another shape", [_shape_difference(*difference) for difference in mismatch.mismatched])
    lines += _examples("missing in the file", mismatch.missing)
    lines += _examples("unexpected in the file", mismatch.unexpected)
    lines += _nearest_names(mismatch)
    lines += _known_leftovers(mismatch)
    return "\n".join(lines)


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The name most like `name`, if any is like it at all."""
    found = get_close_matches(name, list(names), n=1, cutoff=0.6)
    return found[0] if found else None


def _counts(mismatch: Mismatch) -> str:
    under = "" if mismatch.rewrite == "identity" else f" under the rewrite {mismatch.rewrite}"
    return (
        f"The file's keys are not the model's{under}: {mismatch.matched} match, {len(mismatch.mismatched)} have another shape, "
        f"{len(mismatch.missing)} are missing in the file, {len(mismatch.unexpected)} are unexpected in it."
    )


def _examples(title: str, items: Sequence[str]) -> list[str]:
    if not items:
        return []
    more = f" and {len(items) - EXAMPLES} more" if len(items) > EXAMPLES else ""
    return [f"  {title}: {', '.join(items[:EXAMPLES])}{more}"]


def _shape_difference(key: str, in_file: Shape, in_model: Shape) -> str:
    difference = f"{key} is {in_file} in the file, {in_model} in the model"
    scalar_against_one = {in_file, in_model} == {(), (1,)}
    return f"{difference} (a scalar against a vector of one; never reshaped)" if scalar_against_one else difference


def _nearest_names(mismatch: Mismatch) -> list[str]:
    old_names = {mismatch.names.get(key, key): key for key in mismatch.unexpected}
    pairs = [(key, nearest(key, old_names)) for key in mismatch.missing[:EXAMPLES]]
    named = [f"{key} ~ {old_names[near]} of the file" for key, near in pairs if near]
    return _examples("nearest names", named)


def _known_leftovers(mismatch: Mismatch) -> list[str]:
    unexplained = {"missing": list(mismatch.missing), "unexpected": list(mismatch.unexpected)}
    lines: list[str] = []
    for leftover in LEFTOVERS:
        keys = unexplained[leftover.among]
        found = [key for key in keys if leftover.is_one(key)]
        if found:
            more = f" and {len(found) - 1} more" if len(found) > 1 else ""
            lines.append(f"  {found[0]}{more}: {leftover.advice}")
            unexplained[leftover.among] = [key for key in keys if key not in set(found)]
    return lines
