"""The model repository at run time: `<name>/<version>/` on disk, served versions in memory, and how the second follows the first.

All state lives on the event loop. A version is loaded beside the one that it replaces and takes over between two requests, by one
assignment to the routes; what it replaced answers what it has begun, and leaves in the background. What fails its checks never
takes over.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, Literal, Protocol, Self

from foundation.errors import StateserveError
from serving.daemon import in_thread_of_its_own
from serving.errors import LoadFailed, ModelNotFound, ModelNotReady, NoRepository, listed
from serving.folders import VersionFolder, is_whole, model_names, plan_now, version_folders
from serving.model_versions import ModelVersions, Version
from serving.settings import ModelSettings, Settings

ASK_AGAIN_S = 5.0
"""How often a storage is asked that could not be asked at the start."""

WHOLE = "*"
"""The key under which readiness tells of the repository as a whole."""
_SELECTING = {"version_policy", "labels", "required"}
"""Settings that say which versions are served: a change of them alone does not make a served version load again."""

Load = Callable[[str, int, Path, ModelSettings], Awaitable[Version]]
"""Loads a version and checks it: name, version, directory, settings. What it raises is why the version is not served."""


class Routing(Protocol):
    """Who else has the routes: processes that find versions for themselves."""

    def route(self, model: str, routes: Mapping[str | None, Any], /) -> None:
        """The whole table of one model is this from now on: version's number, label or None (the default), to the version."""
        ...

    async def settled(self) -> None:
        """Returns when all that was routed is known wherever requests come in."""
        ...


class _NobodyElse:
    """The routes are used here alone."""

    def route(self, _model: str, _routes: Mapping[str | None, Any], /) -> None:
        """Nobody is told."""

    async def settled(self) -> None:
        """It always is."""


class Source(Protocol):
    """Another storage, of which the root is a copy."""

    @property
    def failures(self) -> Mapping[str, str]:
        """Why versions of a model are not in the root, by the model's name."""
        ...

    def update(self, name: str | None = None, /) -> None:
        """Makes the root agree with it, for one model or all. Blocks; raises StateserveError or OSError where that fails."""
        ...


