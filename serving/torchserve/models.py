"""The registry: archives by name and version, unpacked, with their workers.

All state lives on the event loop; what blocks runs in threads. A version is entered by one assignment, when its archive is unpacked
and its workers can be started; what fails before leaves nothing behind.
"""

import asyncio
import logging
import shutil
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from foundation.environment import cores
from serving.errors import ServingError
from serving.folders import model_names
from serving.torchserve.downloads import Archive, locate, remove_abandoned
from serving.torchserve.errors import (
    BadRequestException,
    ConflictStatusException,
    InternalServerException,
    InvalidModelException,
    InvalidModelVersionException,
    ModelNotFoundException,
    ModelVersionNotFoundException,
    RequestTimeoutException,
    ServiceUnavailableException,
)
from serving.torchserve.jobs import Job, Reply
from serving.torchserve.mar import Mar, unpack
from serving.torchserve.mar_manifest import PLACE, Asked
from serving.torchserve.parameters import Parameters
from serving.torchserve.registration import Registration, parameters, restored
from serving.torchserve.snapshots import Kind, Snapshots, described
from serving.torchserve.unpacked import UnpackedFolder
from serving.torchserve.workers import Workers

if TYPE_CHECKING:
    from serving.settings import Settings

log = logging.getLogger("stateserve")

ALL = "all"
NOTHING = frozenset({"", "none", "standalone"})
"""Words of load_models that name no archive."""
_SUFFIXES = (".mar", ".model", ".tar.gz")
_Result = TypeVar("_Result")

MakeWorkers = Callable[[Mar, str, Parameters], Workers]
"""The workers of a version: its archive, the model's name, and how they work. None is started yet."""


class SnapshotInvalid(ServingError):
    """A snapshot cannot be restored (the server does not start)."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class _Prepared:
    """An archive that was found and unpacked, and how its workers shall work."""

    wanted: Registration
    archive: Archive
    mar: Mar
    name: str
    parameters: Parameters

    def discard(self) -> None:
        """Removes what was unpacked, and what was fetched. Blocking."""
        shutil.rmtree(self.mar.directory, ignore_errors=True)
        self.archive.discard()


class ModelVersion:
    """One registered version. `min_workers` and `max_workers` are what it was last scaled to; `at_start`: the server loaded it."""

    def __init__(self, prepared: _Prepared, workers: Workers, store: Path, *, at_start: bool) -> None:
        self.name = prepared.name
        self.version = prepared.mar.version
        self.url = prepared.wanted.url
        self.mar = prepared.mar
        self.archive = prepared.archive
        self.parameters = prepared.parameters
        self.workers = workers
        self.at_start = at_start
        self.min_workers = self.max_workers = 0
        self.own_handler = bool(prepared.wanted.handler)
        self.file_name = str(prepared.archive.path.relative_to(store))
        self._in_flight = 0
        self._drained: asyncio.Future[None] | None = None

    async def predict(self, job: Job, leaving: Any) -> Reply:
        """What a worker's handler answers; errors as those of `Workers.predict`."""
        self._in_flight += 1
        try:
            return await self.workers.predict(job, leaving)
        finally:
            self._in_flight -= 1
            if not self._in_flight and self._drained is not None and not self._drained.done():
                self._drained.set_result(None)

    @property
    def ready(self) -> bool:
        """Whether a worker can answer now."""
        return any(worker.status == "READY" for worker in self.workers.infos())

    async def drained(self) -> None:
        """Waits until every request that came is answered."""
        if self._in_flight:
            self._drained = self._drained or asyncio.get_running_loop().create_future()
            await asyncio.shield(self._drained)

    def remove_files(self) -> None:
        """Removes what was unpacked. Blocking."""
        shutil.rmtree(self.mar.directory, ignore_errors=True)


@dataclass(slots=True)
class _Model:
    """The versions of one model, in the order in which they came."""

    default: str
    versions: dict[str, ModelVersion]


