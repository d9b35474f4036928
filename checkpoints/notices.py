"""Notices: what a person should know about a checkpoint that was read, one sentence each."""

from collections.abc import Mapping
from pathlib import Path

from checkpoints.containers import Contents
from checkpoints.weights import WeightSet


def notices_of(path: Path, contents: Contents, sets: Mapping[str, WeightSet]) -> tuple[str, ...]:
    """What was taken from a training script's file, and what was left there."""
    notices: list[str] = []
    if contents.layout != "bare" and len(sets) == 1:
        notices.append(_training_notice(path, contents, next(iter(sets.values()))))
    if contents.layout == "deepspeed":
        notices.append(
            "DeepSpeed keeps the full-precision weights in its *_optim_states.pt files; these are the ones it computes with. "
            "zero_to_fp32.py, which it writes beside them, gathers the others."
        )
    for name, one in sets.items():
        left = [key for key in contents.weight_sets[name] if key not in one.tensors]
        if left:
            more = f" and {len(left) - 1} more" if len(left) > 1 else ""
            notices.append(f"{left[0]}{more} was left out: it is a module's extra state, not a tensor.")
    return tuple(notices)


def _training_notice(path: Path, contents: Contents, weights: WeightSet) -> str:
    facts = [f"{key} {_short(value)}" for key, value in contents.provenance.items() if isinstance(value, (int, float))][:4]
    told = f": {', '.join(facts)}" if facts else ""
    size = sum(one.numel() * one.element_size() for one in weights.tensors.values())
    shown = f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size} bytes"
    return (
        f'{path.name} is a training checkpoint{told}; weights under "{weights.name}" '
        f"({len(weights.tensors)} tensors, {shown}). Using it."
    )


def _short(value: float) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
