"""What is asked of a model when it is registered, by a client, a snapshot or the settings, and what holds of all that."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from serving.torchserve.archives.mar import Mar
from serving.torchserve.archives.model_config import ModelConfig
from serving.torchserve.errors import InvalidModelException
from serving.torchserve.workers.parameters import Parameters

if TYPE_CHECKING:
    from serving.settings import Settings

log = logging.getLogger("stateserve")

DELAY_MS = 100
RETRY_TIMEOUT_S = 300
MOST_WORKERS = 1024
"""The most workers that a model is started with: each is a process."""


@dataclass(frozen=True, slots=True)
class Registration:
    """One archive, and what is asked of it; None, or "", where nothing is said.

    `version` is the one that the archive should have. `workers` is how many there are where the archive says nothing; it is None
    at the start, when the setting `models` has a say. `scaled` are the least and the most workers that a snapshot knows of, which
    hold before all others. `is_default` makes the version its model's default.
    """

    url: str
    name: str = ""
    version: str | None = None
    handler: str = ""
    runtime: str = ""
    batch_size: int | None = None
    max_batch_delay_ms: int | None = None
    response_timeout_s: int | None = None
    startup_timeout_s: int | None = None
    workers: int | None = None
    scaled: tuple[int, int] | None = None
    is_default: bool = False

    @property
    def at_start(self) -> bool:
        """Whether the server registers it itself, and no client."""
        return self.workers is None


def restored(name: str, version: str, entry: Mapping[str, Any]) -> Registration:
    """What a snapshot says of one version; a value that is not of its type counts as not said."""
    least, most = _number(entry, "minWorkers"), _number(entry, "maxWorkers")
    return Registration(
        url=_text(entry, "marName"),
        name=name,
        version=version,
        handler=_text(entry, "handler"),
        runtime=_text(entry, "runtimeType"),
        batch_size=_number(entry, "batchSize"),
        max_batch_delay_ms=_number(entry, "maxBatchDelay"),
        response_timeout_s=_number(entry, "responseTimeout"),
        startup_timeout_s=_number(entry, "startupTimeout"),
        scaled=None if least is None else (least, max(least, most or 0)),
        is_default=entry.get("defaultVersion") is True,
    )


def parameters(wanted: Registration, mar: Mar, settings: "Settings", default_workers: int) -> Parameters:
    """What holds of a version, in TorchServe's order.

    For batches: the registration, the archive's model-config.yaml, the setting `models`, the defaults. For timeouts and workers
    the YAML stands before the registration; there, workers need both numbers.

    Raises:
        InvalidModelException: there should be more than `MOST_WORKERS`.
    """
    asked, configured = mar.model_config, settings.models.get(mar.name, {}).get(mar.version, {})
    least, most = _workers(wanted, asked, configured, default_workers, mar.name)
    if least > MOST_WORKERS:
        raise InvalidModelException(f"Model {mar.name} should have {least} workers; it can have {MOST_WORKERS} at most.")
    before_config = wanted.scaled is not None  # a snapshot knows what held at last
    timeouts = {
        "response_timeout_s": (wanted.response_timeout_s, asked.response_timeout_s, "responseTimeout"),
        "startup_timeout_s": (wanted.startup_timeout_s, asked.startup_timeout_s, "startupTimeout"),
    }
    fallbacks = {"response_timeout_s": settings.default_response_timeout, "startup_timeout_s": settings.default_startup_timeout}
    held = {
        field: _first(*((said, yaml) if before_config else (yaml, said)), _number(configured, key), fallbacks[field])
        for field, (said, yaml, key) in timeouts.items()
    }
    return Parameters(
        min_workers=least,
        max_workers=most,
        batch_size=max(1, _first(wanted.batch_size, asked.batch_size, _number(configured, "batchSize"), 1)),
        max_batch_delay_ms=max(
            0, _first(wanted.max_batch_delay_ms, asked.max_batch_delay_ms, _number(configured, "maxBatchDelay"), DELAY_MS)
        ),
        max_retry_timeout_s=_first(asked.max_retry_timeout_s, RETRY_TIMEOUT_S),
        client_timeout_ms=_first(asked.client_timeout_ms, 0),
        job_queue_size=_first(asked.job_queue_size, settings.job_queue_size),
        handler=mar.handler,
        envelope=settings.service_envelope or "",
        device_type=asked.device_type,
        device_ids=asked.device_ids,
        use_venv=bool(asked.use_venv),
        strict_batch_delay=settings.strict_batch_delay,
        **held,
    )


def _workers(wanted: Registration, asked: ModelConfig, configured: Mapping[str, Any], default: int, name: str) -> tuple[int, int]:
    """The least and the most workers that there are at first."""
    if wanted.scaled is not None:
        return wanted.scaled
    least, most = asked.min_workers, asked.max_workers
    if least and most and most >= least:
        return least, most
    if least:
        log.warning("%s: minWorkers of its model-config.yaml counts only with a maxWorkers that is no less", name)
    if wanted.workers is not None:
        return wanted.workers, wanted.workers
    least = _first(_number(configured, "minWorkers"), default)
    return least, max(least, _first(_number(configured, "maxWorkers"), default))


def _text(entry: Mapping[str, Any], key: str) -> str:
    value = entry.get(key)
    return value if isinstance(value, str) else ""


def _number(entry: Mapping[str, Any], key: str) -> int | None:
    value = entry.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _first(*values: int | None) -> int:
    """The first value that is said; the last one always is."""
    return next(value for value in values if value is not None)
