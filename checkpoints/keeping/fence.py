"""The fence: a file that says who keeps here, so that a trainer whose place was taken over stops writing.

Locks tell it at once where there are locks. Elsewhere (object stores, some of NFS) nobody can tell whether a trainer lives, so
the newer one takes over, and the older one finds that out before it writes again.
"""

import json
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from os import getpid
from typing import TYPE_CHECKING, Any

from checkpoints.errors import DirectoryTaken
from checkpoints.keeping.names import FENCE
from foundation.storage import canonical_json

if TYPE_CHECKING:
    from checkpoints.keeping.store import Store


@dataclass(frozen=True, slots=True)
class Owner:
    """Who keeps in a place: a run's random name, where it runs, and the files that lay there before any Keeper came."""

    run: str
    host: str
    pid: int
    started_at: str
    strangers: tuple[str, ...] = ()

    def fields(self) -> dict[str, Any]:
        """What stands in the fence's file."""
        return {
            "run": self.run,
            "host": self.host,
            "pid": self.pid,
            "started_at": self.started_at,
            "strangers": list(self.strangers),
        }


def this_process(run: str, strangers: tuple[str, ...] = ()) -> Owner:
    """This process as an owner; the time is for people only."""
    return Owner(run, socket.gethostname(), getpid(), utc_now(), strangers)


def utc_now() -> str:
    """The time in UTC as people write it, `2026-11-22T20:46:50Z`: nothing is decided by it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def read_fence(store: "Store") -> Owner | None:
    """Who keeps here; None where no Keeper ever did, or its word cannot be read."""
    try:
        fields = json.loads(store.read(FENCE).decode())
    except (FileNotFoundError, ValueError, RecursionError):
        return None
    return _owner(fields) if isinstance(fields, dict) else None


def claim(store: "Store", owner: Owner) -> None:
    """Write the fence: from now on every other run's next write ends with DirectoryTaken."""
    store.replace(FENCE, canonical_json(owner.fields()))


def check_fence(store: "Store", owner: Owner) -> None:
    """Make sure that the place is still this run's. Where somebody removed the fence, it is put up again.

    Raises DirectoryTaken where another run took over.
    """
    found = read_fence(store)
    if found is None:
        claim(store, owner)
    elif found.run != owner.run:
        raise _taken_by(found, f"{store.where} was taken over by another trainer; this one writes no more checkpoints there:")


def taken(store: "Store") -> DirectoryTaken:
    """The error for a trainer that comes second, where a lock says so."""
    return _taken_by(read_fence(store), f"Another trainer keeps its checkpoints in {store.where}:")


def _taken_by(owner: Owner | None, what: str) -> DirectoryTaken:
    if owner is None:
        return DirectoryTaken(f"{what} which one is not known. Wait for its end, or give this one a directory of its own.")
    return DirectoryTaken(
        f"{what} process {owner.pid} on {owner.host}, since {owner.started_at}. "
        "Wait for its end, or give each trainer a directory of its own.",
        host=owner.host,
        pid=owner.pid,
        since=owner.started_at,
    )


def _owner(fields: Mapping[str, Any]) -> Owner | None:
    run, host, pid, started_at = (fields.get(key) for key in ("run", "host", "pid", "started_at"))
    if not (isinstance(run, str) and isinstance(host, str) and isinstance(pid, int) and isinstance(started_at, str)):
        return None
    strangers = fields.get("strangers")
    names = tuple(name for name in strangers if isinstance(name, str)) if isinstance(strangers, list) else ()
    return Owner(run, host, pid, started_at, names)
