"""Warm start: a chosen part of a checkpoint, loaded into another model.

What is loaded is what globs name; what does not fit is left, and said. Nothing is matched by position, nothing is reshaped,
rounded or renamed unless asked, and the report goes into the checkpoints that follow.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from checkpoints.errors import KeysDoNotMatch
from checkpoints.keys import WRAPPERS
from checkpoints.mismatch import nearest
from checkpoints.read import read
from checkpoints.weights import WIDER

if TYPE_CHECKING:
    import torch

    Tensors = Mapping[str, torch.Tensor]

SHOWN = 5


@dataclass(frozen=True, slots=True)
class Misfit:
    """A tensor of the file that a glob took and the model did not: its name in the file, and why, as a sentence's end."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmStart:
    """What a warm start did. Names are without the components that wrappers add (`module.`, `_orig_mod.` …).

    `source` is the file's name, `sha256` that of its bytes, `weights` the weight set. `taken` and `not_taken_of_model` are names
    of the model: loaded, and as they were. `left` are names of the file that no glob took, `did_not_fit` those that a glob took
    and the model did not. `renamed` is model name -> file name where they differ, `tied` model name -> the taken name that is the
    same tensor, `widened` model name -> the narrower dtype that the file has.
    """

    source: str
    sha256: str
    weights: str
    take: tuple[str, ...]
    leave: tuple[str, ...]
    taken: tuple[str, ...]
    left: tuple[str, ...]
    did_not_fit: tuple[Misfit, ...]
    not_taken_of_model: tuple[str, ...]
    renamed: Mapping[str, str] = field(default_factory=dict)
    tied: Mapping[str, str] = field(default_factory=dict)
    widened: Mapping[str, str] = field(default_factory=dict)

    def facts(self) -> dict[str, Any]:
        """The same as plain JSON data: what a Keeper puts into the sidecars."""
        facts = asdict(self)
        return {key: list(value) if isinstance(value, tuple) else value for key, value in facts.items()}

    def __str__(self) -> str:
        lines = [f"warm start from {self.source}: {len(self.taken)} tensors taken, {len(self.left)} of the file left"]
        lines += [f"  did not fit: {misfit.name}: {misfit.reason}" for misfit in self.did_not_fit]
        if self.not_taken_of_model:
            lines.append(f"  as they were in the model: {_listed(self.not_taken_of_model)}")
        lines += [f"  {name} is {source} in the file" for name, source in list(self.renamed.items())[:SHOWN]]
        lines += [f"  {name} is the same tensor as {twin}" for name, twin in self.tied.items()]
        if self.widened:
            lines.append(f"  widened without loss: {_listed(tuple(self.widened))}")
        return "\n".join(lines)


def warm_start(  # noqa: PLR0913 (what is taken, from where, and under which names)
    model: "torch.nn.Module",
    path: str | Path,
    take: Sequence[str],
    *,
    leave: Sequence[str] = (),
    rename: Mapping[str, str] | None = None,
    weights: str | None = None,
) -> WarmStart:
    """Load what `take` names, less what `leave` names, into the model in place; say what was taken, left and did not fit.

    `take` and `leave` are globs (case matters) over the file's names, as the file has them or without wrappers' components.
    `rename` is prefix in the file -> prefix in the model (`{"": "backbone."}`, `{"encoder.": ""}`); the longest that fits holds,
    a name that begins with none of them stays. `weights` names the weight set of a checkpoint that holds several. Dtypes are
    equal or widened without loss. Where anything is raised, the model is as it was.

    Raises:
        KeysDoNotMatch: a glob or a prefix names nothing in the file, or nothing that it names fits; two names of the file become
            one; a value that would be taken is NaN or infinite; the model has no memory of its own (meta, lazy or sharded).
        AmbiguousWeights: several weight sets, and no `weights`.
        UnreadableCheckpoint, UnsafeCheckpoint: as `checkpoints.read`.
    """
    if isinstance(take, str) or isinstance(leave, str):
        raise KeysDoNotMatch('take and leave are lists of globs, not one text: take=["backbone.*"].')
    checkpoint = read(path)
    chosen = checkpoint.select(weights)
    source = checkpoint.path.name
    file = _by_plain_name(chosen.tensors)
    state = _own_tensors(model)
    picked = _picked(file, chosen.tensors, take, leave, source)
    names = _renamed(list(picked), list(file), rename or {}, source)
    ties = _ties(state)
    misfits = {name: reason for name in picked if (reason := _misfit(file[name], names[name], state)) is not None}
    misfits |= _differing_ties(file, {name: names[name] for name in picked if name not in misfits}, ties)
    fitting = {names[name]: name for name in picked if name not in misfits}
    _require_some(picked, misfits, take, source)
    _require_finite(file, fitting, source)
    _load(model, {target: file[name] for target, name in fitting.items()}, state)
    tied = _tied(ties, fitting)
    return WarmStart(
        source=source,
        sha256=checkpoint.sha256,
        weights=chosen.name,
        take=tuple(take),
        leave=tuple(leave),
        taken=tuple(sorted(fitting)),
        left=tuple(sorted(name for name in file if name not in picked)),
        did_not_fit=tuple(Misfit(name, misfits[name]) for name in sorted(misfits)),
        not_taken_of_model=tuple(sorted(name for name in state if name not in fitting and name not in tied)),
        renamed={target: name for target, name in sorted(fitting.items()) if target != name},
        tied=tied,
        widened={
            target: _dtype(file[name]) for target, name in sorted(fitting.items()) if file[name].dtype != state[target].dtype
        },
    )


