"""All front ends: as many as there shall be, each with all that is served, whatever ends or changes meanwhile."""

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import partial

from foundation.errors import StateserveError
from serving.errors import ServingError
from serving.inference import route as prediction_route
from serving.processes.back_off import BackOff, longer_pause_s, soon
from serving.processes.children import Child, ProcessEnded, start
from serving.processes.figures import FRONT_END
from serving.processes.handed_on import Face, HandedOn
from serving.processes.link import Message
from serving.processes.remote_front_end import RemoteFrontEnd
from serving.processes.remote_version import RemoteVersion
from serving.processes.running import Processes
from serving.processes.spread import Spread
from serving.settings import Settings

log = logging.getLogger("stateserve")


_SWITCH_S = 1.0
"""How long a version that takes over waits for a front end that does not say that it has let go of the one before."""


class NoFrontEnd(ServingError):
    """A front end cannot be started at all (the server does not start)."""


class FrontEnds:
    """What all of them have: versions, and each model's routes. Nothing is started before `listen`.

    `listener` is which of the listeners is theirs. `serving` is done when they have ended; with NoFrontEnd where one cannot be
    started. `lock` is held while anything changes in who has which version, and is connected with which engine process.
    """

    def __init__(self, settings: Settings, spread: Spread, listener: int, processes: Processes) -> None:
        self.serving: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.lock = asyncio.Lock()
        self._settings, self._spread, self._listener, self._processes = settings, spread, listener, processes
        self._front_ends: dict[int, RemoteFrontEnd] = {}
        self._versions: dict[int, RemoteVersion] = {}
        self._tables: dict[str, dict[str, int]] = {}
        self._switches: dict[str, asyncio.Task[None]] = {}
        self._failed: Mapping[str, Mapping[str, int]] = {}
        self._keepers: dict[int, asyncio.Task[None]] = {}
        self._troubles: dict[int, str] = {}
        self._draining = False

    async def listen(self, face: Face) -> None:
        """Starts them; what they hand on is answered by `face`. Returns when all listen, or one cannot."""
        loop = asyncio.get_running_loop()
        listening = {number: loop.create_future() for number in range(1, self._spread.frontends + 1)}
        self._keepers = {number: self._processes.begin(self._keep(number, face, future)) for number, future in listening.items()}
        all_listen = asyncio.gather(*listening.values())
        await asyncio.wait({all_listen, self.serving}, return_when=asyncio.FIRST_COMPLETED)
        all_listen.cancel()

    # Versions.

    async def attach(self, version: RemoteVersion) -> None:
        """Attaches a version to all of them, and to those that come later.

        Raises:
            ProcessFailed: one could not; then none has it.
        """
        async with self.lock:
            fronts = list(self._front_ends.values())
            attaching = (front.attach(version, self._settings.slots_bytes) for front in fronts)
            outcomes = await asyncio.gather(*attaching, return_exceptions=True)
            failures = [one for one in outcomes if isinstance(one, BaseException) and not isinstance(one, ProcessEnded)]
            if failures:
                await asyncio.gather(*(front.retire(version) for front in fronts), return_exceptions=True)
                raise failures[0]
            self._versions[version.id] = version

    async def connect(self, version: RemoteVersion, engine: Child) -> None:
        """Lets those that have a version know another of its engine processes. The lock is held."""
        fronts = [front for front in self._front_ends.values() if version.id in front.attached]
        await asyncio.gather(*(front.connect(version, engine) for front in fronts), return_exceptions=True)

    async def retire(self, version: RemoteVersion) -> None:
        """Returns when every request that entered a version is answered. No route leads to it any more."""
        async with self.lock:
            await self._switched(version.name)
            self._versions.pop(version.id, None)
            fronts = [front for front in self._front_ends.values() if version.id in front.attached]
        await asyncio.gather(*(front.retire(version) for front in fronts), return_exceptions=True)

    def route(self, model: str, table: Mapping[str, int]) -> None:
        """Sets the routes of a model: from each name of a version to its id; none takes the model away.

        Where another version takes over a name, that is so in all at once: see `_switch`.
        """
        before = self._tables.get(model, {})
        if table:
            self._tables[model] = dict(table)
        else:
            self._tables.pop(model, None)
        if model in self._switches:
            return  # it ends with what was said last
        if any(before.get(name, number) != number for name, number in table.items()):
            self._switches[model] = self._processes.begin(self._switch(model))
        else:
            self._tell_routes(model)

    async def settled(self) -> None:
        """Returns when all have taken in what they were told."""
        for model in [*self._switches]:
            await self._switched(model)
        await self._barrier()

    async def _switch(self, model: str) -> None:
        """Nobody is answered by an older version when somebody was by a newer one: none has the model, then all have the newer.

        Between the two, a front end hands on what asks for the model, and is told to answer it when it can: see `_is_there_now`.
        """
        for front in self._front_ends.values():
            front.route(model, {})
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SWITCH_S):
                await self._barrier()
        del self._switches[model]
        self._tell_routes(model)

    async def _switched(self, model: str) -> None:
        """Returns when no version of the model is about to take over."""
        if (switch := self._switches.get(model)) is not None:
            await asyncio.wait({switch})

    async def _barrier(self) -> None:
        await asyncio.gather(*(front.barrier() for front in self._front_ends.values()), return_exceptions=True)

    def _tell_routes(self, model: str) -> None:
        for front in self._front_ends.values():
            front.route(model, self._tables.get(model, {}))

    # What is known of them.

    def children(self) -> list[Child]:
        """Those that have what is served."""
        return [front.child for front in self._front_ends.values()]

    def failed(self) -> Mapping[str, int]:
        """Requests that failed before their model was found, by reason. Any thread may ask."""
        return _added(self._failed.values())

    def lacking(self) -> str | None:
        """Why no request is answered at all."""
        if self._processes.ending or any(front.listens for front in self._front_ends.values()):
            return None
        return "; ".join(["no front end is there", *(f"front end {n} {why}" for n, why in sorted(self._troubles.items()))])

    def __len__(self) -> int:
        """How many have what is served now."""
        return len(self._front_ends)

    def lost(self, version: RemoteVersion) -> Mapping[str, str]:
        """The front ends that could not load a version that is served, and why."""
        return {front.child.name: version.lost_in[n] for n, front in self._front_ends.items() if n in version.lost_in}

    # The end.

    def drain(self) -> None:
        """Lets them ask every client to close its connection."""
        self._draining = True
        for front in self._front_ends.values():
            front.child.tell({"kind": "draining"})

    async def stop(self) -> None:
        """Ends them: they listen no more, and answer what was begun. Returns when they have."""
        for number, keeper in self._keepers.items():
            if number in self._front_ends:
                self._front_ends[number].child.tell({"kind": "stop"})
            else:
                keeper.cancel()
        await asyncio.gather(*self._keepers.values(), return_exceptions=True)
        if not self.serving.done():
            self.serving.set_result(None)

    # Each of them.

    async def _keep(self, number: int, face: Face, listening: "asyncio.Future[None]") -> None:
        """Starts a front end, and another whenever it has ended."""
        back_off, loop = BackOff(), asyncio.get_running_loop()
        while True:
            began_s, front = loop.time(), None
            try:
                front = await self._start(number, face)
                if not listening.done():
                    listening.set_result(None)
                await asyncio.wait({front.child.ended})
                why = front.child.how_it_ended()
            except (StateserveError, OSError) as error:
                why = f"did not start: {error}"
            if self._processes.ending:
                return
            self._troubles[number] = why
            if not listening.done() and not self.serving.done():
                self.serving.set_exception(NoFrontEnd(f"front end {number} {why}"))
                return
            pause_s = back_off.pause_s(loop.time() - began_s, was_ready=front is not None)
            log.error("front end %d %s; another is started %s", number, why, soon(pause_s))
            self._processes.restarts[FRONT_END] += 1
            await asyncio.sleep(pause_s)

    async def _start(self, number: int, face: Face) -> RemoteFrontEnd:
        """A front end that has every version and listens.

        Raises:
            ProcessEnded, ProcessFailed, OSError: it cannot be had.
        """
        child = await start("serving.processes.frontend", f"{FRONT_END} {number}", self._told, links=2)
        front = RemoteFrontEnd(number, child)
        self._processes.add(child, FRONT_END, partial(self._has_ended, front))
        try:
            self._processes.begin(HandedOn(child.links[1], face, partial(self._is_there_now, front)).run())
            cores = list(self._spread.cores[number - 1]) if self._spread.cores else None
            settings = self._settings.model_dump(mode="json")
            start_head = {"kind": "start", "number": number, "settings": settings, "cores": cores, "listener": self._listener}
            await child.ask(start_head, answers=("started",))
            async with self.lock:
                await self._bring_up(front)
            await child.ask({"kind": "listen"}, answers=("listening",))
        except BaseException:
            await child.end()  # its name is free for another when all that it told is counted
            raise
        front.listens = True
        if self._troubles.pop(number, None) is not None:
            log.info("%s listens again", child.name)
        return front

    async def _bring_up(self, front: RemoteFrontEnd) -> None:
        """Gives a front end all that is served now. The lock is held."""
        for version in self._versions.values():
            version.lost_in.pop(front.number, None)
        await asyncio.gather(*(self._try(front, version) for version in self._versions.values()))
        if not front.child.lives:
            raise ProcessEnded(f"{front.child.name} has ended")
        for model, table in self._tables.items():
            front.route(model, table)
        if self._draining:
            front.child.tell({"kind": "draining"})
        self._front_ends[front.number] = front
        if any(front.number in version.lost_in for version in self._versions.values()):
            front.works.append(self._processes.begin(self._try_lost(front)))

    async def _try(self, front: RemoteFrontEnd, version: RemoteVersion) -> None:
        """Attaches a version that is served to a front end; that it could not is kept in `lost_in`. Raises ProcessEnded."""
        try:
            await front.attach(version, self._settings.slots_bytes)
        except ProcessEnded:
            raise
        except StateserveError as error:
            place = (version.name, version.version, front.child.name)
            log.error("%s version %d is not in %s: %s", *place, error)  # noqa: TRY400 - told by the front end, where it failed
            version.lost_in[front.number] = str(error)
        else:
            version.lost_in.pop(front.number, None)

    async def _try_lost(self, front: RemoteFrontEnd) -> None:
        """Tries again to attach what a front end could not, until it has all or has ended: its files may be back by now."""
        failures = 0
        while lost := [version for version in self._versions.values() if front.number in version.lost_in]:
            await asyncio.sleep(longer_pause_s(failures))
            failures += 1
            async with self.lock:
                with contextlib.suppress(ProcessEnded):
                    await asyncio.gather(*(self._try(front, version) for version in lost if version.id in self._versions))
                for model in {version.name for version in lost} & self._tables.keys():
                    front.route(model, self._tables[model])

    def _has_ended(self, front: RemoteFrontEnd) -> None:
        """What it told last stays counted."""
        for work in front.works:
            work.cancel()
        if self._front_ends.get(front.number) is front:
            del self._front_ends[front.number]
        for version in self._versions.values():
            version.metrics.ended(front.child.name)
        if (last := self._failed.get(front.child.name)) is not None:
            rest = {name: counts for name, counts in self._failed.items() if name not in {"", front.child.name}}
            self._failed = {**rest, "": _added([self._failed.get("", {}), last])}

    def _told(self, child: Child, message: Message) -> None:
        if message.head["kind"] != "totals":
            return
        for number, entry in message.head["versions"].items():
            if (version := self._versions.get(int(number))) is not None:
                version.told_by_front_end(child.name, entry)
        self._failed = {**self._failed, child.name: message.head["failed"]}

    async def _is_there_now(self, front: RemoteFrontEnd, method: str, path: str) -> bool:
        """Whether a prediction that a front end has handed on can be answered there by now: its routes were on their way."""
        asked = prediction_route(path) if method == "POST" else None
        if asked is not None:
            await self._switched(asked.model)
        number = None if asked is None else self._tables.get(asked.model, {}).get(asked.version or "")
        if number is None or number not in front.attached:
            return False
        with contextlib.suppress(ProcessEnded):
            await front.barrier()
        return True


def _added(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    added: Counter[str] = Counter()
    for one in counts:
        added.update(one)
    return dict(added)
