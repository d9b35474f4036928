"""The registry: archives by name and version, unpacked, with their workers.

All state lives on the event loop; what blocks runs in threads, and the work on archives, which may take long, in threads of its
own. A version is entered when its archive is unpacked and its workers can be started; what fails before leaves nothing behind.
"""

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from foundation.environment import cores
from serving.errors import ServingError
from serving.messages import Leaving
from serving.torchserve.archives.mar import Mar
from serving.torchserve.errors import (
    BadRequestException,
    ConflictStatusException,
    InternalServerException,
    InvalidModelVersionException,
    ModelNotFoundException,
    ModelVersionNotFoundException,
    RequestTimeoutException,
    ServiceUnavailableException,
)
from serving.torchserve.jobs import Job, Reply
from serving.torchserve.registry.downloads import remove_abandoned
from serving.torchserve.registry.prepared import Prepared, prepare
from serving.torchserve.registry.registration import Registration
from serving.torchserve.registry.snapshots import Kind, Snapshots, described
from serving.torchserve.registry.startup import from_snapshot, to_load
from serving.torchserve.registry.unpacked import UnpackedFolder
from serving.torchserve.workers.parameters import Parameters
from serving.torchserve.workers.workers import Workers

if TYPE_CHECKING:
    from serving.settings import Settings

log = logging.getLogger("stateserve")

WHOLE = "*"
"""The key under which `why_not_ready` tells of the server as a whole."""
_ARCHIVES_AT_ONCE = 4
"""How many archives are fetched and unpacked side by side."""
_Result = TypeVar("_Result")

MakeWorkers = Callable[[Mar, str, Parameters], Workers]
"""The workers of a version: its archive, the model's name, and how they work. None is started yet."""


class ModelVersion:
    """One registered version. `at_start`: the server loaded it; `file_name` is its archive, from the model store on."""

    def __init__(self, prepared: Prepared, workers: Workers, file_name: str, *, at_start: bool) -> None:
        self.name = prepared.mar.name
        self.version = prepared.mar.version
        self.url = prepared.wanted.url
        self.mar = prepared.mar
        self.parameters = prepared.parameters
        self.prepared = prepared
        self.workers = workers
        self.file_name = file_name
        self.at_start = at_start
        self._in_flight = 0
        self._drained: asyncio.Event = asyncio.Event()

    async def predict(self, job: Job, leaving: Leaving | None = None, *, version: str | None = None) -> Reply:
        """What the handler answers, as `Workers.predict`."""
        self._in_flight += 1
        try:
            return await self.workers.predict(job, leaving, version=version)
        finally:
            self._in_flight -= 1
            if not self._in_flight:
                self._drained.set()

    async def drain(self, timeout_s: float) -> bool:
        """Waits until every request that came is answered, for so long at most; whether they are. No other comes."""
        if self._in_flight:
            self._drained.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._drained.wait(), timeout_s)
        return not self._in_flight

    @property
    def ready(self) -> bool:
        """Whether a worker can answer now."""
        return any(worker.status == "READY" for worker in self.workers.infos())

    @property
    def facts(self) -> dict[str, str]:
        """What its lines in the log carry."""
        return {"model": self.name, "version": self.version}


@dataclass(slots=True)
class _Model:
    """The versions of one model, in the order in which they came."""

    default: str
    versions: dict[str, ModelVersion]


