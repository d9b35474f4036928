"""A Keeper's checkpoints as entries: their order and metrics are those of the sidecars."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from checkpoints.errors import UnreadableCheckpoint
from checkpoints.keeping.names import sidecar_name, stem_of
from checkpoints.keeping.scan import Found, scan
from checkpoints.keeping.sidecar import Sidecar
from checkpoints.keeping.store import Store, open_store
from checkpoints.listing.entry import Entry, Listing

SERIES = "step-#"
"""All of a Keeper's checkpoints are one series, in the order of their sequence."""


def keeper_entries(folder: Path, names: Iterable[str]) -> list[Entry]:
    """A Keeper's checkpoints in a local folder, also those that are not complete; nothing is read where no name is a Keeper's."""
    if not any(stem_of(name) for name in names):
        return []
    store = open_store(folder)
    found, sizes = scan(store), store.sizes()
    return [
        *(_entry(sidecar, sizes, _written_s(folder / sidecar.name)) for sidecar in found.complete),
        *_incomplete(found, sizes),
    ]


def look_remote(url: str) -> Listing:
    """A Keeper's checkpoints under an object store's prefix. Raises UnreadableCheckpoint where there are none."""
    store = open_store(url)
    found, sizes = scan(store), store.sizes()
    links = {link: target for link in store.links() if (target := store.pointed(link)) is not None}
    entries = [*(_entry(sidecar, sizes, None) for sidecar in found.complete), *_incomplete(found, sizes)]
    if not entries:
        raise UnreadableCheckpoint(f"{url} holds no checkpoint of a Keeper; others are listed in local folders only.")
    mine = {file for entry in entries for file in entry.files}
    return Listing(
        where=url,
        entries=tuple(_with_links(entry, links) for entry in entries),
        links=links,
        others=tuple(sorted(name for name in sizes if name not in mine and name not in links)),
        notes=("an object store has no locks: prune only where no training writes",),
    )


def _with_links(entry: Entry, links: dict[str, str]) -> Entry:
    """The entry with the links that point to one of its files as reasons to stay."""
    reasons = tuple(f"{link} points to it" for link, target in links.items() if target in entry.files)
    return replace(entry, protected=(*entry.protected, *reasons))


def remove_kept(store: Store, entry: Entry) -> bool:
    """Remove a Keeper's checkpoint, unless a link has come to point to it since it was listed: False.

    The sidecar goes first: what is half removed is no checkpoint any more, and the next Keeper sweeps the rest.
    """
    if any(store.pointed(link) in entry.files for link in store.links()):
        return False
    for name in entry.files:
        store.remove(name)
    return True


def _written_s(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:  # removed since it was listed
        return None


def _entry(sidecar: Sidecar, sizes: dict[str, int], written_s: float | None) -> Entry:
    files = (sidecar.name, *sidecar.files)
    return Entry(
        name=sidecar.stem,
        layout="keeper",
        files=files,
        size_bytes=sum(sizes.get(name, 0) for name in files),
        written_s=written_s,
        series=SERIES,
        sequence=sidecar.sequence,
        step=sidecar.step,
        epoch=sidecar.epoch,
        order_from="sidecar",
        metrics=dict(sidecar.metrics),
        kept_by=sidecar.kept_by,
    )


def _incomplete(found: Found, sizes: dict[str, int]) -> list[Entry]:
    """Half-written or half-removed ones; the next Keeper sweeps what has no sidecar."""
    told = {stem_of(skipped.name) or skipped.name: skipped.reason for skipped in found.skipped}
    for name in found.orphans:
        stem = stem_of(name) or name
        told.setdefault(stem, f"it has no {sidecar_name(stem)}, which is written last; the next Keeper here removes it")
    return [
        Entry(
            name=stem,
            layout="keeper",
            files=tuple(name for name in sizes if stem_of(name) == stem),
            size_bytes=sum(size for name, size in sizes.items() if stem_of(name) == stem),
            series=SERIES,
            damaged=reason,
        )
        for stem, reason in sorted(told.items())
    ]
