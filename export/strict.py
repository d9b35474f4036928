"""Strict+ loading: what `load_state_dict(strict=True)` accepts and a person would not.

PyTorch's strict loading compares names. It takes float16 into float32 without a word, rounds float32 to float16, turns integers
and complex numbers into floats, stretches `[1]` to a scalar, loads NaN, and loads nothing at all into a meta model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from checkpoints import AmbiguousWeights, KeyMatch, KeysDoNotMatch, WeightSet, match_keys, weights_digest
from checkpoints.weights import WIDER
from export.errors import WeightsMismatch


@dataclass(frozen=True, slots=True)
class Loaded:
    """What was loaded, and how: `sha256` is of the tensors under the model's names, so it does not depend on the file."""

    rewrite: str
    ignored: tuple[str, ...]
    tensors: int
    size_bytes: int
    sha256: str
    notices: tuple[str, ...]


def load_strictly(model: nn.Module, weights: WeightSet, ignore: Sequence[str], params: Mapping[str, Any], source: str) -> Loaded:
    """Loads the weights into the model exactly, or raises and leaves the model as it was.

    `params` are the model's, defaults filled in, to explain a shape that does not fit; `source` names the file in messages.

    Raises:
        KeysDoNotMatch, AmbiguousWeights: names or shapes are not the model's, or fit it in two ways.
        WeightsMismatch: a dtype would lose values, a value is not finite, tied tensors differ, the model has no memory (meta).
    """
    state = model.state_dict(keep_vars=True)
    _require_real(state)
    ties = _ties(state)
    try:
        match, left_out = _match(weights.tensors, state, ties, ignore)
    except KeysDoNotMatch as cause:
        raise KeysDoNotMatch(
            f"{source}: {cause}{_fitting_params(cause, params)}",
            missing=cause.missing,
            unexpected=cause.unexpected,
            mismatched=cause.mismatched,
        ) from cause
    except AmbiguousWeights as cause:
        raise AmbiguousWeights(f"{source}: {cause}") from cause
    tensors = {match.mapping[name]: tensor for name, tensor in weights.tensors.items() if name in match.mapping}
    tensors |= {name: tensors[twin] for name, twin in left_out.items()}
    widened = _require_dtypes(state, tensors, source)
    _require_finite(tensors, source)
    _require_ties(ties, tensors, source)
    notices = [*_match_notices(match.rewrite, match.ignored, len(tensors)), *_suspicions(model, state, tensors, weights.versions)]
    notices += [
        f"{name} is not in the file; in the model it is one tensor with {twin}, which is" for name, twin in left_out.items()
    ]
    if widened:
        notices.append(
            f"{len(widened)} tensors were {_list(set(widened.values()))} in the file and were widened, exactly, for the model"
        )
    model.load_state_dict(tensors, strict=True)
    loaded = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    _require_loaded(loaded, tensors)
    return Loaded(
        rewrite=match.rewrite,
        ignored=match.ignored,
        tensors=len(loaded),
        size_bytes=sum(tensor.nbytes for tensor in loaded.values()),
        sha256=weights_digest(loaded),
        notices=tuple(notices),
    )


def _require_real(state: Mapping[str, Any]) -> None:
    for name, tensor in state.items():
        if not isinstance(tensor, torch.Tensor):
            raise WeightsMismatch(f"{name} of the model is {type(tensor).__name__}, not a tensor; only tensors are loaded")
        if tensor.is_meta:
            raise WeightsMismatch(f"{name} of the model has no memory (device meta); build the model on the CPU")


def _require_dtypes(state: Mapping[str, torch.Tensor], tensors: Mapping[str, torch.Tensor], source: str) -> dict[str, str]:
    """The names that are widened, with their dtype in the file."""
    widened, refused = {}, []
    for name, tensor in tensors.items():
        have, want = tensor.dtype, state[name].dtype
        if have == want:
            continue
        if _dtype(want) in WIDER.get(_dtype(have), ()):
            widened[name] = _dtype(have)
        else:
            refused.append(f"{name} is {_dtype(have)} in the file, {_dtype(want)} in the model")
    if refused:
        raise WeightsMismatch(
            f"{source}: {refused[0]}{_more(refused)}. That conversion can lose values, so it is not made; "
            "save the checkpoint in the model's dtype, or build the model in the checkpoint's"
        )
    return widened


def _require_finite(tensors: Mapping[str, torch.Tensor], source: str) -> None:
    bad = {
        name: int(tensor.numel() - torch.isfinite(tensor).sum())
        for name, tensor in tensors.items()
        if tensor.is_floating_point() and not torch.isfinite(tensor).all()
    }
    if bad:
        name, count = next(iter(bad.items()))
        raise WeightsMismatch(
            f"{source}: {name} holds {count} value(s) that are NaN or infinite{_more(list(bad))}. "
            "Training diverged before this was saved; take an earlier checkpoint"
        )


