"""A look into a folder of checkpoints, whoever wrote it: files and folders by their bytes, order by name or content."""

import contextlib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from checkpoints.errors import CheckpointError, UnreadableCheckpoint
from checkpoints.folders import RULES
from checkpoints.keeping.names import stem_of
from checkpoints.kinds import Kind
from checkpoints.listing.contents import TRAINER_STATE, Told, read_file, read_trainer_folder
from checkpoints.listing.entry import Entry, Listing
from checkpoints.listing.kept import keeper_entries
from checkpoints.listing.names import SUFFIXES, Named, kept_word, read_name
from checkpoints.listing.order import in_order
from checkpoints.recognise import recognise
from checkpoints.safetensors_header import read_header
from checkpoints.torch_file import scan_torch_file

WHOLE_KINDS = frozenset({Kind.TORCH_ZIP, Kind.TORCH_LEGACY, Kind.SAFETENSORS})
TORN_KINDS = frozenset({Kind.EMPTY, Kind.TRUNCATED_ZIP, Kind.UNKNOWN, Kind.TAR})
"""What an interrupted write leaves, where the name is that of a checkpoint."""

FOLDER_KINDS = frozenset(
    {Kind.HF_FOLDER, Kind.ACCELERATE_FOLDER, Kind.ADAPTER_FOLDER, Kind.DEEPSPEED_FOLDER, Kind.DCP_FOLDER, Kind.FSDP_FOLDER}
)
SNAPSHOT_MARK = ".snapshot_metadata"
"""What torchsnapshot writes last; torchtnt's checkpoints are these."""

TRAINING_STATE = re.compile(
    r"(^|[-_.])(optim(izer)?|sched(uler)?|scaler|training_args|rng_state|random_states)([-_.]|$)", re.IGNORECASE
)
"""Files of a run's own state: no checkpoints, never touched."""

SHARD = re.compile(r"-\d{5}-of-\d{5}\.")
MAX_POINTER_BYTES = 4096
MAX_ENTRIES = 100_000
MAX_BESIDE = 10_000


def look(directory: str | Path) -> Listing:
    """Everything that is a checkpoint in the folder itself, not in folders below; nothing is run, nothing is changed.

    Raises UnreadableCheckpoint where it is no folder, cannot be read, or holds no checkpoint.
    """
    folder = Path(directory)
    try:
        if not folder.is_dir():
            raise UnreadableCheckpoint(f"{folder} is not a folder. Give the folder that holds the checkpoints.")
        names = sorted(os.listdir(folder))[:MAX_ENTRIES]  # noqa: PTH208 (the names alone)
        kept = keeper_entries(folder, names)
        links = _links(folder, names)
        foreign = [name for name in names if stem_of(name) is None and name not in links and not name.startswith(".")]
        looked = [_looked_at(folder, name) for name in foreign]
    except OSError as error:
        raise UnreadableCheckpoint(f"{folder} cannot be read: {error.strerror or error}.") from error
    found = [(entry, told) for entry, told in looked if entry is not None]
    entries = [*kept, *_with_scores(found)]
    if not entries:
        raise UnreadableCheckpoint(_none_here(folder, names))
    entries = _protected(entries, _pointing(links, _newest(found)))
    mine = {file for entry in entries for file in entry.files}
    return Listing(
        where=str(folder),
        entries=in_order(entries),
        links=links,
        others=tuple(name for name in names if name not in mine and name not in links and not name.startswith(".")),
    )


# ---- one name ----


def _looked_at(folder: Path, name: str) -> tuple[Entry | None, Told | None]:
    """As `_look_at`; what went away meanwhile is not there, what cannot be read is said to be unusable."""
    try:
        return _look_at(folder, name)
    except FileNotFoundError:
        return None, None
    except (OSError, UnreadableCheckpoint) as error:
        path = folder / name
        if not path.exists() or not name.lower().endswith(SUFFIXES):
            return None, None
        reason = error.strerror if isinstance(error, OSError) else str(error)
        return _entry(path, (name,), Told(layout="unreadable"), damaged=f"it cannot be read: {reason}"), None


