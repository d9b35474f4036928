"""What a person sees of a folder and of a prune: a table in a terminal, the same as aligned text elsewhere; JSON for scripts."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from checkpoints.listing.entry import Listing
from checkpoints.listing.plan import Plan

if TYPE_CHECKING:
    from rich.console import Console

LIST_HEADERS = ("checkpoint", "step", "epoch", "metrics", "size", "order from", "notes")
PRUNE_HEADERS = ("checkpoint", "size", "", "why")
RIGHT = frozenset({"step", "epoch", "size"})
SHOWN_METRICS = 4
KIB = 1024


def listing_json(listing: Listing) -> dict[str, Any]:
    """The listing as plain JSON data."""
    return {
        "where": listing.where,
        "checkpoints": [
            {
                "name": entry.name,
                "layout": entry.layout,
                "series": entry.series,
                "step": entry.step,
                "epoch": entry.epoch,
                "metrics": {name: value for name, value in sorted(entry.metrics.items()) if abs(value) < float("inf")},
                "size_bytes": entry.size_bytes,
                "written_at": _time_text(entry.written_s),
                "order_from": entry.order_from,
                "kept_by": list(entry.kept_by),
                "protected": list(entry.protected),
                "damaged": entry.damaged,
            }
            for entry in listing.entries
        ],
        "links": dict(listing.links),
        "others": list(listing.others),
        "notes": list(listing.notes),
    }


def plan_json(plan: Plan, changed: Sequence[str], *, dry_run: bool) -> dict[str, Any]:
    """What a prune did, or with `dry_run` would do, as plain JSON data."""
    goes = [entry.name for entry in plan.goes if entry.name not in changed]
    return {
        "where": plan.listing.where,
        "dry_run": dry_run,
        "would_remove" if dry_run else "removed": goes,
        "freed_bytes": plan.freed_bytes(changed),
        "kept": {name: list(reasons) for name, reasons in plan.stays.items()},
        "changed_meanwhile": list(changed),
        "notes": list(plan.notes),
    }


def listing_rows(listing: Listing) -> list[tuple[str, ...]]:
    """One row per checkpoint, for `LIST_HEADERS`."""
    return [
        (
            entry.name + ("/" if entry.folder else ""),
            _count_text(entry.step),
            _count_text(entry.epoch),
            _metrics_text(entry.metrics),
            size_text(entry.size_bytes),
            entry.order_from or ("number" if entry.number is not None else "-"),
            "; ".join((*((f"UNUSABLE: {entry.damaged}",) if entry.damaged else ()), *entry.protected, *entry.kept_by)),
        )
        for entry in listing.entries
    ]


def listing_end(listing: Listing) -> list[str]:
    """The lines below the table."""
    total = size_text(sum(entry.size_bytes for entry in listing.entries))
    whole = sum(entry.damaged is None for entry in listing.entries)
    lines = [f"{whole} checkpoints in {listing.where}, {total}{_unusable(len(listing.entries) - whole)}"]
    lines += [f"{link} -> {target}" for link, target in listing.links.items()]
    if listing.others:
        lines.append(f"beside them, never touched by prune: {_some(listing.others)}")
    return [*lines, *(f"note: {note}" for note in listing.notes)]


def plan_rows(plan: Plan) -> list[tuple[str, ...]]:
    """One row per checkpoint, for `PRUNE_HEADERS`."""
    goes = {entry.name for entry in plan.goes}
    return [
        (
            entry.name + ("/" if entry.folder else ""),
            size_text(entry.size_bytes),
            "goes" if entry.name in goes else "stays",
            "; ".join(plan.stays.get(entry.name, ("nothing keeps it",))),
        )
        for entry in plan.listing.entries
    ]


def plan_end(plan: Plan, changed: Sequence[str], *, dry_run: bool) -> list[str]:
    """The lines below the table."""
    count = sum(entry.name not in changed for entry in plan.goes)
    what = "would be removed" if dry_run else "removed"
    lines = [f"{count} of {len(plan.listing.entries)} checkpoints {what}, {size_text(plan.freed_bytes(changed))} freed"]
    lines += [f"{name} changed meanwhile and stays" for name in changed]
    lines += [f"note: {note}" for note in plan.notes]
    return [*lines, "nothing was removed: --dry-run"] if dry_run else lines


def show(console: "Console", headers: Sequence[str], rows: Sequence[Sequence[str]], end: Sequence[str]) -> None:
    """Print rows and lines: a table in a terminal, else aligned text in full width. What cannot be printed is shown escaped."""
    from rich.markup import escape
    from rich.table import Table

    rows, end = [[printable(cell) for cell in row] for row in rows], [printable(line) for line in end]
    if console.is_terminal:
        table = Table(box=None, pad_edge=False, header_style="dim")
        for header in headers:
            table.add_column(header, justify="right" if header in RIGHT else "left", overflow="fold")
        for row in rows:
            style = "red" if any(cell.startswith("UNUSABLE") for cell in row) else "yellow" if "goes" in row[2:3] else None
            table.add_row(*map(escape, row), style=style)
        console.print(table)
    else:
        console.print(aligned([headers, *rows]), markup=False, highlight=False, soft_wrap=True)
    console.print("\n".join(end), markup=False, highlight=False, soft_wrap=True)


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """The rows in columns."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)


def printable(text: str) -> str:
    """The text with what would command a terminal, or cannot be encoded, as an escape: names come from anywhere."""
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)


def size_text(size_bytes: float) -> str:
    """Bytes as people read them: 446.7 MiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size_bytes < KIB:
            return f"{size_bytes:.0f} B" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= KIB
    return f"{size_bytes:.1f} TiB"


def _metrics_text(metrics: Mapping[str, float]) -> str:
    shown = [f"{name}={value:.4g}" for name, value in sorted(metrics.items())[:SHOWN_METRICS]]
    return " ".join(shown) + (f" +{len(metrics) - SHOWN_METRICS}" if len(metrics) > SHOWN_METRICS else "")


def _count_text(value: int | None) -> str:
    return "-" if value is None else str(value)


def _time_text(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _unusable(count: int) -> str:
    return f"; {count} unusable, which count for nothing and stay" if count else ""


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
