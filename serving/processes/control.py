"""The process that the user started, where a server is several: it decides what runs where, and sees to it that it does.

Front ends have the routes, engine processes the engines; this process has the repository, and so the word. One lock is around
every change of who is connected with whom: a version that is attached, one that is retired, a process that replaces another.
What takes long (starting a process, preparing a version, answering what is in flight) happens outside of it.
"""

import asyncio
import contextlib
import itertools
import logging
import socket
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from artifact.manifest import Manifest, read_manifest
from foundation.errors import StateserveError
from serving.errors import LoadFailed, ServingError
from serving.inference import route as prediction_route
from serving.model import read_labels
from serving.plan import devices
from serving.processes.children import BackOff, Child, Json, ProcessEnded, ProcessFailed, start
from serving.processes.figures import ENGINE, FRONT_END, Started
from serving.processes.handed_on import Face, HandedOn
from serving.processes.link import Message
from serving.processes.remote import Found, Loading, RemoteVersion, Seat
from serving.processes.spread import Spread
from serving.settings import ModelSettings, Settings

log = logging.getLogger("stateserve")

_ATTACH_S = 600.0
"""How long a front end may take to attach a version, which may be to load it."""
_FRESH_S = 0.5
"""How long counts are waited for; of a process that tells none in time, those that it told last are shown."""
_STOP_S = 5.0
"""How long an engine process may take to end when nothing asks it any more."""


class NoFrontEnd(ServingError):
    """A front end cannot be started at all (the server does not start)."""


@dataclass(slots=True, eq=False)
class FrontEnd:
    """A front end that runs. `attached` are the ids of the versions that it has, `listens` says that clients reach it."""

    number: int
    child: Child
    attached: set[int] = field(default_factory=set)
    listens: bool = False
    answering: asyncio.Task[None] | None = None


