"""What a place holds: complete checkpoints in the order in which they were saved, what is skipped and why, what is left over."""

from collections.abc import Mapping
from dataclasses import dataclass

from checkpoints.errors import UnreadableCheckpoint
from checkpoints.keeping.names import is_sidecar, sidecar_name, stem_of
from checkpoints.keeping.sidecar import Sidecar, parse_sidecar
from checkpoints.keeping.store import Store


@dataclass(frozen=True, slots=True)
class Skipped:
    """A checkpoint that is not used: the name of its sidecar, and the reason as a sentence for a person."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Found:
    """The complete checkpoints, the newest last; sidecars that are passed over; files of a stem that has no sidecar at all."""

    complete: tuple[Sidecar, ...]
    skipped: tuple[Skipped, ...]
    orphans: tuple[str, ...]
    taken: frozenset[str]
    """Every stem that some file here has."""


def scan(store: Store, known: Mapping[str, Sidecar] | None = None) -> Found:
    """Look through a place without changing anything. Newest means the largest sequence; no clock is asked.

    A checkpoint is complete if its sidecar can be read and every file that it lists is there in its full size; the files' bytes
    are not read. `known` are sidecars by their name that were read before (they never change) and need not be read again.
    """
    sizes = store.sizes()
    complete, skipped = [], []
    for name in sorted(filter(is_sidecar, sizes)):
        try:
            sidecar = (known or {}).get(name) or parse_sidecar(store.read(name), name)
        except UnreadableCheckpoint as error:
            skipped.append(Skipped(name, str(error)))
            continue
        except FileNotFoundError:  # removed since it was listed
            continue
        reason = _lacking(sidecar, sizes)
        if reason is None:
            complete.append(sidecar)
        else:
            skipped.append(Skipped(name, reason))
    stems = {name: stem for name in sizes if (stem := stem_of(name)) is not None}
    orphans = sorted(name for name, stem in stems.items() if sidecar_name(stem) not in sizes)
    return Found(tuple(sorted(complete, key=by_age)), tuple(skipped), tuple(orphans), frozenset(stems.values()))


def by_age(sidecar: Sidecar) -> tuple[int, str]:
    """A key for sorting: the newest last."""
    return sidecar.sequence, sidecar.stem


def _lacking(sidecar: Sidecar, sizes: Mapping[str, int]) -> str | None:
    for name, file in sidecar.files.items():
        if name not in sizes:
            return f"{name} is missing; {sidecar.name} lists it."
        if sizes[name] != file.size:
            return f"{name} has {sizes[name]} bytes, {sidecar.name} says {file.size}."
    return None
