"""All engine processes: those that prepare a version, and those that run one, each replaced when it has ended."""

import asyncio
import itertools
import logging
from collections.abc import Sequence
from functools import partial

from artifact.manifest import Manifest
from foundation.errors import StateserveError
from serving.errors import LoadFailed
from serving.processes.back_off import soon
from serving.processes.children import Child, Json, ProcessEnded, start
from serving.processes.figures import ENGINE
from serving.processes.front_ends import FrontEnds
from serving.processes.link import Message
from serving.processes.remote_version import Loading, RemoteVersion, Seat
from serving.processes.running import Processes, ended_on_error

log = logging.getLogger("stateserve")

_STOP_S = 5.0
"""How long an engine process may take to end when nothing asks it any more."""
_PREPARE_S = 1800.0
"""How long it may take to read, check and measure a version: the largest models take minutes."""


class Engines:
    """Engine processes, by number. `front_ends` are who they answer."""

    def __init__(self, log_format: str, processes: Processes, front_ends: FrontEnds) -> None:
        self._log_format, self._processes, self._front_ends = log_format, processes, front_ends
        self._numbers = itertools.count(1)
        self._counted_by: dict[Child, RemoteVersion] = {}
        self._keepers: dict[int, list[asyncio.Task[None]]] = {}

    async def prepared(self, loading: Loading, device: str, started: list[Child]) -> tuple[Child, Json]:
        """An engine process that has prepared a version, and what it found. It is put into `started` as soon as it runs.

        Raises:
            StateserveError: a check failed there, or it ended.
        """
        number = next(self._numbers)
        try:
            child = await start("serving.processes.engine", f"{ENGINE} {number}", self._told)
        except OSError as cause:
            raise ProcessEnded(f"{ENGINE} {number} cannot be started: {cause.strerror}") from cause
        started.append(child)
        self._processes.add(child, ENGINE, partial(self._has_ended, child))
        prepare = {
            "kind": "prepare",
            "settings": loading.settings.model_dump(mode="json"),
            "name": loading.name,
            "version": loading.version,
            "directory": str(loading.directory.absolute()),
            "device": device,
            "number": number,
            "log_format": self._log_format,
        }
        try:
            return child, await child.ask(prepare, answers=("ready", "failed"), timeout_s=_PREPARE_S)
        except BaseException:
            child.kill()
            raise

    async def seated(self, loading: Loading, first: Child, places: Sequence[tuple[str, int]], started: list[Child]) -> list[Seat]:
        """A seat for each device and instance; the first process has the first of them, and the others are started beside it.

        Raises:
            StateserveError: one of them could not prepare the version.
        """
        (device, number), *others = places
        preparing = (self.prepared(loading, where, started) for where, _ in others)
        outcomes = await asyncio.gather(*preparing, return_exceptions=True)
        seats = [Seat(device, number, first)]
        for (where, index), outcome in zip(others, outcomes, strict=True):
            if isinstance(outcome, BaseException):
                raise outcome
            seats.append(Seat(where, index, outcome[0]))
        return seats

    def count(self, version: RemoteVersion) -> None:
        """Counts from now on what a version's engine processes do as what the version does."""
        self._counted_by.update((seat.child, version) for seat in version.seats if seat.child is not None and seat.child.lives)

    def keep(self, version: RemoteVersion) -> None:
        """Replaces a version's engine processes whenever one has ended, until `stop`."""
        self._keepers[version.id] = [self._processes.begin(self._keep(version, seat)) for seat in version.seats]

    def let_be(self, version: RemoteVersion) -> None:
        """Replaces no engine process of the version any more."""
        for keeper in self._keepers.pop(version.id, ()):
            keeper.cancel()

    async def stop(self, version: RemoteVersion) -> None:
        """Ends a version's engine processes."""
        await asyncio.gather(*(seat.child.stop(_STOP_S) for seat in version.seats if seat.child is not None))

    def let_go(self, child: Child) -> None:
        """Ends an engine process that was needed to prepare a version only; nobody waits for that."""
        self._processes.begin(child.stop(_STOP_S))

    def children(self) -> list[Child]:
        """Those that run a version."""
        return list(self._counted_by)

    async def _keep(self, version: RemoteVersion, seat: Seat) -> None:
        """Replaces an engine process whenever it has ended, for as long as the version is served."""
        facts = {"model": version.name, "version": version.version}
        while seat.child is not None:
            ended = seat.child
            await asyncio.wait({ended.ended})
            if self._processes.ending:
                return
            seat.child, seat.trouble = None, f"{ended.name} {ended.how_it_ended()}"
            pause_s = seat.back_off.pause_s(ended.lived_s, was_ready=True)
            while seat.child is None:
                log.error(
                    "%s version %d: %s; another is started %s",
                    *(version.name, version.version, seat.trouble, soon(pause_s)),
                    extra=facts,
                )
                self._processes.restarts[ENGINE] += 1
                await asyncio.sleep(pause_s)
                try:
                    await self._replace(version, seat)
                except (StateserveError, OSError) as error:
                    seat.trouble, pause_s = str(error), seat.back_off.pause_s(0.0, was_ready=False)
            log.info("%s version %d: %s took its place", version.name, version.version, seat.child.name, extra=facts)

    async def _replace(self, version: RemoteVersion, seat: Seat) -> None:
        """Raises StateserveError: there is no other engine process."""
        with ended_on_error() as started:
            child, ready = await self.prepared(version.loading, seat.device, started)
            require_same(version.artifact.manifest, ready, f"{version.loading.directory} holds another artifact by now")
            async with self._front_ends.lock:
                seat.child = child
                if child.lives:
                    self._counted_by[child] = version
                await self._front_ends.connect(version, child)

    def _has_ended(self, child: Child) -> None:
        """What it told last stays counted."""
        version = self._counted_by.pop(child, None)
        if version is not None:
            version.metrics.ended(child.name)

    def _told(self, child: Child, message: Message) -> None:
        version = self._counted_by.get(child)
        if message.head["kind"] == "totals" and version is not None:
            version.told_by_engine(child.name, message.head)


def require_same(manifest: Manifest, ready: Json, otherwise: str) -> None:
    """Raises LoadFailed with the text `otherwise` where an engine process has prepared another artifact than it should."""
    if ready["content_id"] != manifest.content_id:
        raise LoadFailed(otherwise)