# ---- names ----


def _by_plain_name(tensors: "Tensors") -> "dict[str, torch.Tensor]":
    """By their names without wrappers' components; as they are, where two would become one."""
    plain = {_plain_name(name): tensor for name, tensor in tensors.items()}
    return plain if len(plain) == len(tensors) and "" not in plain else dict(tensors)


def _plain_name(name: str) -> str:
    return ".".join(component for component in name.split(".") if component not in WRAPPERS)


def _picked(file: "Tensors", raw: "Tensors", take: Sequence[str], leave: Sequence[str], source: str) -> dict[str, set[str]]:
    """The file's names that are taken, each with the globs that took it."""
    both = {name: {name, old} for name, old in zip(file, raw, strict=True)}
    picked: dict[str, set[str]] = {}
    for glob in take:
        for name in _matching(glob, both, source):
            picked.setdefault(name, set()).add(glob)
    left = {name for glob in leave for name in _matching(glob, both, source)}
    return {name: globs for name, globs in picked.items() if name not in left}


def _matching(glob: str, names: Mapping[str, set[str]], source: str) -> list[str]:
    found = [name for name, both in names.items() if any(fnmatchcase(one, glob) for one in both)]
    if not found:
        near = nearest(glob.rstrip(".*"), {*names, *(name.partition(".")[0] for name in names)})
        hint = f' The nearest name is "{near}".' if near else ""
        raise KeysDoNotMatch(f'The glob "{glob}" names nothing in {source}. It has {_listed(_tops(names))}.{hint}')
    return found


def _tops(names: Iterable[str]) -> tuple[str, ...]:
    """The first components, as globs: what a person can choose from."""
    return tuple(dict.fromkeys(f"{top}.*" if rest else top for top, _, rest in (name.partition(".") for name in names)))


def _renamed(picked: Sequence[str], names: Sequence[str], rename: Mapping[str, str], source: str) -> dict[str, str]:
    """The file's name -> the model's."""
    for prefix in rename:
        if not any(name.startswith(prefix) for name in names):
            raise KeysDoNotMatch(f'rename: no name in {source} begins with "{prefix}". It has {_listed(_tops(names))}.')
    renamed = {name: _with_prefix(name, rename) for name in picked}
    first: dict[str, str] = {}
    for name, target in renamed.items():
        if first.setdefault(target, name) != name:
            raise KeysDoNotMatch(f"rename: {first[target]} and {name} of {source} would both become {target}.")
    return renamed


def _with_prefix(name: str, rename: Mapping[str, str]) -> str:
    fitting = [prefix for prefix in rename if name.startswith(prefix)]
    longest = max(fitting, key=len, default=None)
    return name if longest is None else rename[longest] + name.removeprefix(longest)


# ---- what fits ----


def _own_tensors(model: "torch.nn.Module") -> "dict[str, torch.Tensor]":
    """The model's own tensors by their plain names; not copies, so that writing to them changes the model."""
    import torch

    state = {name: value for name, value in model.state_dict(keep_vars=True).items() if isinstance(value, torch.Tensor)}
    for name, tensor in state.items():
        if torch.nn.parameter.is_lazy(tensor):
            raise KeysDoNotMatch(f"{name} of the model has no shape yet (a lazy module). Run one batch through the model first.")
        if tensor.is_meta:
            raise KeysDoNotMatch(f"{name} of the model has no memory (device meta). Build the model on a real device first.")
        if type(tensor) not in (torch.Tensor, torch.nn.Parameter):  # a DTensor, a quantised one
            raise KeysDoNotMatch(f"{name} of the model is a {type(tensor).__name__}. Warm start before the model is sharded.")
    return _by_plain_name(state)


