"""The commands `stateserve list` and `stateserve prune`."""

import json
import sys
from pathlib import Path

from checkpoints.listing.entry import Listing
from checkpoints.listing.kept import look_remote
from checkpoints.listing.look import look
from checkpoints.listing.plan import Choice, make_plan
from checkpoints.listing.remove import carry_out
from checkpoints.listing.text import (
    LIST_HEADERS,
    PRUNE_HEADERS,
    listing_end,
    listing_json,
    listing_rows,
    plan_end,
    plan_json,
    plan_rows,
    show,
)


def list_command(place: str, *, as_json: bool) -> None:
    """Print what is in a folder, or under a Keeper's URL. Raises UnreadableCheckpoint where there is nothing to list."""
    listing = look_at(place)
    if as_json:
        sys.stdout.write(json.dumps(listing_json(listing)) + "\n")
    else:
        _show(LIST_HEADERS, listing_rows(listing), listing_end(listing))


def prune_command(place: str, choice: Choice, *, dry_run: bool, as_json: bool) -> None:
    """Remove what nothing keeps, and print what went and why the rest stays; with `dry_run` remove nothing.

    Raises UnreadableCheckpoint where there is nothing to prune, WrongKeep where the choice does not fit what is there (nothing is
    removed then), DirectoryTaken where a Keeper's training is at work, PruneFailed where the file system refuses.
    """
    plan = make_plan(look_at(place), choice)
    changed = () if dry_run else carry_out(plan)
    if as_json:
        sys.stdout.write(json.dumps(plan_json(plan, changed, dry_run=dry_run)) + "\n")
    else:
        _show(PRUNE_HEADERS, plan_rows(plan), plan_end(plan, changed, dry_run=dry_run))


def look_at(place: str) -> Listing:
    """What is in a local folder, or under a URL. Raises UnreadableCheckpoint where it holds no checkpoints."""
    return look_remote(place) if "://" in place else look(Path(place))


def _show(headers: tuple[str, ...], rows: list[tuple[str, ...]], end: list[str]) -> None:
    from rich.console import Console

    show(Console(), headers, rows, end)
