"""A Keeper's checkpoint as a reader meets it: what the sidecar beside it says, and whether the file is the one that it lists."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from checkpoints.checkpoint_files import Parts
from checkpoints.errors import UnreadableCheckpoint
from checkpoints.keeping.names import STATE_SUFFIX, WEIGHTS_SUFFIX, sidecar_name, stem_of
from checkpoints.keeping.sidecar import Sidecar, parse_sidecar
from checkpoints.siblings import name_sibling

LAYOUT = "keeper"
WEIGHTS = "model_state_dict"


def sidecar_beside(file: Path) -> Sidecar | None:
    """The sidecar of a checkpoint's file, None where it has none, or lists other files.

    Raises UnreadableCheckpoint where it cannot be understood, and where the file is the one with the optimizer's state.
    """
    stem = stem_of(file.name)
    if stem is None:
        return None
    if file.name.endswith(STATE_SUFFIX):
        raise UnreadableCheckpoint(
            f"{file.name} holds the state of a training, not a model's weights. Give {stem}{WEIGHTS_SUFFIX} beside it."
        )
    try:
        sidecar = parse_sidecar(file.with_name(sidecar_name(stem)).read_bytes(), sidecar_name(stem))
    except (FileNotFoundError, NotADirectoryError):
        return None
    return sidecar if file.name in sidecar.files else None


def require_listed(file: Path, sidecar: Sidecar, size_bytes: int, sha256: str) -> None:
    """Raises UnreadableCheckpoint where the file's bytes are not those that its sidecar lists."""
    listed = sidecar.files[file.name]
    if size_bytes == listed.size and sha256 == listed.sha256:
        return
    found = f"{size_bytes} bytes" if size_bytes != listed.size else f"sha256 {sha256[:12]}…"
    said = f"{listed.size} bytes" if size_bytes != listed.size else f"sha256 {listed.sha256[:12]}…"
    raise UnreadableCheckpoint(
        f"{file.name} is damaged, or was changed: it has {found}, {sidecar.name} says {said}. {name_sibling(file)}"
    )


def with_sidecar(parts: Parts, sidecar: Sidecar) -> Parts:
    """The parts with the facts that the sidecar states: those of the training, and the config.

    The weights are called as in the one file of the format "pth", so that one config selects them in both.
    """
    config = sidecar.config if sidecar.config is not None else parts.config
    sets = {name or WEIGHTS: replace(weights, name=name or WEIGHTS) for name, weights in parts.weight_sets.items()}
    return replace(parts, layout=LAYOUT, weight_sets=sets, provenance={**parts.provenance, **_facts(sidecar)}, config=config)


def _facts(sidecar: Sidecar) -> Mapping[str, Any]:
    stated = {
        "step": sidecar.step,
        "epoch": sidecar.epoch,
        "metrics": {name: value if value - value == 0 else str(value) for name, value in sidecar.metrics.items()},
        "saved_at": sidecar.saved_at,
        "run": sidecar.run,
        "git": sidecar.git,
        "warm_start": list(sidecar.warm_start),
        "environment": dict(sidecar.environment),
    }
    return {name: value for name, value in stated.items() if value not in (None, [], {})}
