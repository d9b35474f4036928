"""Model folders: the weights in a folder of Hugging Face or accelerate, and the plain facts beside them."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from checkpoints.checkpoint_files import Parts, read_file
from checkpoints.containers import plain
from checkpoints.errors import AmbiguousWeights, UnreadableCheckpoint
from checkpoints.folders import WEIGHT_FILES
from checkpoints.weights import WeightSet

ACCELERATE_MODEL = re.compile(r"(model|pytorch_model)(_\d+)?\.(safetensors|bin|safetensors\.index\.json|bin\.index\.json)")


def read_hf_folder(path: Path) -> Parts:
    """A Hugging Face folder: its model file or index, with config.json and the trainer's epoch, step and best metric.

    Raises AmbiguousWeights where a whole and a sharded model of one format stand side by side, else what `read_file` does.
    """
    present = [name for name in WEIGHT_FILES if (path / name).is_file()]
    if not present:
        raise UnreadableCheckpoint(f"{path.name} has weights that are links to nothing: fetch them first.")
    first = present[0]
    twin = f"{first}.index.json"
    if twin in present:
        raise AmbiguousWeights(f"{path.name} holds both {first} and {twin}. Name the one that is meant: {path / first}.")
    parts = read_file(path / first)
    left = [f"{first} was read; {other} beside it was not." for other in present[1:]]
    return replace(
        parts,
        layout="hf-folder",
        provenance={**parts.provenance, **_trainer_state(path)},
        config=_config(path) or parts.config,
        notices=(*parts.notices, *left),
    )


def read_accelerate_folder(path: Path) -> Parts:
    """The folder of accelerate's save_state: one file per model; the optimizer's and the random states' pickles stay closed.

    Raises AmbiguousWeights where one model stands there in two formats, else what `read_file` does.
    """
    files = sorted(one for one in path.iterdir() if ACCELERATE_MODEL.fullmatch(one.name))
    if not files:
        raise UnreadableCheckpoint(f"{path.name} holds no model file (model.safetensors or pytorch_model.bin).")
    by_stem: dict[str, Parts] = {}
    for file in files:
        stem = file.name.partition(".")[0]
        if stem in by_stem:
            raise AmbiguousWeights(f"{path.name} holds {stem} in two formats. Name the file that is meant: {file}.")
        by_stem[stem] = read_file(file)
    if len(by_stem) == 1:
        return replace(next(iter(by_stem.values())), layout="accelerate")
    sets = {stem: replace(_only_set(parts, stem), name=stem) for stem, parts in by_stem.items()}
    return Parts("accelerate", sets, tuple(file for parts in by_stem.values() for file in parts.files))


def _only_set(parts: Parts, stem: str) -> WeightSet:
    if len(parts.weight_sets) != 1:
        raise UnreadableCheckpoint(f"{stem} holds more than one weight set ({', '.join(parts.weight_sets)}).")
    return next(iter(parts.weight_sets.values()))


def _config(path: Path) -> dict[str, Any] | None:
    config = _json_object(path / "config.json")
    return None if config is None else plain(path, config)


def _trainer_state(path: Path) -> dict[str, Any]:
    state = _json_object(path / "trainer_state.json") or {}
    return plain(path, {key: state[key] for key in ("epoch", "global_step", "best_metric") if key in state})


def _json_object(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UnreadableCheckpoint(f"{path.name} beside the weights is not JSON: {error}. Mend it or take it away.") from error
    return value if isinstance(value, dict) else None
