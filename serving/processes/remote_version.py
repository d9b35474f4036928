"""A version that runs in other processes, as the process that looks after them sees it."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from artifact.manifest import Manifest
from artifact.operations import Operations
from artifact.signature import Signature
from serving.execution import Execution
from serving.plan import Plan
from serving.processes.back_off import BackOff
from serving.processes.children import Child
from serving.processes.facts import calls_of, execution_of, totals_of
from serving.processes.merged import NOTHING, Told
from serving.settings import ModelSettings

Place = Literal["front ends", "engine processes"]
"""Where a version's engines are."""


@dataclass(frozen=True, slots=True)
class EngineName:
    """What runs a version: onnx, torchscript."""

    name: str


@dataclass(frozen=True, slots=True)
class RemoteArtifact:
    """What is known here of an artifact that others have loaded."""

    manifest: Manifest
    engine: EngineName
    operations: Operations | None


@dataclass(frozen=True, slots=True)
class OnDisk:
    """What files say of a version. `labels` are classes' by output."""

    manifest: Manifest
    labels: Mapping[str, Sequence[str]]
    operations: Operations | None


@dataclass(frozen=True, slots=True)
class Found:
    """A version as it was read from disk, and found by its first engine process, which prepared it."""

    read: OnDisk
    engine: str
    execution: Execution
    planned: Plan
    max_queue_rows: int

    @classmethod
    def of(cls, read: OnDisk, ready: Mapping[str, Any]) -> "Found":
        """With what the message `ready` says."""
        return cls(
            read=read,
            engine=ready["engine"],
            execution=execution_of(ready["execution"]),
            planned=Plan(**ready["planned"]),
            max_queue_rows=ready["max_queue_rows"],
        )


@dataclass(slots=True, eq=False)
class Seat:
    """A place for one engine process: its device, and who has it now; `trouble` is why nobody has."""

    device: str
    number: int
    child: Child | None
    trouble: str = ""
    back_off: BackOff = field(default_factory=BackOff)


@dataclass(frozen=True, slots=True)
class Loading:
    """What is to be loaded: the version `id`, which no other has that this server ever loads."""

    id: int
    name: str
    version: int
    directory: Path
    settings: ModelSettings


class RemoteVersion:
    """A version that passed its checks; its engines are in the front ends or in processes of their own (`seats`).

    `devices` are those of all its engines; `lost_in` are the front ends in which it could not be loaded, and why.
    """

    def __init__(
        self,
        loading: Loading,
        found: Found,
        seats: Sequence[Seat],
        let_go: "Callable[[RemoteVersion], Awaitable[None]]",
    ) -> None:
        self.loading, self.found, self.seats = loading, found, seats
        self.id, self.name, self.version, self.settings = loading.id, loading.name, loading.version, loading.settings
        self.artifact = RemoteArtifact(found.read.manifest, EngineName(found.engine), found.read.operations)
        self.metrics = Told()
        self.lost_in: dict[int, str] = {}
        self._let_go = let_go
        self._retiring: asyncio.Task[None] | None = None

    @property
    def place(self) -> Place:
        """Where its engines are."""
        return "engine processes" if self.seats else "front ends"

    @property
    def devices(self) -> tuple[str, ...]:
        """What its engines run on."""
        return tuple(dict.fromkeys(seat.device for seat in self.seats)) or ("cpu",)

    @property
    def instances(self) -> int:
        """Engine processes on each device, or one, which is every front end's own."""
        return max(1, len(self.seats) // len(self.devices))

    @property
    def execution(self) -> Execution:
        """How its calls run in each process, and the measurement that says so."""
        return self.found.execution

    @property
    def planned(self) -> Plan:
        """What settings and bench.json said when it was loaded."""
        return self.found.planned

    @property
    def labels(self) -> Mapping[str, Sequence[str]]:
        """Those of classes, by output."""
        return self.found.read.labels

    @property
    def signature(self) -> Signature:
        """What the model takes and gives."""
        return self.artifact.manifest.signature

    @property
    def most_rows(self) -> int:
        """Rows of one engine call at most."""
        return self.execution.plan.max_rows

    @property
    def max_queue_rows(self) -> int:
        """Rows that wait for one engine at most."""
        return self.found.max_queue_rows

    @property
    def in_flight(self) -> int:
        """Requests between their routing and their answer, in all front ends."""
        return self.metrics.in_flight

    @property
    def queued_rows(self) -> int:
        """Rows that wait for an engine, in all processes."""
        return self.metrics.queued_rows

    @property
    def runs(self) -> str:
        """Where its engines are, and how calls run there, for people."""
        if not self.seats:
            return f"in every front end; {self.execution}"
        named = "1 engine process" if len(self.seats) == 1 else f"{len(self.seats)} engine processes"
        return f"in {named} on {', '.join(self.devices)}; {self.execution}"

    def told_by_front_end(self, process: str, entry: Mapping[str, Any]) -> None:
        """What a front end counted; the rows that wait are told by the engine processes, where there are any."""
        queued_rows = 0 if self.seats else entry["queued_rows"]
        self.metrics.tell(process, totals_of(entry), entry["in_flight"], queued_rows)

    def told_by_engine(self, process: str, head: Mapping[str, Any]) -> None:
        """What an engine process counted."""
        self.metrics.tell(process, replace(NOTHING, calls=calls_of(head["calls"])), 0, head["queued_rows"])

    def lives(self) -> bool:
        """Whether there is an engine that can answer, or a front end's own is enough."""
        return not self.seats or any(seat.child is not None for seat in self.seats)

    async def retire(self) -> None:
        """Waits until every request that entered is answered, then lets the engines go. No request enters any more."""
        if self._retiring is None:
            self._retiring = asyncio.ensure_future(self._let_go(self))
        await asyncio.shield(self._retiring)

    def order(self, arena_bytes: int) -> dict[str, Any]:
        """What a front end is told to attach it."""
        loading = self.loading
        return {
            "kind": "attach",
            "id": self.id,
            "name": self.name,
            "version": self.version,
            "directory": str(loading.directory.absolute()),
            "place": self.place,
            "settings": loading.settings.model_dump(mode="json"),
            "content_id": self.found.read.manifest.content_id,
            "signature": self.signature.to_json(),
            "labels": {output: list(labels) for output, labels in self.found.read.labels.items()},
            "max_queue_rows": self.max_queue_rows,
            "engine": self.found.engine,
            "threads": self.execution.threads,
            "arena_bytes": arena_bytes,
            "has_operations": self.found.read.operations is not None,
        }