class Models:
    """The models of one model store. `start` loads what the settings or a snapshot say, `close` ends everything.

    `gpus` is how many there are for workers. `failures` are the reasons why something is not served that should be, by its address.
    """

    def __init__(
        self, settings: "Settings", make_workers: MakeWorkers, *, gpus: int = 0, snapshots: Snapshots | None = None
    ) -> None:
        self.failures: dict[str, str] = {}
        self._settings = settings
        self._store = None if settings.model_store is None else settings.model_store.absolute()
        self._make_workers = make_workers
        self._default_workers = settings.default_workers_per_model or gpus or cores()
        self._snapshots = snapshots
        self._models: dict[str, _Model] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._folder: UnpackedFolder | None = None
        self._started = False
        self._closing = False

    async def start(self) -> None:
        """Restores what a snapshot says, else loads what load_models says; returns when all was tried.

        What fails is logged, and in `failures`; a model whose workers fail stays, and they are tried again.

        Raises:
            SnapshotInvalid: the snapshot is none, or names an archive that is not in the model store.
        """
        if self._store is None:
            return
        await asyncio.to_thread(remove_abandoned, self._store)
        snapshot = self._settings.model_snapshot
        if snapshot:
            wanted = await asyncio.to_thread(_from_snapshot, snapshot, self._store)
            if self._settings.load_models:
                log.warning("load_models has no effect: the snapshot %s stands before it", snapshot.get("name", ""))
        else:
            wanted = await asyncio.to_thread(_to_load, self._settings.load_models, self._store)
        await self._load_all(wanted)
        self._started = not self._closing
        self._changed("startup")

    async def close(self) -> None:
        """Writes the last snapshot, ends all workers when they have answered, and removes what was unpacked."""
        if self._started:
            self._changed("shutdown")
        self._closing = True
        versions = [version for model in self._models.values() for version in model.versions.values()]
        self._models.clear()
        await asyncio.gather(*(version.workers.close() for version in versions), return_exceptions=True)
        while self._tasks:
            await asyncio.wait(self._tasks)
        if self._folder is not None:
            await asyncio.to_thread(self._folder.remove)

    def find(self, name: str, version: str | None = None) -> ModelVersion:
        """A version of a model, or its default one.

        Raises:
            ModelNotFoundException, ModelVersionNotFoundException: there is none.
        """
        model = self._models.get(name)
        if model is None:
            raise ModelNotFoundException(f"Model not found: {name}")
        found = model.versions.get(model.default if version is None else version)
        if found is None:
            raise ModelVersionNotFoundException(f"Model version: {version} does not exist for model: {name}")
        return found

    def versions(self, name: str) -> list[ModelVersion]:
        """All versions of a model, in the order in which they came; none where there is no such model."""
        model = self._models.get(name)
        return [] if model is None else list(model.versions.values())

    def listed(self) -> list[ModelVersion]:
        """The default versions of all models, by name."""
        return [self.find(name) for name in sorted(self._models)]

    def at_start(self) -> list[str]:
        """The models that the server loaded itself, and still has, by name."""
        return [version.name for version in self.listed() if version.at_start]

    @property
    def healthy(self) -> bool:
        """TorchServe's own view: every default version has the workers that it should, starting and failing ones counted."""
        return all(version.workers.is_healthy for version in self.listed())

    def why_not_ready(self) -> dict[str, str]:
        """What should answer and does not, by name, with the reason; empty where all is well."""
        reasons = dict(self.failures)
        for version in self.listed():
            if version.min_workers and not version.workers.is_ready:
                reasons[version.name] = f"not all of its {version.min_workers} worker(s) are ready"
        return reasons

    async def register(self, wanted: Registration) -> ModelVersion:
        """Finds, unpacks and enters an archive, whose workers are not started yet; goes on to the end even if the caller leaves.

        Raises:
            TorchServeError: it cannot be found, fetched or unpacked, is not one that can be run here, or is registered already.
        """
        return await self._shielded(self._register(wanted))

    async def start_workers(self, version: ModelVersion) -> bool:
        """Starts the workers that the version should have at first; unregisters it again if they fail.

        False where they are not up when they should be.

        Raises:
            InternalServerException: they failed.
        """
        return await self._shielded(self._first_workers(version))

    async def scale(self, name: str, version: str | None, least: int, most: int) -> bool:
        """Starts or ends workers until there are at least and at most so many; False where they are not up when they should be.

        Raises:
            ModelNotFoundException, ModelVersionNotFoundException: there is none.
            InternalServerException: workers failed; they are tried again.
        """
        return await self._shielded(self._scale(self.find(name, version), least, most, version))

    def scale_soon(self, version: ModelVersion, least: int, most: int) -> None:
        """The same, in the background: failures are logged."""
        self._spawn(self._scale_logged(version, least, most))

    def set_default(self, name: str, version: str) -> None:
        """Lets a version answer where a request names none.

        Raises:
            ModelNotFoundException, ModelVersionNotFoundException: there is none.
        """
        model = self._models.get(name)
        if model is None:
            raise ModelNotFoundException(f"Model not found: {name}")
        if version not in model.versions:
            raise ModelVersionNotFoundException(f"Model version {version} does not exist for model {name}")
        model.default = version
        self._changed()

    async def unregister(self, name: str, version: str | None = None) -> None:
        """Takes a version away: the next request does not find it, those in flight are answered, then its workers end.

        Raises:
            ModelNotFoundException, ModelVersionNotFoundException: there is none.
            InvalidModelVersionException: it is the default, and there are others.
            RequestTimeoutException: this took longer than `unregister_model_timeout`; what was in flight then is cut off.
        """
        found = self.find(name, version)
        model = self._models[name]
        if found.version == model.default and len(model.versions) > 1:
            raise InvalidModelVersionException(f"Cannot remove default version for model {name}")
        self._take_out(found)
        await self._shielded(self._retire(found))

    async def _load_all(self, registrations: Iterable[Registration]) -> None:
        """Side by side, as many as there are cores; entered in the order in which they are named."""
        room = asyncio.Semaphore(cores())
        wanted = list(registrations)
        prepared = await asyncio.gather(*(self._prepared_or_none(room, one) for one in wanted))
        entered = [await self._entered_or_none(one) for one in prepared if one is not None]
        async with asyncio.TaskGroup() as group:
            for version in filter(None, entered):
                group.create_task(self._start_at_start(room, version))

    async def _prepared_or_none(self, room: asyncio.Semaphore, wanted: Registration) -> _Prepared | None:
        async with room:
            try:
                return await self._prepare(wanted)
            except Exception as error:  # noqa: BLE001 - whatever one model meets, the others are loaded
                self._not_loaded(wanted, error)
                return None

    async def _entered_or_none(self, prepared: _Prepared) -> ModelVersion | None:
        try:
            return self._enter(prepared, at_start=not prepared.wanted.scaled)
        except ServingError as error:
            if isinstance(error, _ArtifactFirst):
                log.warning("%s is not loaded: %s", prepared.wanted.url, error)
            else:
                self._not_loaded(prepared.wanted, error)
            await asyncio.to_thread(prepared.discard)
            return None

    async def _start_at_start(self, room: asyncio.Semaphore, version: ModelVersion) -> None:
        held = version.parameters
        version.min_workers, version.max_workers = held.min_workers, held.max_workers
        async with room:
            if not self._closing:
                await self._scale_logged(version, held.min_workers, held.max_workers)

    def _not_loaded(self, wanted: Registration, error: Exception) -> None:
        unforeseen = None if isinstance(error, ServingError) else error
        log.error("Failed to load model: %s: %s", wanted.url, error, exc_info=unforeseen)
        self.failures[wanted.url] = str(error)

    async def _register(self, wanted: Registration) -> ModelVersion:
        prepared = await self._prepare(wanted)
        try:
            version = self._enter(prepared, at_start=False)
        except BaseException:
            await asyncio.to_thread(prepared.discard)
            raise
        if not prepared.parameters.min_workers:
            self._changed()
        return version

    async def _prepare(self, wanted: Registration) -> _Prepared:
        if self._store is None:
            raise BadRequestException("There is no model store here: set model_store.")
        if self._closing:
            raise ServiceUnavailableException("The server is about to end.")
        if self._folder is None:
            self._folder = UnpackedFolder()
        return await asyncio.to_thread(self._prepare_blocking, wanted, self._store, self._folder.path)

    def _prepare_blocking(self, wanted: Registration, store: Path, into: Path) -> _Prepared:
        settings = self._settings
        archive = locate(wanted.url, store, settings.allowed_urls)
        try:
            asked = Asked(wanted.name, wanted.handler, wanted.runtime, settings.default_service_handler or "")
            mar = unpack(archive.path, into, asked)
        except BaseException:
            archive.discard()
            raise
        try:
            _require_served(mar, wanted)
            held = parameters(wanted, mar, mar.name, settings, self._default_workers)
            return _Prepared(wanted, archive, mar, mar.name, held)
        except BaseException:
            shutil.rmtree(mar.directory, ignore_errors=True)
            archive.discard()
            raise

    def _enter(self, prepared: _Prepared, *, at_start: bool) -> ModelVersion:
        name, number = prepared.name, prepared.mar.version
        if self._closing or self._store is None:
            raise ServiceUnavailableException("The server is about to end.")
        if number in {version.version for version in self.versions(name)}:
            raise ConflictStatusException(f"Model version {number} is already registered for model {name}")
        if name in _artifacts(self._settings.repository):
            raise _ArtifactFirst(name)
        workers = self._make_workers(prepared.mar, name, prepared.parameters)
        version = ModelVersion(prepared, workers, self._store, at_start=at_start)
        model = self._models.setdefault(name, _Model(number, {}))
        model.versions[number] = version
        if prepared.wanted.is_default:
            model.default = number
        self.failures.pop(version.url, None)
        log.info("registered %s version %s, from %s", name, number, version.url, extra={"model": name, "version": number})
        return version

    async def _first_workers(self, version: ModelVersion) -> bool:
        held = version.parameters
        try:
            return await self._scale(version, held.min_workers, held.max_workers, version.version)
        except BaseException:
            if self.versions(version.name).count(version):
                self._take_out(version)
                await self._retire(version)
            raise

    async def _scale(self, version: ModelVersion, least: int, most: int, asked: str | None) -> bool:
        """`asked` is the version that the request names: TorchServe writes null where there is none."""
        version.min_workers, version.max_workers = least, most
        try:
            return await version.workers.scale(least, most)
        except InternalServerException as cause:
            raise InternalServerException(
                f"Failed to start workers for model {version.name} version: {asked or 'null'}", cause.status, cause.traceback_id
            ) from cause
        finally:
            self._changed()

    async def _scale_logged(self, version: ModelVersion, least: int, most: int) -> None:
        try:
            await self._scale(version, least, most, version.version)
        except Exception as error:  # noqa: BLE001 - nobody waits for it: it is told here
            unforeseen = None if isinstance(error, ServingError) else error
            facts = {"model": version.name, "version": version.version}
            log.error("%s", error, extra=facts, exc_info=unforeseen)

    def _take_out(self, version: ModelVersion) -> None:
        model = self._models[version.name]
        del model.versions[version.version]
        if not model.versions:
            del self._models[version.name]
        elif model.default == version.version:
            model.default = next(iter(model.versions))

    async def _retire(self, version: ModelVersion) -> None:
        self._changed()
        closing = self._spawn(self._close_version(version))
        await asyncio.wait({closing}, timeout=self._settings.unregister_model_timeout)
        if not closing.done():
            raise RequestTimeoutException(f"Timed out while cleaning resources: {version.name}")

    async def _close_version(self, version: ModelVersion) -> None:
        await asyncio.wait({asyncio.ensure_future(version.drained())}, timeout=self._settings.unregister_model_timeout)
        await version.workers.close()
        is_used = any(
            version.archive.path == other.archive.path for model in self._models.values() for other in model.versions.values()
        )
        if not is_used:
            await asyncio.to_thread(version.archive.discard)
        await asyncio.to_thread(version.remove_files)
        log.info("%s version %s left", version.name, version.version, extra={"model": version.name, "version": version.version})

    def _changed(self, kind: Kind = "snapshot") -> None:
        """What is served is not what it was: it is written down, for the next start."""
        if self._snapshots is None or not self._started or self._closing:
            return
        versions = {name: model.versions for name, model in sorted(self._models.items())}
        models = described(versions, {name: model.default for name, model in self._models.items()})
        self._spawn(self._snapshots.write(kind, models))

    async def _shielded(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        """Does the work to its end, even if who waits for it leaves; `close` waits for it."""
        return await asyncio.shield(self._spawn(work))

    def _spawn(self, work: Coroutine[Any, Any, _Result]) -> "asyncio.Task[_Result]":
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waited was told; who left is not


class _ArtifactFirst(ConflictStatusException):
    """The model repository holds an artifact of that name, which answers."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"The model repository holds an artifact called {name}, which is served natively: give the archive another model_name, "
            "or take the artifact away"
        )


_ArtifactFirst.__name__ = ConflictStatusException.__name__  # the wire's type


def _require_served(mar: Mar, wanted: Registration) -> None:
    """Refuses what needs more than one process, or is not what was meant."""
    if mar.model_config.unsupported:
        keys = ", ".join(mar.model_config.unsupported)
        raise InvalidModelException(
            f"Model {mar.name} asks for what is not supported here: {keys} in its model-config.yaml. One worker is one process, "
            "on one GPU or none; run large models with a server that is made for them."
        )
    if wanted.version not in {None, mar.version}:
        raise InvalidModelException(
            f"{wanted.url} is version {mar.version} of {mar.name}, and the snapshot says version {wanted.version}"
        )


def _artifacts(repository: Path) -> list[str]:
    """The names in the model repository, which need not be there."""
    try:
        return model_names(repository)
    except OSError:
        return []


def _to_load(load_models: Iterable[str], store: Path) -> list[Registration]:
    """What load_models says: `all`, or `file` and `name=file` entries. Blocking."""
    entries = [entry for entry in load_models if entry.lower() not in NOTHING]
    if any(entry.lower() == ALL for entry in entries):
        return [Registration(url=name) for name in _in_store(store)]
    return [_entry(entry) for entry in entries]


def _entry(text: str) -> Registration:
    name, separator, url = text.partition("=")
    if not separator or "/" in name or ":" in name:
        return Registration(url=text)
    return Registration(url=url.strip(), name=name.strip())


def _in_store(store: Path) -> list[str]:
    try:
        there = sorted(path for path in store.iterdir() if not path.name.startswith("."))
    except OSError as error:
        log.error("%s cannot be read: %s", store, error.strerror)  # noqa: TRY400 - the settings' own warning says more
        return []
    return [path.name for path in there if (path / PLACE).is_file() or (path.name.endswith(_SUFFIXES) and path.is_file())]


def _from_snapshot(snapshot: Mapping[str, Any], store: Path) -> list[Registration]:
    """What a snapshot says, when all of its archives are there. Blocking."""
    name, models = snapshot.get("name", "model_snapshot"), snapshot.get("models")
    if not isinstance(models, Mapping) or not all(isinstance(versions, Mapping) for versions in models.values()):
        raise SnapshotInvalid(f'{name} is no snapshot: its "models" should be {{NAME: {{VERSION: {{...}}}}}}; {_WITHOUT}')
    found = []
    for model, versions in models.items():
        for version, entry in versions.items():
            if not isinstance(entry, Mapping):
                raise SnapshotInvalid(f"{name} is no snapshot: model {model} version {version} is no object; {_WITHOUT}")
            wanted = restored(model, version, entry)
            if not wanted.url or not (store / wanted.url).exists():
                raise SnapshotInvalid(
                    f"Model archive file for model :{model}, version :{version} not found in model store: {name} says "
                    f"{wanted.url or 'no marName'}, which {store} does not hold; {_WITHOUT}"
                )
            found.append(wanted)
    return found


_WITHOUT = "mend it, or start without snapshots (--ncs)"
