"""The process that the user started, where a server is several: it decides what runs where, and sees to it that it does.

Front ends have the routes, engine processes the engines; this process has the repository, and so the word: `front_ends.py` and
`engines.py` start and replace them, and here is what the server asks of both together.
"""

import asyncio
import itertools
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from artifact.artifact import served_labels, served_operations
from artifact.errors import EngineUnavailable
from artifact.manifest import read_manifest
from serving.plan import devices
from serving.processes.children import Child, Json, ProcessFailed
from serving.processes.engines import Engines, require_same
from serving.processes.figures import Started
from serving.processes.front_ends import FrontEnds
from serving.processes.handed_on import Face
from serving.processes.remote_version import Found, Loading, OnDisk, RemoteVersion, Seat
from serving.processes.running import Processes, ended_on_error
from serving.processes.spread import Spread
from serving.settings import ModelSettings, Settings

log = logging.getLogger("stateserve")

_CPU = ("cpu",)
_FRESH_S = 0.5
"""How long counts are waited for; of a process that tells none in time, those that it told last are shown."""


class Control:
    """The processes of one server. Nothing is started before `listen`; `stop`, then `close`, end all of them, `kill` at once.

    `listener` is which of the listeners is the front ends'. `serving` is done when none listens any more, with NoFrontEnd where
    one cannot be started.
    """

    def __init__(self, settings: Settings, spread: Spread, listener: int) -> None:
        self.loop = asyncio.get_running_loop()
        self._processes = Processes()
        self._front_ends = FrontEnds(settings, spread, listener, self._processes)
        self._engines = Engines(settings.log_format, self._processes, self._front_ends)
        self._ids = itertools.count(1)
        self.serving = self._front_ends.serving

    async def listen(self, face: Face) -> None:
        """Starts the front ends; what they hand on is answered by `face`. Returns when all listen, or one cannot."""
        await self._front_ends.listen(face)

    # What the repository asks.

    async def load(self, name: str, version: int, directory: Path, settings: ModelSettings) -> RemoteVersion:
        """Prepares a version in an engine process, decides where it runs, and attaches it to every front end.

        Raises:
            StateserveError: a check failed, here or in a process.
        """
        read, usable = await asyncio.to_thread(_read, directory, settings)
        loading = Loading(next(self._ids), name, version, directory, settings)
        with ended_on_error() as started:
            usable, first, ready = await self._prepared(loading, usable, started)
            require_same(read.manifest, ready, f"{directory} was replaced by another artifact while it was being loaded")
            found = Found.of(read, ready)
            seats: list[Seat] = []
            if _runs_in_front_ends(settings, usable, found):
                self._engines.let_go(first)
            else:
                seats = await self._engines.seated(loading, first, _places(usable, found), started)
            served = RemoteVersion(loading, found, seats, self._let_go)
            self._engines.count(served)
            await self._front_ends.attach(served)
        self._engines.keep(served)
        return served

    def route(self, model: str, routes: Mapping[str | None, RemoteVersion]) -> None:
        """See `Routing`."""
        self._front_ends.route(model, {"" if name is None else name: served.id for name, served in routes.items()})

    async def settled(self) -> None:
        """See `Routing`."""
        await self._front_ends.settled()

    # What the application asks.

    @property
    def processes(self) -> Sequence[Started]:
        """Those that run now, beside this one. Any thread may ask."""
        return self._processes.listed

    def restarts(self) -> Mapping[str, int]:
        """How many were started in the place of one that ended, by kind. Any thread may ask."""
        return self._processes.restarts.copy()

    async def fresh(self) -> None:
        """Asks all processes what they counted; returns when all told it, or after half a second."""
        children = [*self._front_ends.children(), *self._engines.children()]
        asked = [asyncio.create_task(child.ask({"kind": "totals"}, timeout_s=None)) for child in children]
        if asked:
            _, silent = await asyncio.wait(asked, timeout=_FRESH_S)
            for task in silent:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)

    def failed(self) -> Mapping[str, int]:
        """Requests that failed in front ends before their model was found, by reason. Any thread may ask."""
        return self._front_ends.failed()

    def lacking(self) -> str | None:
        """Why no request is answered at all."""
        return self._front_ends.lacking()

    def why_not(self, version: RemoteVersion) -> str | None:
        """Why a version that was loaded cannot answer now."""
        if not version.lives():
            troubles = "; ".join(dict.fromkeys(seat.trouble for seat in version.seats))
            return f"version {version.version} of {version.name} has no engine process: {troubles}"
        lost = self._front_ends.lost(version)
        if lost and len(lost) == len(self._front_ends):
            return f"version {version.version} of {version.name} is in no front end: {'; '.join(dict.fromkeys(lost.values()))}"
        return None

    def lost_in(self, version: RemoteVersion) -> str | None:
        """Why some requests for a version are not answered: those that come to a front end which could not load it."""
        told = "; ".join(f"{front} ({why})" for front, why in self._front_ends.lost(version).items())
        return f"version {version.version} of {version.name} could not be loaded by {told}; it is tried again" if told else None

    # The end.

    def drain(self) -> None:
        """Lets front ends ask every client to close its connection."""
        self._front_ends.drain()

    async def stop(self) -> None:
        """Ends the front ends: they listen no more, and answer what was begun. Returns when they have."""
        self._processes.ending = True
        await self._front_ends.stop()

    async def close(self) -> None:
        """Ends what is left, when every version was retired."""
        await self._processes.close()

    def kill(self) -> None:
        """Ends every process at once."""
        self._processes.kill()

    async def _prepared(
        self, loading: Loading, usable: tuple[str, ...], started: list[Child]
    ) -> tuple[tuple[str, ...], Child, Json]:
        """The devices, the first engine process and what it found; the CPU where only `auto` asked for a GPU, and it refuses."""
        try:
            return usable, *await self._engines.prepared(loading, usable[0], started)
        except ProcessFailed as error:
            if loading.settings.device != "auto" or usable == _CPU or error.kind != EngineUnavailable.__name__:
                raise
            place = (loading.name, loading.version, usable[0])
            log.warning("%s version %d runs on the CPU, as device=auto allows: on %s, %s", *place, error)
        return _CPU, *await self._engines.prepared(loading, _CPU[0], started)

    async def _let_go(self, version: RemoteVersion) -> None:
        """Retires a version that no route leads to, then ends its engine processes."""
        self._engines.let_be(version)
        await self._front_ends.retire(version)
        await self._engines.stop(version)


def _read(directory: Path, settings: ModelSettings) -> tuple[OnDisk, tuple[str, ...]]:
    """What is on disk, and the devices that it can run on."""
    manifest = read_manifest(directory)
    read = OnDisk(manifest, served_labels(directory, manifest), served_operations(directory, manifest))
    return read, devices(settings, manifest)


def _runs_in_front_ends(settings: ModelSettings, usable: Sequence[str], found: Found) -> bool:
    """Whether a call is so short that the way to another process and back would take longer."""
    return settings.execution in {"auto", "loop"} and tuple(usable) == _CPU and found.execution.on_loop


def _places(usable: Sequence[str], found: Found) -> list[tuple[str, int]]:
    """A device and a number for each engine process."""
    return [(device, number) for number in range(found.execution.plan.instances) for device in usable]