def _look_at(folder: Path, name: str) -> tuple[Entry | None, Told | None]:
    path = folder / name
    if path.is_dir():
        return _look_into(path)
    if not path.is_file() or SHARD.search(name) or TRAINING_STATE.search(name):
        return None, None
    found = recognise(path)
    has_name = name.lower().endswith(SUFFIXES)
    if found.kind not in WHOLE_KINDS:
        if not (has_name and found.kind in TORN_KINDS):
            return None, None
        return _entry(path, (name,), Told(layout=found.kind), damaged=f"it is {found.summary}"), None
    damaged = _damage(path, found.kind)
    told = Told(layout="safetensors") if found.kind is Kind.SAFETENSORS else read_file(path)
    if told is None:
        return (_entry(path, (name,), Told(layout=found.kind), damaged=damaged) if damaged and has_name else None), None
    return _entry(path, (name,), told, damaged=damaged), told


def _damage(path: Path, kind: Kind) -> str | None:
    """Why the file is not whole. Tables of contents and sizes are checked; that code would run is no damage."""
    try:
        if kind is Kind.SAFETENSORS:
            read_header(path)
        else:
            scan_torch_file(path, kind)
    except UnreadableCheckpoint as error:
        return str(error)
    except CheckpointError:
        return None
    return None


def _look_into(path: Path) -> tuple[Entry | None, Told | None]:
    names = {one.name for one, _ in zip(path.iterdir(), range(MAX_ENTRIES), strict=False)}
    named = read_name(path.name)
    kind = next((rule.kind for rule in RULES if rule.is_one(frozenset(names))), Kind.FOLDER)
    is_numbered = named.step is not None or named.epoch is not None or named.number is not None
    is_one = kind in FOLDER_KINDS or SNAPSHOT_MARK in names or TRAINER_STATE in names
    if not is_one and not path.name.endswith(".ckpt"):
        torn = is_numbered and re.fullmatch(r"checkpoint-\d+|global_step\d+|epoch_\d+_.*step_\d+.*", path.name)
        if not torn:
            return None, None
        return _entry(path, (path.name,), Told(layout="folder"), damaged="it holds no weights that we know"), None
    told = read_trainer_folder(path)
    if told is None:
        told = Told(layout="torchtnt" if re.match(r"epoch_\d+_.*step_\d+", path.name) else str(kind))
    return _entry(path, (path.name,), told, damaged=_folder_damage(path.name, kind, names)), told


def _folder_damage(name: str, kind: Kind, names: set[str]) -> str | None:
    """The Trainer writes its state last: a folder of its name without it was not finished, one without weights has lost them."""
    if TRAINER_STATE in names and kind not in FOLDER_KINDS:
        return "it holds no weights"
    if re.fullmatch(r"checkpoint-\d+", name) and kind is Kind.HF_FOLDER and "config.json" in names and TRAINER_STATE not in names:
        return f"it has no {TRAINER_STATE}, which is written last"
    return None


def _entry(path: Path, files: tuple[str, ...], told: Told, *, damaged: str | None) -> Entry:
    named = read_name(path.name)
    stat = path.stat()
    is_folder = path.is_dir()
    step, epoch = _first(told.step, named.step), _first(told.epoch, named.epoch)
    word = kept_word(path.name)
    return Entry(
        name=path.name,
        layout=told.layout,
        files=files,
        folder=is_folder,
        size_bytes=sum(one.lstat().st_size for one in path.rglob("*")) if is_folder else stat.st_size,
        written_s=stat.st_mtime,
        is_shared=not is_folder and stat.st_nlink > 1,
        series=named.series,
        step=step,
        epoch=epoch,
        number=named.number,
        version=named.version,
        order_from=_order_from(told, named),
        metrics={**told.metrics, **named.metrics},
        protected=(f'its name says "{word}"',) if word else (),
        damaged=damaged,
    )


def _first(told: int | None, named: int | None) -> int | None:
    """The content's word before the name's: the name may count from another number."""
    return named if told is None else told