class Control:
    """The processes of one server. Nothing is started before `listen`; `stop`, then `close`, end all of them, `kill` at once.

    `listener` is which of the listeners is the front ends'. `serving` ends with an error where no front end can be started.
    """

    def __init__(self, settings: Settings, spread: Spread, listener: int) -> None:
        self.loop = asyncio.get_running_loop()
        self.serving: asyncio.Future[None] = self.loop.create_future()
        self.restarts: Counter[str] = Counter({FRONT_END: 0, ENGINE: 0})
        self.processes: Sequence[Started] = ()
        self._settings, self._spread, self._listener = settings, spread, listener
        self._topology = asyncio.Lock()
        self._ids, self._engine_numbers = itertools.count(1), itertools.count(1)
        self._face: Face | None = None
        self._front_ends: dict[int, FrontEnd] = {}
        self._versions: dict[int, RemoteVersion] = {}
        self._tables: dict[str, dict[str, int]] = {}
        self._children: dict[Child, str] = {}
        self._counted_by: dict[Child, RemoteVersion] = {}
        self._failed: Mapping[str, Mapping[str, int]] = {}
        self._keepers: dict[int, list[asyncio.Task[None]]] = {}
        self._front_keepers: list[asyncio.Task[None]] = []
        self._works: set[asyncio.Task[Any]] = set()
        self._troubles: dict[int, str] = {}
        self._draining = self._ending = False

    async def listen(self, face: Face) -> None:
        """Starts the front ends; what they hand on is answered by `face`. Returns when all listen, or one cannot."""
        self._face = face
        listening = [self.loop.create_future() for _ in range(self._spread.frontends)]
        keep = (self._keep_front_end(number, future) for number, future in enumerate(listening, 1))
        self._front_keepers = [asyncio.create_task(one) for one in keep]
        all_listen = asyncio.gather(*listening)
        await asyncio.wait({all_listen, self.serving}, return_when=asyncio.FIRST_COMPLETED)
        all_listen.cancel()

    # What the repository asks.

    async def load(self, name: str, version: int, directory: Path, settings: ModelSettings) -> RemoteVersion:
        """Prepares a version in an engine process, decides where it runs, and attaches it to every front end.

        Raises:
            StateserveError: a check failed, here or in a process.
        """
        manifest, labels, usable = await asyncio.to_thread(_read, directory, settings)
        loading = Loading(next(self._ids), name, version, directory, settings)
        with _ended_on_error() as started:
            first, ready = await self._prepared(loading, usable[0], started)
            _require_same(manifest, ready, f"{directory} was replaced by another artifact while it was being loaded")
            found = Found.of(manifest, labels, ready)
            seats: list[Seat] = []
            if _runs_in_front_ends(settings, usable, found):
                self._begin(first.stop(_STOP_S))
            else:
                seats = await self._seated(loading, first, _places(usable, found), started)
            served = RemoteVersion(loading, found, seats, self._let_go)
            self._counted_by.update((seat.child, served) for seat in seats if seat.child is not None and seat.child.lives)
            await self._attach_everywhere(served)
        self._keepers[served.id] = [asyncio.create_task(self._keep_engine(served, seat)) for seat in seats]
        return served

    def route(self, model: str, routes: Mapping[str | None, RemoteVersion]) -> None:
        """See `Routing`."""
        table = {"" if name is None else name: served.id for name, served in routes.items()}
        if table:
            self._tables[model] = table
        else:
            self._tables.pop(model, None)
        for front in self._front_ends.values():
            _tell_routes(front, model, table)

    async def settled(self) -> None:
        """See `Routing`: every front end has taken in what it was told."""
        barriers = (front.child.ask({"kind": "barrier"}) for front in self._front_ends.values())
        await asyncio.gather(*barriers, return_exceptions=True)

    # What the application asks.

    async def fresh(self) -> None:
        """Asks all processes what they counted; returns when all told it, or after half a second."""
        children = [*(front.child for front in self._front_ends.values()), *self._counted_by]
        asked = [asyncio.create_task(child.ask({"kind": "totals"}, timeout_s=None)) for child in children]
        if asked:
            _, silent = await asyncio.wait(asked, timeout=_FRESH_S)
            for task in silent:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)

    def failed(self) -> Mapping[str, int]:
        """Requests that failed in front ends before their model was found, by reason. Any thread may ask."""
        return _added(self._failed.values())

    def lacking(self) -> str | None:
        """Why no request is answered at all."""
        if self._ending or any(front.listens for front in self._front_ends.values()):
            return None
        return "; ".join(["no front end is there", *(f"front end {n} {why}" for n, why in sorted(self._troubles.items()))])

    def why_not(self, version: RemoteVersion) -> str | None:
        """Why a version that was loaded cannot answer now."""
        if not version.lives():
            troubles = "; ".join(dict.fromkeys(seat.trouble for seat in version.seats))
            return f"version {version.version} of {version.name} has no engine process: {troubles}"
        if version.lost_in and version.lost_in.keys() >= self._front_ends.keys():
            return f"version {version.version} of {version.name} is in no front end: {'; '.join(version.lost_in.values())}"
        return None

    # The end.

    def drain(self) -> None:
        """Lets front ends ask every client to close its connection."""
        self._draining = True
        for front in self._front_ends.values():
            front.child.tell({"kind": "draining"})

    async def stop(self) -> None:
        """Ends the front ends: they listen no more, and answer what was begun. Returns when they have."""
        self._ending = True
        for number, keeper in enumerate(self._front_keepers, 1):
            if number in self._front_ends:
                self._front_ends[number].child.tell({"kind": "stop"})
            else:
                keeper.cancel()
        await asyncio.gather(*self._front_keepers, return_exceptions=True)
        if not self.serving.done():
            self.serving.set_result(None)

    async def close(self) -> None:
        """Ends what is left, when every version was retired."""
        self._ending = True
        while self._works:
            await asyncio.wait(self._works)
        self.kill()
        ends = [child.ended for child in self._children]
        if ends:
            await asyncio.wait(ends)

    def kill(self) -> None:
        """Ends every process at once."""
        self._ending = True
        for child in list(self._children):
            child.kill()

    # Front ends.

    async def _keep_front_end(self, number: int, listening: "asyncio.Future[None]") -> None:
        """Starts a front end, and another whenever it has ended."""
        back_off = BackOff()
        while True:
            began_s = self.loop.time()
            why, front = "", None
            try:
                front = await self._start_front_end(number)
                if not listening.done():
                    listening.set_result(None)
                await asyncio.wait({front.child.ended})
                why = front.child.how_it_ended()
            except (StateserveError, OSError) as error:
                why = f"did not start: {error}"
            if self._ending:
                return
            self._troubles[number] = why
            if not listening.done() and not self.serving.done():
                self.serving.set_exception(NoFrontEnd(f"front end {number} {why}"))
                return
            pause_s = back_off.pause_s(self.loop.time() - began_s, was_ready=front is not None)
            log.error("front end %d %s; another is started %s", number, why, _soon(pause_s))
            self.restarts[FRONT_END] += 1
            await asyncio.sleep(pause_s)

    async def _start_front_end(self, number: int) -> FrontEnd:
        """A front end that has every version and listens.

        Raises:
            ProcessEnded, OSError: it cannot be had.
        """
        child = await start("serving.processes.frontend", f"{FRONT_END} {number}", self._told_by_front_end, links=2)
        front = FrontEnd(number, child)
        self._has_started(child, FRONT_END, partial(self._lost_front_end, front))
        try:
            if self._face is not None:
                handed_on = HandedOn(child.links[1], self._face, partial(self._is_there_now, front))
                front.answering = asyncio.create_task(handed_on.run())
            cores = list(self._spread.cores[number - 1]) if self._spread.cores else None
            settings = self._settings.model_dump(mode="json")
            start_head = {"kind": "start", "number": number, "settings": settings, "cores": cores, "listener": self._listener}
            await child.ask(start_head, answers=("started",))
            async with self._topology:
                await self._bring_up(front)
            await child.ask({"kind": "listen"}, answers=("listening",))
        except BaseException:
            child.kill()
            raise
        front.listens = True
        if self._troubles.pop(number, None) is not None:
            log.info("%s listens again", child.name)
        return front

    async def _bring_up(self, front: FrontEnd) -> None:
        """Gives a front end all that is served now. The lock is held."""
        versions = list(self._versions.values())
        outcomes = await asyncio.gather(*(self._attach(front, version) for version in versions), return_exceptions=True)
        for version, outcome in zip(versions, outcomes, strict=True):
            version.lost_in.pop(front.number, None)
            if isinstance(outcome, ProcessFailed):
                version.lost_in[front.number] = str(outcome)
                log.error("%s version %d is not in %s: %s", version.name, version.version, front.child.name, outcome)
            elif isinstance(outcome, BaseException):
                raise outcome
        for model, table in self._tables.items():
            _tell_routes(front, model, table)
        if self._draining:
            front.child.tell({"kind": "draining"})
        self._front_ends[front.number] = front

    def _lost_front_end(self, front: FrontEnd) -> None:
        """What it told last stays counted."""
        if self._front_ends.get(front.number) is front:
            del self._front_ends[front.number]
        for version in self._versions.values():
            version.metrics.ended(front.child.name)
        if (last := self._failed.get(front.child.name)) is not None:
            rest = {name: counts for name, counts in self._failed.items() if name not in {"", front.child.name}}
            self._failed = {**rest, "": _added([self._failed.get("", {}), last])}

    def _told_by_front_end(self, child: Child, message: Message) -> None:
        if message.head["kind"] != "totals":
            return
        for number, entry in message.head["versions"].items():
            if (version := self._versions.get(int(number))) is not None:
                version.told_by_front_end(child.name, entry)
        self._failed = {**self._failed, child.name: message.head["failed"]}

    async def _is_there_now(self, front: FrontEnd, method: str, path: str) -> bool:
        """Whether a prediction that a front end has handed on can be answered there by now: its routes were on their way."""
        asked = prediction_route(path) if method == "POST" else None
        number = None if asked is None else self._tables.get(asked.model, {}).get(asked.version or "")
        if number is None or number not in front.attached:
            return False
        with contextlib.suppress(ProcessEnded):
            await front.child.ask({"kind": "barrier"})
        return True

    # Versions and their engine processes.

    async def _attach_everywhere(self, version: RemoteVersion) -> None:
        """Attaches a version to all front ends, and lets those have it, too, that come later.

        Raises:
            ProcessFailed: a front end could not; then none has it.
        """
        async with self._topology:
            fronts = list(self._front_ends.values())
            outcomes = await asyncio.gather(*(self._attach(front, version) for front in fronts), return_exceptions=True)
            failures = [one for one in outcomes if isinstance(one, BaseException) and not isinstance(one, ProcessEnded)]
            if failures:
                retiring = (self._retire(front, version) for front in fronts)
                await asyncio.gather(*retiring, return_exceptions=True)
                raise failures[0]
            self._versions[version.id] = version

    async def _attach(self, front: FrontEnd, version: RemoteVersion) -> None:
        """Raises ProcessEnded, ProcessFailed."""
        await front.child.ask(version.order(self._settings.slots_bytes), timeout_s=_ATTACH_S)
        front.attached.add(version.id)
        await asyncio.gather(*(self._connect(front, version, seat.child) for seat in version.seats if seat.child is not None))

    async def _connect(self, front: FrontEnd, version: RemoteVersion, engine: Child) -> None:
        """Lets a front end and an engine process know each other. An engine process that has ended is replaced later.

        Raises:
            ProcessEnded: the front end has ended.
        """
        ours, theirs = socket.socketpair()
        with ours, theirs:
            to_front_end = {"kind": "connect", "id": version.id, "engine": _number(engine)}
            to_engine = {"kind": "connect", "frontend": front.number}
            there, here = await asyncio.gather(
                engine.ask(to_engine, fds=[theirs.fileno()]),
                front.child.ask(to_front_end, fds=[ours.fileno()]),
                return_exceptions=True,
            )
        if isinstance(here, BaseException):
            raise here
        if isinstance(there, BaseException) and not isinstance(there, ProcessEnded):
            raise there

    @staticmethod
    async def _retire(front: FrontEnd, version: RemoteVersion) -> None:
        await front.child.ask({"kind": "retire", "id": version.id}, timeout_s=None)
        front.attached.discard(version.id)

    async def _let_go(self, version: RemoteVersion) -> None:
        """Retires a version that no route leads to in every front end, then ends its engine processes."""
        for keeper in self._keepers.pop(version.id, ()):
            keeper.cancel()
        async with self._topology:
            self._versions.pop(version.id, None)
            fronts = [front for front in self._front_ends.values() if version.id in front.attached]
        await asyncio.gather(*(self._retire(front, version) for front in fronts), return_exceptions=True)
        children = [seat.child for seat in version.seats if seat.child is not None]
        await asyncio.gather(*(child.stop(_STOP_S) for child in children))

    async def _seated(
        self, loading: Loading, first: Child, places: Sequence[tuple[str, int]], started: list[Child]
    ) -> list[Seat]:
        """A seat for each device and instance; the first process has the first of them, and the others are started beside it.

        Raises:
            StateserveError: one of them could not prepare the version.
        """
        (device, number), *others = places
        preparing = (self._prepared(loading, where, started) for where, _ in others)
        outcomes = await asyncio.gather(*preparing, return_exceptions=True)
        seats = [Seat(device, number, first)]
        for (where, index), outcome in zip(others, outcomes, strict=True):
            if isinstance(outcome, BaseException):
                raise outcome
            seats.append(Seat(where, index, outcome[0]))
        return seats

    async def _prepared(self, loading: Loading, device: str, started: list[Child]) -> tuple[Child, Json]:
        """An engine process that has prepared a version, and what it found. It is put into `started` as soon as it runs.

        Raises:
            StateserveError: a check failed there, or it ended.
        """
        number = next(self._engine_numbers)
        try:
            child = await start("serving.processes.engine", f"{ENGINE} {number}", self._told_by_engine)
        except OSError as cause:
            raise ProcessEnded(f"{ENGINE} {number} cannot be started: {cause.strerror}") from cause
        started.append(child)
        self._has_started(child, ENGINE, partial(self._lost_engine, child))
        prepare = {
            "kind": "prepare",
            "settings": loading.settings.model_dump(mode="json"),
            "name": loading.name,
            "version": loading.version,
            "directory": str(loading.directory.absolute()),
            "device": device,
            "number": number,
            "log_format": self._settings.log_format,
        }
        try:
            return child, await child.ask(prepare, answers=("ready", "failed"), timeout_s=None)
        except BaseException:
            child.kill()
            raise

    async def _keep_engine(self, version: RemoteVersion, seat: Seat) -> None:
        """Replaces an engine process whenever it has ended, for as long as the version is served."""
        facts = {"model": version.name, "version": version.version}
        while seat.child is not None:
            ended = seat.child
            await asyncio.wait({ended.ended})
            if self._ending:
                return
            seat.child, seat.trouble = None, f"{ended.name} {ended.how_it_ended()}"
            pause_s = seat.back_off.pause_s(ended.lived_s, was_ready=True)
            while seat.child is None:
                log.error(
                    "%s version %d: %s; another is started %s",
                    *(version.name, version.version, seat.trouble, _soon(pause_s)),
                    extra=facts,
                )
                self.restarts[ENGINE] += 1
                await asyncio.sleep(pause_s)
                try:
                    await self._replace(version, seat)
                except (StateserveError, OSError) as error:
                    seat.trouble, pause_s = str(error), seat.back_off.pause_s(0.0, was_ready=False)
            log.info("%s version %d: %s took its place", version.name, version.version, seat.child.name, extra=facts)

    async def _replace(self, version: RemoteVersion, seat: Seat) -> None:
        """Raises StateserveError: there is no other engine process."""
        with _ended_on_error() as started:
            child, ready = await self._prepared(version.loading, seat.device, started)
            _require_same(version.artifact.manifest, ready, f"{version.loading.directory} holds another artifact by now")
            async with self._topology:
                seat.child = child
                self._counted_by[child] = version
                connecting = (
                    self._connect(front, version, child) for front in self._front_ends.values() if version.id in front.attached
                )
                await asyncio.gather(*connecting, return_exceptions=True)

    def _lost_engine(self, child: Child) -> None:
        """What it told last stays counted."""
        version = self._counted_by.pop(child, None)
        if version is not None:
            version.metrics.ended(child.name)

    def _told_by_engine(self, child: Child, message: Message) -> None:
        version = self._counted_by.get(child)
        if message.head["kind"] == "totals" and version is not None:
            version.told_by_engine(child.name, message.head)

    # All of them.

    def _has_started(self, child: Child, kind: str, lost: Callable[[], None]) -> None:
        """Keeps a process in sight; `lost` is called when it has ended, before anybody who waits for that goes on."""
        self._children[child] = kind
        self._list()

        def has_ended(_: object) -> None:
            del self._children[child]
            self._list()
            lost()

        child.ended.add_done_callback(has_ended)

    def _list(self) -> None:
        self.processes = tuple(Started(kind, child.name, child.pid) for child, kind in self._children.items())

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._works.add(task)
        task.add_done_callback(self._works.discard)