@dataclass(frozen=True, slots=True)
class Event:
    """Something happened to a version, or (without a version) to a model's folder, or the root ("*").

    `seconds` is how long loading took; `replaces` says that requests which name no version now go to another one than before.
    """

    what: Literal["served", "failed", "retired", "unreadable"]
    name: str
    version: int | None = None
    seconds: float | None = None
    replaces: bool = False
    error: Exception | None = None


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether the server should be sent requests.

    `reasons` are why not, `warnings` what is wrong although it may answer: by model, and under "*" for the whole.
    """

    ready: bool
    reasons: Mapping[str, str]
    warnings: Mapping[str, str]


class Repository(Generic[Version]):
    """The models of one root. Nothing is read before `start`, and `close` retires everything; `async with` does both."""

    def __init__(
        self,
        settings: Settings,
        load: Load[Version],
        on_event: Callable[[Event], None] = lambda _: None,
        routing: Routing | None = None,
        source: Source | None = None,
    ) -> None:
        self.root = settings.repository_root
        self._source = source
        self._not_updated: str | None = None
        self._settings = settings
        self._load_version = load
        self._tell = on_event
        self._routing = routing or _NobodyElse()
        self._models: dict[str, ModelVersions[Version]] = {}
        self._routes: dict[str, dict[str | None, Version]] = {}
        self._served: tuple[Version, ...] = ()
        self._states: tuple[tuple[str, int, bool], ...] = ()
        self._updates: set[asyncio.Task[Any]] = set()
        self._retirements: set[asyncio.Task[None]] = set()
        self._poll_lock = asyncio.Lock()
        self._poller: asyncio.Task[None] | None = None
        self._missing: frozenset[str] = frozenset()
        self._trouble: str | None = None
        self._started = False
        self._closing = False

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def start(self) -> None:
        """Loads, one after another, what each model's policy chooses, and begins to poll where `poll_interval_s` is set.

        Returns when all was tried: what failed is told by `readiness` and `index`.

        Raises:
            NoRepository: the root cannot be read.
        """
        await self._update_root()
        names = await self._names()
        for name in names:
            model = self._model(name)
            async with model.lock:
                await self._look(model)
                model.counts = model.there and model.settings.required
                model.loading = model.chosen()
        for name in names:
            await self._shielded(self._refresh(self._models[name]))
        self._started = True
        if not self._closing and (self._settings.poll_interval_s > 0 or self._not_updated is not None):
            self._poller = asyncio.create_task(self._poll_on())

    async def close(self) -> None:
        """Ends polling, waits for what is being loaded, and retires every version; returns when each answered what it began."""
        self._closing = True
        if self._poller is not None:
            self._poller.cancel()
        while self._updates:
            await asyncio.wait(self._updates)
        for model in self._models.values():
            self._retire_all(model)
        while self._retirements:
            await asyncio.wait(self._retirements)

    def find(self, name: str, version: str | None = None) -> Version:
        """The served version that a request asks for: by number, by label, or the default one. For every request: two look-ups.

        Raises:
            ModelNotFound: there is no such model, version or label.
            ModelNotReady: it is there, but failed its checks, or is still being loaded.
        """
        try:
            return self._routes[name][version]
        except KeyError:
            raise self._why_not(name, version) from None

    def has(self, name: str) -> bool:
        """Whether there is such a model, served or not."""
        return name in self._models

    @property
    def was_tried(self) -> bool:
        """Whether all that it held at the start was tried."""
        return self._started

    def names(self) -> list[str]:
        """The models of which at least one version is served, sorted."""
        return sorted(self._routes)

    def serves(self, name: str) -> bool:
        """Whether at least one version of the model is served."""
        return name in self._routes

    def served(self, name: str | None = None) -> list[Version]:
        """The served versions of one model (none where it is unknown), or of all, by name and version. Any thread may ask."""
        return [served for served in self._served if name in {None, served.name}]

    def states(self) -> tuple[tuple[str, int, bool], ...]:
        """Name and version of all that are served (True) or failed their checks (False). Any thread may ask."""
        return self._states

    def has_default(self, name: str) -> bool:
        """Whether a request for the model that names no version is answered."""
        return None in self._routes.get(name, ())

    def labels(self, name: str) -> dict[str, int]:
        """The labels of a model, and the versions that they stand for; none where there is no such model."""
        model = self._models.get(name)
        return {} if model is None else dict(model.labels)

    def readiness(self) -> Readiness:
        """Whether all was tried, there is a model, and every model that the server needs has a default version.

        Needed is a model with the setting `required` that was there at the start, or that was served once: a broken model that
        is copied into a running server's repository is a warning, and takes no good one away.
        """
        models = [model for model in self._models.values() if model.there and not model.unloaded]
        reasons = {model.name: str(model.why_not(None)) for model in models if model.counts and model.default() is None}
        if not self._started:
            reasons[WHOLE] = "the models are being loaded"
        elif not self._routes and self._not_updated is not None:
            reasons[WHOLE] = self._not_updated
        elif not self._routes and not reasons:
            there = any(model.there for model in self._models.values())
            reasons[WHOLE] = (
                "no model is served" if there else f"no model below {self.root.name}: it should hold <name>/<version>/"
            )
        warnings = {model.name: "; ".join(model.warnings()) for model in self._models.values()}
        warnings = {name: text for name, text in warnings.items() if text and name not in reasons}
        for name, text in (self._source.failures if self._source is not None else {}).items():
            warnings[name] = "; ".join(filter(None, (warnings.get(name), text)))
        warnings |= dict.fromkeys(self._only_in_settings(), "model_settings names it, but the repository does not hold it")
        trouble = self._trouble or (self._not_updated if WHOLE not in reasons else None)
        if trouble is not None:
            warnings[WHOLE] = trouble
        return Readiness(not reasons, reasons, warnings)

    async def index(self, *, ready_only: bool = False) -> list[dict[str, Any]]:
        """Every version that is on disk or served, as Triton's repository index has it: name, version, state, reason.

        Raises:
            NoRepository: the root cannot be read.
        """
        names = await self._names()
        on_disk = {name: await asyncio.to_thread(_folders_or_none, self.root / name) for name in names}
        entries = []
        for name in sorted({*on_disk, *self._models}):
            model = self._models.get(name) or ModelVersions(name, self._settings.model(name), {})
            entries += model.index(on_disk.get(name, {}))
        return [entry for entry in entries if entry["state"] == "READY" or not ready_only]

    async def load(self, name: str, version: int | None = None, settings: ModelSettings | None = None) -> None:
        """Makes what is served of a model agree with its folder: new and changed versions are loaded, others retired.

        `version` is served beside what the policy chooses. `settings` hold until the next `load`; without, the server's own do.
        Goes on to its end even if the caller leaves.

        Raises:
            ModelNotFound: there is no such model or version on disk.
            LoadFailed: a version failed its checks; what was served in its place is served on.
            ModelNotReady: the server is shutting down.
        """
        await self._update_root(name)
        if self._not_updated is not None:
            raise LoadFailed(f"{name}: {self._not_updated}")
        names = await self._names()
        failure = self._source.failures.get(name) if self._source is not None else None
        if name not in names:
            if failure is not None:
                raise LoadFailed(f"{name}: {failure}")
            raise ModelNotFound(f"no model is called {name!r}; on disk: {listed(names)}")
        await self._shielded(self._load(self._model(name), version, settings or self._settings.model(name)))
        await self.settled()
        if failure is not None:
            served = [one.version for one in self.served(name)]
            raise LoadFailed(f"{name}: {failure}; versions served: {listed(served)}")

    async def unload(self, name: str) -> None:
        """Retires every version of a model, in the background; polling does not bring it back, `load` does.

        Raises:
            ModelNotFound: there is no such model.
        """
        model = self._models.get(name)
        if model is None or not model.there:
            raise self._unknown(name)
        await self._shielded(self._unload(model))
        await self.settled()

    async def settled(self) -> None:
        """Returns when what is served now is so for every request to come, whichever process it comes to."""
        await self._routing.settled()

    def set_label(self, name: str, label: str, version: int) -> None:
        """Lets a label stand for a served version, from the next request on; until the server ends, or it is set again.

        Raises:
            ModelNotFound: there is no such model.
            BadRequest: it looks like no label, or the version is not served.
        """
        model = self._known(name)
        model.require_label(label, version)
        model.labels[label] = version
        self._settle(model)

    def remove_label(self, name: str, label: str) -> None:
        """Takes a label away; the version that only the label kept is retired.

        Raises:
            ModelNotFound: there is no such model, or it has no such label.
        """
        model = self._known(name)
        if label not in model.labels:
            raise ModelNotFound(f"{name} has no label {label!r}; labels: {listed(sorted(model.labels))}")
        del model.labels[label]
        self._settle(model)

    async def poll(self) -> None:
        """One pass over the root: loads new and changed versions, retires vanished ones. Passes never overlap.

        A version that failed is tried again only when its files changed. One whose files are not all there (it is being copied)
        is tried when they are, or when nothing changed between two passes. A model leaves when its folder was gone in two passes
        in a row; but if no folder is left at all (so looks a volume that is not mounted), everything stays.
        """
        async with self._poll_lock:
            await self._update_root()
            if self._not_updated is not None:
                return
            try:
                names = frozenset(await self._names())
            except NoRepository as error:
                if self._trouble is None:
                    self._tell(Event("unreadable", WHOLE, error=error))
                self._trouble = "the repository cannot be read; what is served stays"
                return
            for name in sorted(names):
                await self._shielded(self._refresh(self._model(name)))
            missing = self._models.keys() - names
            self._trouble = None
            if names:
                for name in sorted(missing & self._missing):
                    await self._shielded(self._forget(self._models[name]))
            elif self._routes:
                self._trouble = "the repository holds no model any more; what is served stays"
            self._missing = frozenset(missing)

    async def _update_root(self, name: str | None = None) -> None:
        """Has the root brought up to date where it is a copy; if that fails, what is there is served, and it is told."""
        if self._source is None:
            return
        try:
            await in_thread_of_its_own(partial(self._source.update, name))
        except (StateserveError, OSError) as error:
            if self._not_updated is None:
                self._tell(Event("unreadable", WHOLE, error=error))
            self._not_updated = str(error)
        else:
            self._not_updated = None

    async def _poll_on(self) -> None:
        """Polls at the interval that is set; without one, until the other storage was asked once."""
        interval_s = self._settings.poll_interval_s
        while interval_s > 0 or self._not_updated is not None:
            await asyncio.sleep(interval_s or ASK_AGAIN_S)
            try:
                await self.poll()
            except Exception as error:  # noqa: BLE001 - whatever one pass meets, the next one is due
                self._tell(Event("unreadable", WHOLE, error=error))

    async def _load(self, model: ModelVersions[Version], version: int | None, settings: ModelSettings) -> None:
        async with model.lock:
            await self._look(model)
            if model.trouble:
                raise LoadFailed(f"{model.name}: {model.trouble}")
            if not model.folders or version not in {None, *model.folders}:
                wanted = "no version" if version is None else f"no version {version}"
                raise ModelNotFound(f"{model.name} has {wanted} on disk; there are: {listed([*model.folders])}")
            before = model.settings, model.pinned
            model.settings, model.pinned = settings, frozenset() if version is None else frozenset({version})
            model.unloaded = False
            nothing = None if model.chosen() else model.nothing_chosen()
            failures = await self._update(model, retry=True)
            if failures or nothing:
                model.settings, model.pinned = before
            self._settle(model)
        if nothing:
            raise LoadFailed(f"{model.name}: {nothing}")
        if failures:
            reasons = "; ".join(f"version {number} failed its checks: {reason}" for number, reason in failures.items())
            raise LoadFailed(f"{model.name}: {reasons}; versions served: {listed(sorted(model.served))}")
        if self._closing:
            raise ModelNotReady("the server is shutting down")

    async def _unload(self, model: ModelVersions[Version]) -> None:
        async with model.lock:
            model.unloaded, model.counts = True, False
            self._retire_all(model)

    async def _refresh(self, model: ModelVersions[Version]) -> None:
        """What start and polling do for one model."""
        async with model.lock:
            await self._look(model)
            if model.unloaded or model.trouble:
                model.loading = set()
                return
            await self._update(model, retry=False)
            self._settle(model)

    async def _forget(self, model: ModelVersions[Version]) -> None:
        async with model.lock:
            await self._look(model)
            if not model.folders and not model.trouble:
                model.counts = False
                self._retire_all(model)

    async def _look(self, model: ModelVersions[Version]) -> None:
        """Takes note of what is in a model's folder; where it cannot be read, of that, and what was known stays."""
        try:
            model.see(await asyncio.to_thread(version_folders, self.root / model.name))
        except OSError as error:
            if model.trouble is None:
                self._tell(Event("unreadable", model.name, error=error))
            model.trouble = f"its folder cannot be read: {error.strerror}"

    async def _update(self, model: ModelVersions[Version], *, retry: bool) -> dict[int, str]:
        """Loads what is chosen, newest first. Returns the versions that failed now, with the reason of each."""
        failures: dict[int, str] = {}
        model.loading = model.chosen()
        for version in sorted(model.loading, reverse=True):
            folder = model.folders[version]
            try:
                if not self._closing and await self._wants_loading(model, version, folder, retry=retry):
                    await self._try(model, version, folder)
            except LoadFailed as error:
                failures[version] = str(error)
            finally:
                model.loading.discard(version)
        return failures

    async def _wants_loading(self, model: ModelVersions[Version], version: int, folder: VersionFolder, *, retry: bool) -> bool:
        """Whether a chosen version is to be loaded (again). `retry`: also one that failed, or that may still be being copied."""
        served, failed = model.served.get(version), version in model.failed
        unchanged = model.tried.get(version) == folder.stamp
        if unchanged and failed and not retry:
            return False
        if served is not None and _running(served.settings) == _running(model.settings):
            if unchanged and not failed:
                return False
            plan = await asyncio.to_thread(plan_now, folder, model.settings)
            if plan is not None and plan.effect == served.planned.effect:
                model.tried[version] = folder.stamp  # only touched, or put back as it was
                model.failed.pop(version, None)
                return False
        return retry or model.is_settled(version) or await asyncio.to_thread(is_whole, folder)

    async def _try(self, model: ModelVersions[Version], version: int, folder: VersionFolder) -> None:
        """Loads a version and lets it take over; raises LoadFailed where it does not."""
        began = time.perf_counter()
        model.tried[version] = folder.stamp
        try:
            served = await self._load_version(model.name, version, folder.path, model.settings)
        except Exception as error:  # whatever one version's loading raises, the others are served
            reason = str(error) if isinstance(error, StateserveError) else f"{type(error).__name__}: {error}"
            model.failed[version] = reason
            self._publish(model)
            self._tell(Event("failed", model.name, version, time.perf_counter() - began, error=error))
            raise LoadFailed(reason) from error
        default, replaced = model.default(), model.served.get(version)
        model.served[version] = served
        model.failed.pop(version, None)
        self._settle(model)
        if replaced is not None:
            self._retire(model, replaced)
        replaces = default is not None and model.default() is not default
        self._tell(Event("served", model.name, version, time.perf_counter() - began, replaces))

    def _settle(self, model: ModelVersions[Version]) -> None:
        """Retires what is no longer kept: the moment in which a version takes over."""
        leaving = [model.served.pop(version) for version in model.served.keys() - model.kept()]
        model.forget_unchosen()
        self._publish(model)
        for served in leaving:
            self._retire(model, served)

    def _publish(self, model: ModelVersions[Version]) -> None:
        """Lets every reader see what is served now."""
        routes = model.routes()
        changed = routes != self._routes.get(model.name, {})
        if routes:
            self._routes[model.name] = routes
        else:
            self._routes.pop(model.name, None)
        if None in routes and model.settings.required:
            model.counts = True
        models = sorted(self._models.values(), key=lambda model: model.name)
        self._served = tuple(one.served[version] for one in models for version in sorted(one.served))
        self._states = tuple(
            (one.name, version, version in one.served)
            for one in models
            for version in sorted(one.served.keys() | one.failed.keys())
        )
        if changed:
            self._routing.route(model.name, routes)

    def _retire_all(self, model: ModelVersions[Version]) -> None:
        leaving, model.served = list(model.served.values()), {}
        model.failed, model.tried, model.loading = {}, {}, set()
        self._publish(model)
        for served in leaving:
            self._retire(model, served)

    def _retire(self, model: ModelVersions[Version], served: Version) -> None:
        """Lets a version that no route leads to any more answer what it has begun, and leave; `close` waits for it."""

        async def retire() -> None:
            error = None
            try:
                await served.retire()
            except Exception as cause:  # noqa: BLE001 - it is gone from the routes; that it left badly is told
                error = cause
            model.retiring.remove(served)
            self._tell(Event("retired", served.name, served.version, error=error))

        model.retiring.append(served)
        task = asyncio.create_task(retire())
        self._retirements.add(task)
        task.add_done_callback(self._retirements.discard)

    async def _shielded(self, work: Coroutine[Any, Any, None]) -> None:
        """Does the work to its end, even if who waits for it leaves; `close` waits for it."""
        task = asyncio.create_task(work)
        self._updates.add(task)
        task.add_done_callback(self._updates.discard)
        await asyncio.shield(task)

    def _model(self, name: str) -> ModelVersions[Version]:
        if name not in self._models:
            settings = self._settings.model(name)
            self._models[name] = ModelVersions(name, settings, dict(settings.labels))
        return self._models[name]

    async def _names(self) -> list[str]:
        try:
            return await asyncio.to_thread(model_names, self.root)
        except (FileNotFoundError, NotADirectoryError) as cause:
            if not self._settings.needs_repository:
                return []
            raise NoRepository(
                f"the model repository {self.root} is not a directory; export there first, or say another --repository"
            ) from cause
        except OSError as cause:
            raise NoRepository(f"the model repository {self.root} cannot be read: {cause.strerror}") from cause

    def _only_in_settings(self) -> list[str]:
        if not self._started:
            return []
        return [name for name in self._settings.model_settings if name not in self._models or not self._models[name].there]

    def _known(self, name: str) -> ModelVersions:
        model = self._models.get(name)
        if model is None or not model.there:
            raise self._unknown(name)
        return model

    def _unknown(self, name: str) -> ModelNotFound:
        there = sorted(model.name for model in self._models.values() if model.there)
        return ModelNotFound(f"no model is called {name!r}; there are: {listed(there)}")

    def _why_not(self, name: str, version: str | None) -> ModelNotFound | ModelNotReady:
        if self._closing:
            return ModelNotReady("the server is shutting down")
        model = self._models.get(name)
        if model is not None and model.there:
            return model.why_not(version)
        return self._unknown(name) if self._started else ModelNotReady("the models are being loaded")


def _running(settings: ModelSettings) -> dict[str, Any]:
    """The settings that a served version runs under."""
    return settings.model_dump(exclude=_SELECTING)


def _folders_or_none(model: Path) -> dict[int, VersionFolder]:
    try:
        return version_folders(model)
    except OSError:  # who loads it is told
        return {}