def _misfit(tensor: "torch.Tensor", target: str, state: "Tensors") -> str | None:
    """Why the model does not take it; None where it does."""
    if target not in state:
        near = nearest(target, state)
        return f"the model has no {target}" + (f", its nearest name is {near}" if near else "")
    own = state[target]
    if tuple(tensor.shape) != tuple(own.shape):
        return f"{tuple(tensor.shape)} in the file, {tuple(own.shape)} in the model"
    if tensor.dtype != own.dtype and _dtype(own) not in WIDER.get(_dtype(tensor), ()):
        return f"{_dtype(tensor)} in the file, {_dtype(own)} in the model: that conversion can lose values"
    return None


def _ties(state: "Tensors") -> list[list[str]]:
    """The names of the model that stand for one and the same tensor."""
    groups: dict[Any, list[str]] = {}
    for name, tensor in state.items():
        if tensor.numel():
            place = (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
            groups.setdefault(place, []).append(name)
    return [group for group in groups.values() if len(group) > 1]


def _differing_ties(file: "Tensors", names: Mapping[str, str], ties: Sequence[Sequence[str]]) -> dict[str, str]:
    """Tensors that the model ties and the file has with different values: none of them can be taken."""
    import torch

    sources = {target: name for name, target in names.items()}
    misfits = {}
    for group in ties:
        first, *others = [sources[target] for target in group if target in sources] or [""]
        if any(not torch.equal(file[first], file[other]) for other in others):
            misfits |= {
                name: f"{' and '.join(group)} are one tensor in the model, and differ in the file" for name in (first, *others)
            }
    return misfits


def _tied(ties: Sequence[Sequence[str]], fitting: Mapping[str, str]) -> dict[str, str]:
    """Names that were not taken themselves, and changed since they are the same tensor as a taken one."""
    return {
        name: next(twin for twin in group if twin in fitting)
        for group in ties
        if any(twin in fitting for twin in group)
        for name in group
        if name not in fitting
    }


def _require_some(picked: Mapping[str, set[str]], misfits: Mapping[str, str], take: Sequence[str], source: str) -> None:
    """Each glob must bring something: one of which nothing fits is a mistake, not a choice."""
    if not take:
        raise KeysDoNotMatch('take names nothing: say what to take, such as take=["backbone.*"], or take=["*"] for all.')
    for glob in take:
        named = [name for name, globs in picked.items() if glob in globs]
        if not named:
            raise KeysDoNotMatch(f'leave names everything that the glob "{glob}" takes from {source}.')
        if all(name in misfits for name in named):
            shown = "; ".join(f"{name}: {misfits[name]}" for name in named[:SHOWN])
            more = f" and {len(named) - SHOWN} more" if len(named) > SHOWN else ""
            raise KeysDoNotMatch(f'Nothing of what the glob "{glob}" takes from {source} fits the model: {shown}{more}.')


def _require_finite(file: "Tensors", fitting: Mapping[str, str], source: str) -> None:
    import torch

    for name in fitting.values():
        tensor = file[name]
        if (tensor.is_floating_point() or tensor.is_complex()) and not torch.isfinite(tensor).all():
            count = int(tensor.numel() - torch.isfinite(tensor).sum())
            raise KeysDoNotMatch(
                f"{source}: {name} holds {count} value(s) that are NaN or infinite. Its training diverged before it was saved; "
                "take an earlier checkpoint."
            )


# ---- loading ----


def _load(model: "torch.nn.Module", tensors: "Tensors", state: "Tensors") -> None:
    """Copy, then look: a model whose state_dict gives copies has not taken anything."""
    import torch

    with torch.no_grad():
        for name, tensor in tensors.items():
            state[name].copy_(tensor)
        now = _by_plain_name({name: value for name, value in model.state_dict().items() if isinstance(value, torch.Tensor)})
        for name, tensor in tensors.items():
            if not torch.equal(now[name].cpu(), tensor.to(now[name].dtype)):
                raise KeysDoNotMatch(f"{name} cannot be loaded in place: the model's state_dict gives a copy of it.")


def _dtype(tensor: "torch.Tensor") -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
