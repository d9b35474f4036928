"""Keys: which key of the file stands for which key of the model.

Training wraps modules and leaves the wrapper's name in the keys (`module.fc.weight`, `model._orig_mod.fc.weight`). A rewrite of
the file's keys is applied only if it makes an exact bijection with equal shapes; the candidates are tried in a fixed order, and
all that fit must give the same mapping. Nothing is matched by position, nothing is reshaped, nothing is left out that no glob
names. The functions see names and shapes only.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from checkpoints.errors import AmbiguousWeights, KeysDoNotMatch
from checkpoints.mismatch import Mismatch, Shape, Shapes, explain

WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module")
"""Components that DataParallel and DistributedDataParallel, torch.compile, FSDP, activation checkpointing and DeepSpeed add."""

AVERAGED_COUNTER = "n_averaged"
"""The counter that torch.optim.swa_utils.AveragedModel keeps beside its `module.*` keys."""

MAX_PREFIX_DEPTH = 4
MAX_PREFIXES = 64


@dataclass(frozen=True, slots=True)
class KeyMatch:
    """An exact bijection of the file's keys onto the model's, with equal shapes.

    `rewrite` names what was done to the file's keys: "identity", or steps joined by " + ", such as "strip:module",
    "infix:_orig_mod", "strip-prefix:model." and "averaged-model". `mapping` is file key -> model key. `ignored` lists the
    file's keys that a glob, or the averaged-model rewrite, leaves out.
    """

    rewrite: str
    mapping: Mapping[str, str]
    ignored: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A rewrite tried on the file's keys: file key -> new key; a key that is not in `mapping` is one it cannot place."""

    rewrite: str
    mapping: Mapping[str, str]
    ignored: tuple[str, ...]


def match_keys(file: Shapes, model: Shapes, ignore: Sequence[str] = ()) -> KeyMatch:
    """Find the one rewrite under which the file's keys are the model's, exactly, with equal shapes.

    `ignore` holds globs (case matters) over keys of the file; what they name is left out.

    Raises KeysDoNotMatch where no rewrite fits (with the differences under the best one), and where a glob leaves out a
    key that the model needs; AmbiguousWeights where rewrites fit with different mappings.
    """
    skipped = _skipped(file, ignore)
    kept = [key for key in file if key not in skipped]
    found = choose(file, model, _candidates(kept))
    if found is not None:
        return KeyMatch(found.rewrite, found.mapping, tuple(sorted({*skipped, *found.ignored})))
    best = max(_partial_candidates(list(file), kept), key=lambda candidate: _score(candidate, kept, file, model))
    mismatch = _mismatch(best, kept, file, model)
    message = _needed_skip(skipped, best, mismatch) or explain(mismatch)
    raise KeysDoNotMatch(message, missing=mismatch.missing, unexpected=mismatch.unexpected, mismatched=mismatch.mismatched)


def choose(file: Shapes, model: Shapes, candidates: Iterable[Candidate]) -> Candidate | None:
    """The first candidate that fits, if all that fit agree; None if none fits.

    Raises AmbiguousWeights where two that fit differ in their mapping.
    """
    first: Candidate | None = None
    for candidate in candidates:
        if not _fits(candidate, file, model):
            continue
        if first is None:
            first = candidate
        elif first.mapping != candidate.mapping:
            raise AmbiguousWeights(
                f"Two rewrites of the file's keys fit the model and differ: {first.rewrite} and {candidate.rewrite}. "
                f"Rename the keys in the file so that one fits."
            )
    return first


def _skipped(file: Shapes, ignore: Sequence[str]) -> dict[str, str]:
    """The keys that the globs name, each with its first glob. A glob may name none: one config serves files with and without."""
    skipped: dict[str, str] = {}
    for glob in ignore:
        for key in file:
            if fnmatchcase(key, glob):
                skipped.setdefault(key, glob)
    return skipped


def _needed_skip(skipped: Mapping[str, str], best: Candidate, mismatch: Mismatch) -> str | None:
    """What is said where a glob leaves out a key that the model needs."""
    for key, glob in skipped.items():
        for needed in (key, best.mapping.get(key)):
            if needed in mismatch.missing:
                under = "" if needed == key else f" as {needed}"
                return (
                    f'The glob "{glob}" skips {key}, which the model needs{under}. Ignore only keys that the model does not have.'
                )
    return None


# ---- the candidates, in their fixed order ----


def _candidates(kept: Sequence[str]) -> Iterator[Candidate]:
    """Every rewrite that places every kept key: identity, wrappers, a prefix, both; then the same for averaged models."""
    yield from _over(kept, "", (), _common_prefixes)
    if (averaged := _averaged(kept)) is not None:
        yield from _over(averaged, "averaged-model", (AVERAGED_COUNTER,), _common_prefixes)


def _partial_candidates(keys: Sequence[str], kept: Sequence[str]) -> Iterator[Candidate]:
    """The same with prefixes that only some keys have: none of these fits, the best of them explains why."""
    yield from _over(keys, "", (), _any_prefixes)
    if (averaged := _averaged(kept)) is not None:
        yield from _over(averaged, "averaged-model", (AVERAGED_COUNTER,), _any_prefixes)


