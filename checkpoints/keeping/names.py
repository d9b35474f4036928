"""The names of the files in a Keeper's directory: the same in a local directory and under an object store's prefix."""

import re

SIDECAR_SUFFIX = ".json"
WEIGHTS_SUFFIX = ".safetensors"
STATE_SUFFIX = ".state.pth"
CHECKPOINT_SUFFIX = ".pth"

LATEST = "latest.pth"
BEST = "best.pth"
FENCE = ".keeper.json"
"""Who keeps here."""

LOCK = ".keeper.lock"
"""An empty file that is locked as long as a Keeper lives, where files can be locked."""

LARGEST_STEP = 10**15

_OURS = re.compile(r"(step-[0-9]{8,16}(?:-[1-9][0-9]{0,8})?)(\.json|\.safetensors|\.state\.pth|\.pth)")
_LINK = re.compile(r"latest\.pth|best(-[A-Za-z0-9_.+-]{1,200})?\.pth")


def first_stem(step: int) -> str:
    """`step-00000120`: what the files of a step's first checkpoint begin with; a step is at most `LARGEST_STEP`."""
    return f"step-{step:08}"


def free_stem(step: int, taken: frozenset[str]) -> str:
    """A stem that no file has yet: the step's first, or with -2, -3 … behind it."""
    stem = first_stem(step)
    again = 1
    while stem in taken:
        again += 1
        stem = f"{first_stem(step)}-{again}"
    return stem


def stem_of(name: str) -> str | None:
    """The stem of a checkpoint's file, None where the name is not one of a checkpoint's files."""
    match = _OURS.fullmatch(name)
    return match[1] if match else None


def sidecar_name(stem: str) -> str:
    """`step-00000120.json`: the file that makes a checkpoint complete."""
    return stem + SIDECAR_SUFFIX


def is_sidecar(name: str) -> bool:
    """Whether the name is that of a checkpoint's sidecar."""
    return name.endswith(SIDECAR_SUFFIX) and stem_of(name) is not None


def best_link(metric: str) -> str:
    """`best-val_acc.pth`: the pointer of a policy about the best of another metric; other characters become `_`."""
    return f"best-{re.sub(r'[^A-Za-z0-9_.+-]', '_', metric)[:200]}.pth"


def is_link(name: str) -> bool:
    """Whether the name is one that a Keeper gives to its pointers: latest.pth, best.pth, best-<metric>.pth."""
    return _LINK.fullmatch(name) is not None
