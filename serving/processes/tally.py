"""What a front end counts, and how control hears of it."""

import asyncio
from collections.abc import Mapping
from typing import Any

from serving.metrics import REASONS
from serving.processes.facts import totals_json
from serving.processes.link import Link
from serving.served import ServedVersion

_EVERY_S = 0.5


class Tally:
    """The counts of all versions here, and of requests that failed before their version was found."""

    def __init__(self, versions: Mapping[int, ServedVersion], link: Link) -> None:
        self._versions = versions
        self._link = link
        self._failed = dict.fromkeys(REASONS, 0)
        self._told: dict[str, Any] = {}

    def request_failed(self, reason: str) -> None:
        """A request failed before its version was found, for one of `REASONS`."""
        self._failed[reason if reason in self._failed else "other"] += 1

    def tell(self, ask: int | None = None) -> None:
        """Tells control everything up to now, as the answer to what it asked, or unasked."""
        self._told = self._now()
        self._link.send({"kind": "totals", "ask": ask, **self._told})

    async def tell_changes(self) -> None:
        """Tells control every half second, where anything changed. Without end."""
        while True:
            await asyncio.sleep(_EVERY_S)
            if _without_time(self._now()) != _without_time(self._told):
                self.tell()

    def _now(self) -> dict[str, Any]:
        versions = {
            str(number): {
                **totals_json(served.metrics.totals()),
                "in_flight": served.in_flight,
                "queued_rows": served.queued_rows,
            }
            for number, served in self._versions.items()
        }
        return {"versions": versions, "failed": self._failed.copy()}


def _without_time(told: Mapping[str, Any]) -> dict[str, Any]:
    """The counts without the moment of the last answer: it is worked out anew each time, and is never quite the same."""
    versions = told.get("versions", {})
    return {**told, "versions": {number: {**counts, "last_s": None} for number, counts in versions.items()}}