def _ties(state: Mapping[str, torch.Tensor]) -> list[list[str]]:
    """The names that stand for one and the same tensor in the model, by tensor."""
    groups: dict[tuple[Any, ...], list[str]] = {}
    for name, tensor in state.items():
        if tensor.numel() > 0:
            identity = (tensor.untyped_storage().data_ptr(), tensor.storage_offset(), tensor.shape, tensor.stride())
            groups.setdefault(identity, []).append(name)
    return [group for group in groups.values() if len(group) > 1]


def _match(
    file: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor], ties: Sequence[Sequence[str]], ignore: Sequence[str]
) -> tuple[KeyMatch, dict[str, str]]:
    """The key match; and the model's names that the file leaves out, each with the name of the same tensor that it has.

    Hugging Face's writers save a tied tensor once, under one of its names.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in file.items()}
    model = {name: tuple(tensor.shape) for name, tensor in state.items()}
    try:
        return match_keys(shapes, model, ignore), {}
    except KeysDoNotMatch as cause:
        missing = set(cause.missing)
        twins = {name: twin for group in ties for name in group if name in missing for twin in group if twin not in missing}
        if not missing or missing != set(twins):
            raise
        return match_keys(shapes, {name: shape for name, shape in model.items() if name not in missing}, ignore), twins


def _require_ties(ties: Sequence[Sequence[str]], tensors: Mapping[str, torch.Tensor], source: str) -> None:
    """Tensors that the model shares must be equal in the file: loading keeps only the last."""
    for first, *others in ties:
        for name in others:
            if not torch.equal(tensors[first], tensors[name]):
                raise WeightsMismatch(
                    f"{source}: {first} and {name} are one tensor in the model (tied), but differ in the file; "
                    "the file was saved from a model that does not tie them"
                )


def _require_loaded(loaded: Mapping[str, torch.Tensor], tensors: Mapping[str, torch.Tensor]) -> None:
    """A model may override its own loading: what it holds now must be what the file said."""
    for name, tensor in tensors.items():
        if not torch.equal(loaded[name], tensor.to(loaded[name].dtype)):
            raise WeightsMismatch(f"{name} was changed by the model's own loading; remove its load_state_dict hooks")


def _match_notices(rewrite: str, ignored: tuple[str, ...], count: int) -> list[str]:
    notices = []
    if rewrite != "identity":
        notices.append(f"keys were rewritten by {rewrite}; all {count} match")
    if ignored:
        notices.append(f"{len(ignored)} keys of the file were skipped, as asked: {_list(ignored)}")
    return notices


def _suspicions(
    model: nn.Module, state: Mapping[str, torch.Tensor], tensors: Mapping[str, torch.Tensor], versions: Mapping[str, int]
) -> list[str]:
    """What is allowed, and worth a look: zeros, values that equal a fresh model's, another version of a module's layout."""
    notices = []
    weights = [name for name, tensor in tensors.items() if tensor.is_floating_point() and tensor.dim() > 1]
    zero = [name for name in weights if not tensors[name].any()]
    if zero:
        notices.append(f"{len(zero)} weights are all zero: {_list(zero)}")
    fresh = [name for name in weights if name not in zero and torch.equal(tensors[name].to(state[name].dtype), state[name])]
    if fresh:
        notices.append(f"{len(fresh)} weights equal those of a freshly built model, as if never trained: {_list(fresh)}")
    for path, module in model.named_modules():
        saved, current = versions.get(path), getattr(module, "_version", 1)
        if saved is not None and saved != current:
            notices.append(
                f"{path or 'the model'} was saved in layout version {saved} of {type(module).__name__}, this is {current}"
            )
    return notices


def _fitting_params(mismatch: KeysDoNotMatch, params: Mapping[str, Any]) -> str:
    """`; config model.params.num_classes is 1000, the file fits 10`, where one param explains the sizes that differ."""
    fits: dict[str, set[int]] = {}
    for _, in_file, in_model in getattr(mismatch, "mismatched", ()):
        for file_size, model_size in zip(in_file, in_model, strict=False):
            if file_size != model_size:
                for name in (name for name, value in params.items() if value == model_size and not isinstance(value, bool)):
                    fits.setdefault(name, set()).add(file_size)
    hints = [
        f"config model.params.{name} is {params[name]}, the file fits {sizes.pop()}"
        for name, sizes in fits.items()
        if len(sizes) == 1
    ]
    return "".join(f"\n  {hint}" for hint in hints)


def _dtype(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _list(names: Any, most: int = 5) -> str:
    names = sorted(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _more(items: Sequence[str]) -> str:
    return f" (and {len(items) - 1} more)" if len(items) > 1 else ""
