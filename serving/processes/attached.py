"""A version in a front end: loaded here, where its calls are short, or known here, while its engines are processes."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from artifact import read_manifest
from artifact.artifact import served_operations
from artifact.operations import Operations
from artifact.signature import Signature
from serving.errors import LoadFailed
from serving.execution import prepare
from serving.metrics import VersionMetrics
from serving.model import ServedModel
from serving.processes.channels import Channels
from serving.protocols.asked import Limits
from serving.served import Place, ServedVersion, codecs_of, raw_of
from serving.settings import ModelSettings


@dataclass(frozen=True, slots=True)
class Order:
    """What control says of a version that is to be attached.

    `runs` is where its engine runs. `engine` and `threads` are what control measured best; `arena_bytes` is the memory that is
    shared with each of its engine processes. `has_operations`: pictures, texts or rows become tensors here.
    """

    place: Place
    directory: Path
    runs: Literal["front ends", "engine processes"]
    settings: ModelSettings
    content_id: str
    signature: Signature
    labels: Mapping[str, Sequence[str]]
    max_queue_rows: int
    engine: str
    threads: int
    arena_bytes: int
    has_operations: bool = False

    @classmethod
    def of(cls, head: Mapping[str, Any]) -> "Order":
        """The order that a message `attach` is."""
        return cls(
            place=(head["name"], head["version"]),
            directory=Path(head["directory"]),
            runs=head["place"],
            settings=ModelSettings.model_validate(head["settings"]),
            content_id=head["content_id"],
            signature=Signature.from_json(head["signature"]),
            labels=head["labels"],
            max_queue_rows=head["max_queue_rows"],
            engine=head["engine"],
            threads=head["threads"],
            arena_bytes=head["arena_bytes"],
            has_operations=head["has_operations"],
        )


async def attached(order: Order, limits: Limits, arriving: Callable[[], int]) -> ServedVersion:
    """The version, ready for the first request. `arriving` says how many bodies are being read: see `OnLoop`.

    Raises:
        StateserveError: it failed its checks here.
    """
    if order.runs == "front ends":
        return await _loaded(order, limits, arriving)
    # Its rows are copied into shared memory anyway: until then they may lie as the client sent them.
    allowed = replace(limits, max_rows=order.max_queue_rows, unaligned=True)
    codecs = codecs_of(order.place, order.signature, allowed, order.labels)
    operations = await asyncio.to_thread(_operations, order) if order.has_operations else None
    raw = raw_of(order.place, operations, order.signature, allowed, order.labels)
    channels = Channels(order.signature, order.arena_bytes, order.max_queue_rows)
    return ServedVersion(order.place, codecs, channels, VersionMetrics(*order.place), order.settings, raw)


def _operations(order: Order) -> Operations | None:
    """What the version declares; control has replayed it."""
    stated = read_manifest(order.directory)
    if stated.content_id != order.content_id:
        raise LoadFailed(f"{order.directory} was replaced by another artifact while it was being loaded")
    return served_operations(order.directory, stated)


async def _loaded(order: Order, limits: Limits, arriving: Callable[[], int]) -> ServedVersion:
    """The version with an engine of its own on this event loop, which it may leave after a long call, as in one process."""
    settings = order.settings.model_copy(update={"max_queue_rows": order.max_queue_rows})
    pinned = {"execution": "loop", "engine": order.engine, "threads": order.threads}
    prepared = await asyncio.to_thread(prepare, order.directory, settings.model_copy(update=pinned), "cpu")
    if prepared.artifact.manifest.content_id != order.content_id:
        raise LoadFailed(f"{order.directory} was replaced by another artifact while it was being loaded")
    return ServedModel(order.place, prepared, settings, limits, arriving)