def _read(directory: Path, settings: ModelSettings) -> tuple[Manifest, Mapping[str, Sequence[str]], tuple[str, ...]]:
    """What is on disk, the labels of its classes, and the devices that it can run on."""
    manifest = read_manifest(directory)
    return manifest, read_labels(directory, manifest), devices(settings, manifest)


@contextlib.contextmanager
def _ended_on_error() -> Iterator[list[Child]]:
    """Ends the processes that are put into the list where what they are for fails, or is given up."""
    started: list[Child] = []
    try:
        yield started
    except BaseException:
        for child in started:
            child.kill()
        raise


def _require_same(manifest: Manifest, ready: Json, otherwise: str) -> None:
    if ready["content_id"] != manifest.content_id:
        raise LoadFailed(otherwise)


def _runs_in_front_ends(settings: ModelSettings, usable: Sequence[str], found: Found) -> bool:
    """Whether a call is so short that the way to another process and back would take longer."""
    return settings.execution in {"auto", "loop"} and tuple(usable) == ("cpu",) and found.execution.on_loop


def _places(usable: Sequence[str], found: Found) -> list[tuple[str, int]]:
    """A device and a number for each engine process."""
    return [(device, number) for number in range(found.execution.plan.instances) for device in usable]


def _tell_routes(front: FrontEnd, model: str, table: Mapping[str, int]) -> None:
    """Tells a front end a model's routes, apart from those to versions that it could not attach."""
    known = {name: number for name, number in table.items() if number in front.attached}
    front.child.tell({"kind": "routes", "model": model, "routes": known})


def _number(engine: Child) -> int:
    return int(engine.name.rpartition(" ")[2])


def _added(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    added: Counter[str] = Counter()
    for one in counts:
        added.update(one)
    return dict(added)


def _soon(pause_s: float) -> str:
    return f"in {pause_s:g} s" if pause_s else "now"