class Models:
    """The models of one model store. `start` loads what the settings or a snapshot say, `close` ends everything.

    `gpus` is how many there are for workers. `failures` are the reasons why something is not served that should be, by address.
    `registered` is set when what is loaded at the start is found by requests; its workers may still start.
    """

    def __init__(
        self, settings: "Settings", make_workers: MakeWorkers, *, gpus: int = 0, snapshots: Snapshots | None = None
    ) -> None:
        self.gpus = gpus
        self.failures: dict[str, str] = {}
        self.registered = asyncio.Event()
        self._settings = settings
        self._store = None if settings.model_store is None else settings.model_store.absolute()
        self._make_workers = make_workers
        self._default_workers = settings.default_workers_per_model or gpus or cores()
        self._snapshots = snapshots
        self._models: dict[str, _Model] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._folder: UnpackedFolder | None = None
        self._started = self._store is None
        self._closing = threading.Event()
        self._entering: set[Workers] = set()
        self._threads = ThreadPoolExecutor(_ARCHIVES_AT_ONCE, "archives")

    async def start(self) -> None:
        """Restores what a snapshot says, else loads what load_models says; returns when all was tried. `close` cuts it short.

        What fails is logged, and in `failures`; a model whose workers fail stays, and they are tried again.

        Raises:
            SnapshotInvalid: the snapshot is none, or names an archive that is not in the model store.
        """
        if self._store is None:
            self.registered.set()
            return
        await asyncio.to_thread(remove_abandoned, self._store)
        snapshot, named = self._settings.model_snapshot, self._settings.load_models
        if snapshot:
            wanted = await asyncio.to_thread(from_snapshot, snapshot, self._store)
            if named:
                log.warning(
                    "load_models=%s has no effect: the snapshot %s stands before it", ", ".join(named), snapshot.get("name", "")
                )
        else:
            wanted = await asyncio.to_thread(to_load, named, self._store)
        await self._shielded(self._load_all(wanted))
        self._started = True
        self._changed("startup")

    async def close(self) -> None:
        """Writes the last snapshot, ends all workers, and removes what was unpacked. Who asks meanwhile finds nothing."""
        self._changed("shutdown")
        self._closing.set()
        entered = [version.workers for model in self._models.values() for version in model.versions.values()]
        self._models.clear()
        await asyncio.gather(*(workers.close() for workers in (*entered, *self._entering)))
        while self._tasks:
            await asyncio.wait(self._tasks)
        self._threads.shutdown(wait=False)
        if self._folder is not None:
            folder, self._folder = self._folder, None
            await asyncio.to_thread(folder.remove)

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
        """What should answer and does not, by name or address, with the reason; empty where all is well."""
        if not self._started:
            return {WHOLE: "the models are being loaded"}
        waiting = {
            version.name: f"{version.name}: not all of its {version.workers.min_workers} workers are ready"
            for version in self.listed()
            if not version.workers.is_ready
        }
        return {**self.failures, **waiting}

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

    async def _load_all(self, wanted: Iterable[Registration]) -> None:
        """Side by side, as many as there are cores; entered in the order in which they are named."""
        room = asyncio.Semaphore(cores())
        found = await asyncio.gather(*(self._prepared_or_none(room, one) for one in wanted))
        entered = [await self._entered_or_none(prepared) for prepared in found if prepared is not None]
        self.registered.set()
        await asyncio.gather(*(self._start_at_start(room, version) for version in entered if version is not None))

    async def _prepared_or_none(self, room: asyncio.Semaphore, wanted: Registration) -> Prepared | None:
        async with room:
            try:
                return await self._prepare(wanted)
            except Exception as error:  # noqa: BLE001 - whatever one model meets, the others are loaded
                self._not_loaded(wanted, error)
                return None

    async def _entered_or_none(self, prepared: Prepared) -> ModelVersion | None:
        wanted, name = prepared.wanted, prepared.mar.name
        if prepared.has_artifact:
            log.warning("%s is not loaded: the model repository holds an artifact called %s, which answers", wanted.url, name)
            await asyncio.to_thread(prepared.discard)
            return None
        try:
            return await self._enter(prepared, at_start=wanted.scaled is None)
        except Exception as error:  # noqa: BLE001 - as above
            self._not_loaded(wanted, error)
            return None

    async def _start_at_start(self, room: asyncio.Semaphore, version: ModelVersion) -> None:
        async with room:
            if not self._closing.is_set():
                await self._scale_logged(version, version.parameters.min_workers, version.parameters.max_workers)

    def _not_loaded(self, wanted: Registration, error: Exception) -> None:
        if self._closing.is_set():
            return
        unforeseen = None if isinstance(error, ServingError) else error
        log.error("Failed to load model: %s: %s", wanted.url, error, exc_info=unforeseen)
        self.failures[wanted.url] = str(error)

    async def _register(self, wanted: Registration) -> ModelVersion:
        version = await self._enter(await self._prepare(wanted), at_start=False)
        if not version.parameters.min_workers:
            self._changed()
        return version

    async def _prepare(self, wanted: Registration) -> Prepared:
        if self._store is None:
            raise BadRequestException("There is no model store here: set model_store.")
        self._require_open()
        if self._folder is None:
            self._folder = UnpackedFolder()
        work = partial(prepare, wanted, self._store, self._folder.path, self._settings, self._default_workers, self._require_open)
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def _enter(self, prepared: Prepared, *, at_start: bool) -> ModelVersion:
        """Makes a version of an archive that is not registered yet; what was unpacked is removed if that fails."""
        try:
            self._require_new(prepared)
            workers = self._make_workers(prepared.mar, prepared.mar.name, prepared.parameters)
            await self._made_ready(workers)
            self._require_new(prepared)  # once more: that may have taken long
        except BaseException:
            await asyncio.to_thread(prepared.discard)
            raise
        path = prepared.archive.path
        file_name = str(path.relative_to(self._store)) if self._store else path.name
        version = ModelVersion(prepared, workers, file_name, at_start=at_start)
        model = self._models.setdefault(version.name, _Model(version.version, {}))
        model.versions[version.version] = version
        if prepared.wanted.is_default:
            model.default = version.version
        self.failures.pop(version.url, None)
        log.info("registered %s version %s, from %s", version.name, version.version, version.url, extra=version.facts)
        return version

    async def _made_ready(self, workers: Workers) -> None:
        self._entering.add(workers)
        try:
            await workers.prepare()
        finally:
            self._entering.discard(workers)

    def _require_new(self, prepared: Prepared) -> None:
        self._require_open()
        name, number = prepared.mar.name, prepared.mar.version
        if any(version.version == number for version in self.versions(name)):
            raise ConflictStatusException(f"Model version {number} is already registered for model {name}")
        if prepared.has_artifact:
            raise ConflictStatusException(
                f"The model repository holds an artifact called {name}, which answers: give the archive another model_name, "
                "or take the artifact away"
            )

    def _require_open(self) -> None:
        if self._closing.is_set():
            raise ServiceUnavailableException("The server is about to end.")

    async def _first_workers(self, version: ModelVersion) -> bool:
        held = version.parameters
        try:
            return await self._scale(version, held.min_workers, held.max_workers, version.version)
        except BaseException:
            if version in self.versions(version.name):
                self._take_out(version)
                await self._retire(version)
            raise

    async def _scale(self, version: ModelVersion, least: int, most: int, asked: str | None) -> bool:
        """`asked` is the version that the request names: TorchServe writes null where there is none."""
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
        except ServingError as error:
            log.error("%s", error, extra=version.facts)  # noqa: TRY400 - the error says it all
        except Exception:
            log.exception("the workers of %s failed", version.name, extra=version.facts)

    def _take_out(self, version: ModelVersion) -> None:
        model = self._models[version.name]
        del model.versions[version.version]
        if not model.versions:
            del self._models[version.name]
        elif model.default == version.version:
            model.default = next(iter(model.versions))

    async def _retire(self, version: ModelVersion) -> None:
        """Gives what is in flight the time to be answered, ends the workers, and removes the files that nobody needs."""
        self._changed()
        loop, timeout_s = asyncio.get_running_loop(), self._settings.unregister_model_timeout
        end = loop.time() + timeout_s
        is_drained = await version.drain(timeout_s)
        await version.workers.close(max(0.0, end - loop.time()))
        is_shared = any(
            other.file_name == version.file_name for model in self._models.values() for other in model.versions.values()
        )
        remove = version.prepared.remove_files if is_shared else version.prepared.discard
        await asyncio.to_thread(remove)
        log.info("%s version %s left", version.name, version.version, extra=version.facts)
        if not is_drained:
            raise RequestTimeoutException(f"Timed out while cleaning resources: {version.name}")

    def _changed(self, kind: Kind = "snapshot") -> None:
        """What is served is not what it was: that is written down for the next start."""
        if self._snapshots is None or not self._started or self._closing.is_set():
            return
        versions = {name: model.versions for name, model in sorted(self._models.items())}
        defaults = {name: model.default for name, model in self._models.items()}
        self._spawn(self._snapshots.write(kind, described(versions, defaults)))

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
