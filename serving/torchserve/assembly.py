"""What a server consists of on TorchServe's side, put together, started and ended."""

import logging
from functools import partial

from serving.app import Running
from serving.repository import Repository
from serving.settings import Settings
from serving.torchserve.archives.mar import Mar
from serving.torchserve.errors import InvalidModelException
from serving.torchserve.front import Parts
from serving.torchserve.keys import asks_for_tokens
from serving.torchserve.metrics.metrics import Measuring, TorchServeMetrics
from serving.torchserve.registry.management import Management
from serving.torchserve.registry.models import Models
from serving.torchserve.registry.snapshots import Snapshots, snapshot_directory
from serving.torchserve.tokens import KEY_FILE, Tokens
from serving.torchserve.workers.host import WorkerHost, worker_host
from serving.torchserve.workers.parameters import Parameters
from serving.torchserve.workers.workers import Workers

log = logging.getLogger("stateserve")


class TorchServe:
    """The models of the model store, and the parts that the listeners share; without a folder of archives there are no workers.

    `start` loads what is to be loaded, `close` ends all workers.

    Raises:
        WorkersMissing: there is a model store, and TorchServe's worker is not installed.
    """

    def __init__(self, settings: Settings, running: Running) -> None:
        metrics = TorchServeMetrics(settings, running.page)
        running.metrics.add(metrics)
        has_store = settings.model_store is not None and settings.model_store.is_dir()
        measures = has_store and not settings.disable_system_metrics
        self._measuring = Measuring(metrics, settings.metric_time_interval) if measures else None
        self._host = worker_host(settings, metrics) if has_store else None
        self._tokens = Tokens(settings.token_expiration_min) if asks_for_tokens(settings) else None
        if self._tokens is not None:
            told = "requests need the keys in %s, for %g minutes; disable_token_authorization=true lets them pass without"
            log.info(told, KEY_FILE.absolute(), settings.token_expiration_min)
        self._models = Models(
            settings,
            partial(_workers, self._host),
            gpus=0 if self._host is None else self._host.gpus,
            snapshots=Snapshots(settings, snapshot_directory()) if has_store and settings.config_snapshots else None,
        )
        management = Management(self._models, settings, running.repository, self._tokens)
        self.parts = Parts(
            self._models, metrics, management.answer, partial(_is_native, running.repository, self._models), self._tokens
        )
        running.why_not_ready = self._models.why_not_ready

    async def start(self) -> None:
        """Loads what the settings say. Returns when all was tried; raises SnapshotInvalid."""
        if self._measuring is not None:
            self._measuring.start()
        await self._models.start()

    def served(self) -> list[str]:
        """The models' default versions, as a line of the log names them."""
        return [f"{one.name} version {one.version}" for one in self._models.listed()]

    async def registered(self) -> None:
        """Returns when what is to be loaded is registered, and found by requests; its workers may still start."""
        await self._models.registered.wait()

    async def close(self) -> None:
        """Ends all workers, after what they have begun."""
        if self._measuring is not None:
            self._measuring.close()
        await self._models.close()
        self.abandon()

    def abandon(self) -> None:
        """Removes the server's own files; workers that still run end with the process."""
        if self._host is not None:
            self._host.close()
        if self._tokens is not None:
            self._tokens.remove()


def _is_native(repository: Repository, models: Models, name: str) -> bool:
    """Whether the repository answers for a model: where it serves it, and where there is no archive of that name."""
    return repository.serves(name) or (repository.has(name) and not models.versions(name))


def _workers(host: WorkerHost | None, mar: Mar, name: str, parameters: Parameters) -> Workers:
    if host is None:
        raise InvalidModelException("There is no model store here: set model_store.")
    return Workers(mar, name, parameters, host)
