"""Folders: which tool wrote a folder, told by the files that the tool always makes."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from checkpoints.keeping.names import is_link, is_sidecar
from checkpoints.kinds import READ_IT, Kind, Recognised

MAX_NAMES = 10_000
"""A folder with more entries is told by its first ones."""

WEIGHT_FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
"""Hugging Face's names for a model's weights, in the order in which they are preferred."""


@dataclass(frozen=True, slots=True)
class FolderRule:
    """How a kind of folder is told by the names in it, and the words for it."""

    kind: Kind
    is_one: Callable[[frozenset[str]], bool]
    summary: str
    remedy: str


def _has(*wanted: str) -> Callable[[frozenset[str]], bool]:
    return lambda names: any(name in names for name in wanted)


def _matches(pattern: str) -> Callable[[frozenset[str]], bool]:
    compiled = re.compile(pattern)
    return lambda names: any(compiled.fullmatch(name) for name in names)


def _is_accelerate(names: frozenset[str]) -> bool:
    state = _matches(r"random_states_\d+\.pkl|optimizer(_\d+)?\.bin|scheduler(_\d+)?\.bin")
    model = _matches(r"(model|pytorch_model)(_\d+)?\.(safetensors|bin)|model(_\d+)?\.safetensors\.index\.json")
    return state(names) and model(names)


def _is_deepspeed(names: frozenset[str]) -> bool:
    """Whether only DeepSpeed's own files are there: a whole model beside them is read as that."""
    return _matches(r"zero_to_fp32\.py|global_step\d+|.*mp_rank_\d+_model_states\.pt")(names) and not _has(*WEIGHT_FILES)(names)


RULES = (
    FolderRule(
        Kind.KEEPER_FOLDER,
        lambda names: any(map(is_sidecar, names)),
        "a directory of a Keeper's checkpoints",
        "Give one of the checkpoints in it.",
    ),
    FolderRule(
        Kind.DCP_FOLDER,
        lambda names: ".metadata" in names and _matches(r".*\.distcp")(names),
        "a torch.distributed.checkpoint folder, whose .metadata is a pickle",
        "Make one file of it where it was trained: "
        "python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER weights.pth.",
    ),
    FolderRule(
        Kind.DEEPSPEED_FOLDER,
        _is_deepspeed,
        "a DeepSpeed checkpoint: its full-precision weights are spread over the optimizer's files",
        "Make one file of it where it was trained, with the script that DeepSpeed put there: python zero_to_fp32.py . weights.",
    ),
    FolderRule(Kind.ACCELERATE_FOLDER, _is_accelerate, "a folder written by accelerate's save_state", READ_IT),
    FolderRule(
        Kind.ADAPTER_FOLDER,
        lambda names: "adapter_config.json" in names and not _has(*WEIGHT_FILES)(names),
        "a LoRA adapter (peft) without its base model",
        "Merge it first: model.merge_and_unload().save_pretrained(folder).",
    ),
    FolderRule(Kind.HF_FOLDER, _has(*WEIGHT_FILES), "a Hugging Face model folder", READ_IT),
    FolderRule(
        Kind.FSDP_FOLDER,
        _matches(r"(pytorch_model|model)_fsdp(_\d+)?(\..*)?"),
        "a sharded FSDP checkpoint written by accelerate",
        "Make one file of it where it was trained: accelerate merge-weights FOLDER/pytorch_model_fsdp_0 OUTPUT.",
    ),
    FolderRule(
        Kind.ORBAX_FOLDER,
        _has("_CHECKPOINT_METADATA", "commit_success.txt", "_METADATA"),
        "an Orbax checkpoint (JAX)",
        "Save its arrays by name with safetensors.numpy.save_file.",
    ),
    FolderRule(
        Kind.SAVED_MODEL_FOLDER,
        _has("saved_model.pb", "saved_model.pbtxt", "keras_metadata.pb"),
        "a TensorFlow SavedModel",
        "Convert its weights to safetensors in TensorFlow.",
    ),
    FolderRule(
        Kind.TF_CHECKPOINT_FOLDER,
        _matches(r".*\.ckpt.*\.index|ckpt-\d+\.index|.*\.data-\d+-of-\d+"),
        "a TensorFlow checkpoint",
        "Convert its weights to safetensors in TensorFlow.",
    ),
    FolderRule(
        Kind.TNT_FOLDER,
        _matches(r"epoch_\d+(_train)?_step_\d+.*"),
        "a folder of torchtnt checkpoints",
        "Give one of the checkpoints in it.",
    ),
)
"""The first rule that holds decides."""


def recognise_folder(path: Path) -> Recognised:
    """Tell who wrote the folder. Raises OSError where it cannot be listed."""
    names = frozenset(entry.name for entry, _ in zip(path.iterdir(), range(MAX_NAMES), strict=False))
    size_bytes = sum(one.stat().st_size for one in path.rglob("*") if one.is_file())
    for rule in RULES:
        if rule.is_one(names):
            return Recognised(path, rule.kind, size_bytes, rule.summary, _remedy(path, names, rule))
    return Recognised(path, Kind.FOLDER, size_bytes, _plain_summary(names), _plain_remedy(names))


def _remedy(path: Path, names: frozenset[str], rule: FolderRule) -> str:
    if rule.kind is Kind.TNT_FOLDER:
        return _give_newest(path, rule.remedy)
    links = sorted(filter(is_link, names)) if rule.kind is Kind.KEEPER_FOLDER else []
    return f"Give one of the checkpoints in it: {' or '.join(str(path / link) for link in links)}." if links else rule.remedy


def _give_newest(path: Path, remedy: str) -> str:
    steps = [one for one in path.iterdir() if one.name.startswith("epoch_")]
    newest = max(steps, key=lambda one: one.stat().st_mtime_ns)
    return f"{remedy[:-1]}; the newest is {newest.name}."


def _plain_summary(names: frozenset[str]) -> str:
    return "a folder of no layout that we know" if names else "an empty folder"


def _plain_remedy(names: frozenset[str]) -> str:
    likely = sorted(name for name in names if name.endswith((".safetensors", ".pth", ".pt", ".ckpt", ".bin", ".tar")))
    if not likely:
        return "Give the checkpoint file itself."
    more = f" (and {len(likely) - 3} more)" if len(likely) > 3 else ""
    return f"Give the file itself: {', '.join(likely[:3])}{more}."