def _order_from(told: Told, named: Named) -> str | None:
    if told.step is not None or told.epoch is not None:
        return "content"
    return "name" if (named.step, named.epoch, named.number) != (None, None, None) else None


# ---- all of them ----


def _with_scores(found: Iterable[tuple[Entry, Told | None]]) -> list[Entry]:
    """With the metrics that a later checkpoint's table has for an earlier one's name."""
    found = list(found)
    scores: dict[str, dict[str, float]] = {}
    for _, told in found:
        for name, metrics in (told.scores if told else {}).items():
            scores.setdefault(name, {}).update(metrics)
    return [replace(entry, metrics={**entry.metrics, **scores.get(entry.name, {})}) for entry, _ in found]


def _newest(found: Iterable[tuple[Entry, Told | None]]) -> list[Told]:
    """What the newest whole checkpoint of each series says: what an older one calls the best may be so no more."""
    told = {entry.name: one for entry, one in found if one is not None}
    whole = in_order(entry for entry, _ in found if entry.damaged is None and entry.name in told)
    return [told[name] for name in {entry.series: entry.name for entry in whole}.values()]


def _pointing(links: Mapping[str, str], told: Iterable[Told]) -> dict[str, list[str]]:
    """Name -> why it stays: links lead to it, or its trainer calls it the best."""
    reasons: dict[str, list[str]] = {}
    for link, target in links.items():
        reasons.setdefault(target, []).append(f"{link} points to it")
    for one in told:
        for name, reason in one.best.items():
            reasons.setdefault(name, []).append(reason)
    return reasons


def _protected(entries: Iterable[Entry], reasons: Mapping[str, Sequence[str]]) -> list[Entry]:
    return [
        replace(entry, protected=(*entry.protected, *dict.fromkeys(one for file in entry.files for one in reasons.get(file, ()))))
        for entry in entries
    ]


def _links(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Links and small text files such as DeepSpeed's `latest`, whose content is the name of something beside them."""
    present = set(names)
    links: dict[str, str] = {}
    for name in names:
        path = folder / name
        if path.is_symlink():
            links[name] = _target(folder, path)
        elif kept_word(name) and path.is_file() and path.stat().st_size <= MAX_POINTER_BYTES:
            words = path.read_bytes().decode("utf-8", "replace").split()
            if words and words[-1] in present and words[-1] != name and len(words) <= 3:
                links[name] = words[-1]
    return links | _links_beside(folder)


def _links_beside(folder: Path) -> dict[str, str]:
    """The links of the folder above that lead into this one: `best.pth -> checkpoints/epoch_3.pth`."""
    inside = folder.resolve()
    links: dict[str, str] = {}
    with contextlib.suppress(OSError):  # the folder above may be closed to us
        for path, _ in zip(inside.parent.iterdir(), range(MAX_BESIDE), strict=False):
            if path.is_symlink() and (target := path.resolve()).is_relative_to(inside) and target != inside:
                links[f"../{path.name}"] = target.relative_to(inside).parts[0]
    return links


def _target(folder: Path, link: Path) -> str:
    """The name beside the link that it leads to, whatever is between; else where it leads to."""
    try:
        target = link.resolve()
        inside = target.relative_to(folder.resolve())
    except (OSError, ValueError, RuntimeError):
        return os.readlink(link)  # noqa: PTH115 (its text, as it is)
    return inside.parts[0] if inside.parts else str(target)


def _none_here(folder: Path, names: Iterable[str]) -> str:
    """No checkpoint is here: which folders below have some, as far as their names say."""
    below = [
        str(path.parent.relative_to(folder))
        for pattern in ("*/*", "*/*/*", "*/*/*/*")
        for path, _ in zip(folder.glob(pattern), range(MAX_ENTRIES), strict=False)
        if path.name.endswith(SUFFIXES)
    ]
    places = sorted(set(below))[:3]
    hint = f" There are some in {', '.join(places)}." if places else ""
    return f"{folder} holds no checkpoint; it has {len(list(names))} names.{hint}"