def _averaged(kept: Sequence[str]) -> dict[str, str] | None:
    """AveragedModel's keys without its counter and its own `module.`; None where the file is not one."""
    rest = [key for key in kept if key != AVERAGED_COUNTER]
    if len(rest) == len(kept) or not rest or not all(key.startswith("module.") for key in rest):
        return None
    return {key: key.removeprefix("module.") for key in rest}


def _over(
    keys: Sequence[str] | Mapping[str, str],
    first_step: str,
    ignored: tuple[str, ...],
    prefixes_of: Callable[[Collection[str]], list[str]],
) -> Iterator[Candidate]:
    """Wrappers taken away; then a prefix as well; last a prefix that has a wrapper's name in it, which may be the model's own."""
    start = dict(keys) if isinstance(keys, Mapping) else {key: key for key in keys}
    without_wrappers: list[tuple[list[str], dict[str, str]]] = []
    for tokens in _subsets(_wrappers_in(start.values())):
        stripped = {old: _without(new, tokens) for old, new in start.items()}
        steps = [step for step in (first_step, *_token_steps(start.values(), tokens)) if step]
        without_wrappers.append((steps, stripped))
        yield Candidate(" + ".join(steps) or "identity", stripped, ignored)
    for in_prefix in (False, True):
        for steps, stripped in without_wrappers:
            for prefix in prefixes_of(stripped.values()):
                if bool(_wrappers_in([prefix])) is in_prefix:
                    placed = {old: new.removeprefix(prefix) for old, new in stripped.items() if new.startswith(prefix)}
                    yield Candidate(" + ".join((*steps, f"strip-prefix:{prefix}")), placed, ignored)


def _wrappers_in(keys: Iterable[str]) -> list[str]:
    present = {component for key in keys for component in key.split(".")}
    return [token for token in WRAPPERS if token in present]


def _subsets(tokens: Sequence[str]) -> Iterator[tuple[str, ...]]:
    return itertools.chain.from_iterable(itertools.combinations(tokens, size) for size in range(len(tokens) + 1))


def _without(key: str, tokens: Sequence[str]) -> str:
    return ".".join(component for component in key.split(".") if component not in tokens)


def _token_steps(keys: Iterable[str], tokens: Sequence[str]) -> Iterator[str]:
    """One step per token: "strip" where it stands only among the leading wrappers, "infix" where it stands deeper."""
    split = [key.split(".") for key in keys]
    for token in tokens:
        deep = any(token in itertools.dropwhile(tokens.__contains__, components) for components in split)
        yield f"{'infix' if deep else 'strip'}:{token}"


def _common_prefixes(keys: Collection[str]) -> list[str]:
    """The dotted prefixes that every key has."""
    first = next(iter(keys), "")
    return [prefix for prefix in _prefixes(first) if all(key.startswith(prefix) for key in keys)]


def _any_prefixes(keys: Collection[str]) -> list[str]:
    """The dotted prefixes that some key has, the commonest first."""
    counted = Counter(prefix for key in keys for prefix in _prefixes(key))
    return [prefix for prefix, _ in counted.most_common(MAX_PREFIXES)]


def _prefixes(key: str) -> Iterator[str]:
    components = key.split(".")[:-1][:MAX_PREFIX_DEPTH]
    return (".".join(components[:depth]) + "." for depth in range(1, len(components) + 1))


# ---- judging a candidate ----


def _fits(candidate: Candidate, file: Shapes, model: Shapes) -> bool:
    mapping = candidate.mapping
    if len(mapping) != len(model) or len(set(mapping.values())) != len(model):
        return False
    return all(new in model and tuple(model[new]) == tuple(file[old]) for old, new in mapping.items())


def _score(candidate: Candidate, kept: Sequence[str], file: Shapes, model: Shapes) -> tuple[int, int, int]:
    """How well it does: keys found with their shape, keys found, and fewer steps before more."""
    named = [(old, candidate.mapping[old]) for old in kept if old in candidate.mapping]
    found = [(old, new) for old, new in named if new in model]
    exact = sum(tuple(file[old]) == tuple(model[new]) for old, new in found)
    return exact, len(found), -candidate.rewrite.count(":")


def _mismatch(best: Candidate, kept: Sequence[str], file: Shapes, model: Shapes) -> Mismatch:
    names = {old: best.mapping.get(old, old) for old in kept if old not in best.ignored}
    shapes: dict[str, Shape] = {}  # the file's, by their new names
    doubled: list[str] = []
    for old, new in names.items():
        if new in shapes:
            doubled.append(old)
        else:
            shapes[new] = tuple(file[old])
    both = sorted(shapes.keys() & model.keys())
    mismatched = tuple((key, shapes[key], tuple(model[key])) for key in both if shapes[key] != tuple(model[key]))
    return Mismatch(
        rewrite=best.rewrite,
        matched=len(both) - len(mismatched),
        missing=tuple(sorted(model.keys() - shapes.keys())),
        unexpected=tuple(sorted({*(old for old, new in names.items() if new not in model), *doubled})),
        names=names,
        mismatched=mismatched,
    )
