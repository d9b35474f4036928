"""What a checkpoint's own content says: step, epoch, metrics, and which file its trainer calls the best."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from checkpoints.listing.shallow import StandIn, shallow

STEP_ENTRIES = ("global_step", "step", "steps", "iteration", "iter", "num_updates", "n_iter")
EPOCH_ENTRIES = ("epoch", "epochs", "current_epoch")
SETTINGS = frozenset({"lr", "learning_rate", "seed", "version", "amp", "batch_size", "world_size", "n_averaged", "momentum"})
"""Numbers at the top of a checkpoint that are no metrics."""

DATA_MODULES = ("numpy.", "torch._", "torch.utils.", "pandas.", "builtins.", "collections.")
"""Whose objects, saved alone, are data and no model."""

MAX_STATE_BYTES = 256 << 20
TRAINER_STATE = "trainer_state.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What a content says. `best` are the names of files or folders that the trainer points to, each with its reason."""

    layout: str
    step: int | None = None
    epoch: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    best: Mapping[str, str] = field(default_factory=dict)
    scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Metrics of other checkpoints, by their names."""


def read_file(path: Path) -> Told | None:
    """What a torch.save file says; nothing of it runs, its tensors are not read.

    None where it is no checkpoint: a tensor, a list or numbers, as data sets and caches are saved. Raises OSError.
    """
    found = shallow(path)
    if isinstance(found, StandIn):
        return Told(layout="pickled-model") if found.named and not found.named.startswith(DATA_MODULES) else None
    if not isinstance(found, dict) or not any(isinstance(value, (dict, StandIn)) for value in found.values()):
        return None
    held: Mapping[Any, Any] = found
    if "pytorch-lightning_version" in held:
        return _lightning(held)
    layout = "timm" if "arch" in held and "state_dict" in held else "training"
    return Told(
        layout=layout,
        step=_first_count(held, STEP_ENTRIES),
        epoch=_first_count(held, EPOCH_ENTRIES),
        metrics=dict(_metrics(held)),
    )


def read_trainer_folder(path: Path) -> Told | None:
    """What the `trainer_state.json` of Hugging Face's Trainer says; None where there is none that can be read."""
    try:
        with (path / TRAINER_STATE).open("rb") as file:
            state = json.loads(file.read(MAX_STATE_BYTES))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(state, dict):
        return None
    step = _count(state.get("global_step"))
    best = state.get("best_model_checkpoint")
    name = Path(best).name if isinstance(best, str) and "\0" not in best else ""
    return Told(
        layout="hf-trainer",
        step=step,
        epoch=_count(state.get("epoch")),
        metrics=_logged(state.get("log_history"), step),
        best={name: f"{TRAINER_STATE} names it as the best"} if name else {},
    )


def _lightning(held: Mapping[Any, Any]) -> Told:
    """Lightning's file: the scores of its ModelCheckpoint callbacks, and the files that they call the best and the last."""
    metrics: dict[str, float] = {}
    best: dict[str, str] = {}
    scores: dict[str, dict[str, float]] = {}
    for state in _mappings(held.get("callbacks")):
        monitor = state.get("monitor")
        if isinstance(monitor, str) and (score := _number(state.get("current_score"))) is not None:
            metrics[monitor] = score
        for entry, word in (("best_model_path", "best"), ("last_model_path", "last")):
            if isinstance(state.get(entry), str) and state[entry]:
                best[Path(state[entry]).name] = f"ModelCheckpoint calls it the {word}"
        listed = state.get("best_k_models")
        for path, score in listed.items() if isinstance(listed, dict) else ():
            if isinstance(path, str) and isinstance(monitor, str) and (value := _number(score)) is not None:
                scores.setdefault(Path(path).name, {})[monitor] = value
    return Told(
        layout="lightning",
        step=_count(held.get("global_step")),
        epoch=_count(held.get("epoch")),
        metrics=metrics,
        best=best,
        scores=scores,
    )


def _mappings(value: Any) -> Iterator[Mapping[Any, Any]]:
    if isinstance(value, dict):
        yield from (one for one in value.values() if isinstance(one, dict))


def _metrics(held: Mapping[Any, Any]) -> Iterator[tuple[str, float]]:
    """Numbers at the top, and those of an entry `metrics`."""
    counters = {*STEP_ENTRIES, *EPOCH_ENTRIES, *SETTINGS}
    for name, value in held.items():
        if isinstance(name, str) and name not in counters and isinstance(value, float) and math.isfinite(value):
            yield name, value
    nested = held.get("metrics")
    for name, value in nested.items() if isinstance(nested, dict) else ():
        if isinstance(name, str) and (number := _number(value)) is not None:
            yield name, number


def _logged(history: Any, step: int | None) -> dict[str, float]:
    """The evaluation that was logged at this step."""
    metrics: dict[str, float] = {}
    for line in history if isinstance(history, list) else ():
        if isinstance(line, dict) and step is not None and line.get("step") == step:
            metrics |= {name: float(value) for name, value in line.items() if _is_evaluation(name) and _number(value) is not None}
    return metrics


def _is_evaluation(name: str) -> bool:
    """Whether it is a result, and not how long it took."""
    return name.startswith("eval_") and not name.endswith(("_runtime", "_per_second", "_time"))


def _first_count(held: Mapping[Any, Any], names: tuple[str, ...]) -> int | None:
    """At the top, or in an entry `meta` (OpenMMLab's)."""
    places = [held, *_mappings({"meta": held.get("meta")})]
    return next((count for place in places for name in names if (count := _count(place.get(name))) is not None), None)


def _count(value: Any) -> int | None:
    """A number that counts something: whole, not negative, of at most 18 digits."""
    number = _number(value)
    return int(number) if number is not None and 0 <= number < 10**18 and number == int(number) else None


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not -1e300 < value < 1e300:
        return None
    return value
