"""TorchServe's record of one version, with its keys in its order: of an archive and its workers, or of an artifact."""

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from serving.model import ServedModel
    from serving.torchserve.registry.models import ModelVersion
    from serving.torchserve.workers.workers import WorkerInfo

_NO_LARGE_MODELS = {"continuousBatching": False, "useJobTicket": False}
_NO_SEQUENCES = {
    "stateful": False,
    "sequenceMaxIdleMSec": 0,
    "sequenceTimeoutMSec": 0,
    "maxNumSequence": 0,
    "maxSequenceJobQueueSize": 0,
}


def record(version: "ModelVersion", gpus: int) -> dict[str, Any]:
    """What is told of an archive's version; `gpus` is how many there are for workers."""
    held, workers = version.parameters, version.workers
    on_gpu = gpus > 0 and held.device_type != "cpu"
    return {
        "modelName": version.name,
        "modelVersion": version.version,
        "modelUrl": version.url,
        "runtime": version.mar.runtime,
        "minWorkers": workers.min_workers,
        "maxWorkers": workers.max_workers,
        "batchSize": held.batch_size,
        "maxBatchDelay": round(held.max_batch_delay_ms),
        "responseTimeout": round(held.response_timeout_s),
        "startupTimeout": round(held.startup_timeout_s),
        "maxRetryTimeoutInSec": round(held.max_retry_timeout_s),
        "clientTimeoutInMills": round(held.client_timeout_ms),
        "parallelType": "",
        "parallelLevel": 0,
        "deviceType": "gpu" if on_gpu else "cpu",
        **({"deviceIds": list(held.device_ids)} if on_gpu and held.device_ids else {}),
        **_NO_LARGE_MODELS,
        "useVenv": held.use_venv,
        **_NO_SEQUENCES,
        "loadedAtStartup": version.at_start,
        "workers": [_worker(info) for info in workers.infos()],
        "jobQueueStatus": {"remainingCapacity": workers.remaining, "pendingRequests": workers.pending},
    }


def _worker(info: "WorkerInfo") -> dict[str, Any]:
    return {
        "id": info.id,
        "startTime": info.start_time,
        "status": info.status,
        "memoryUsage": info.memory,
        "pid": info.pid,
        "gpu": info.gpu,
        "gpuUsage": info.gpu_usage,
    }


def artifact_url(served: "ServedModel") -> str:
    """Where an artifact is, from the model repository on."""
    return f"{served.name}/{served.version}"


def artifact_record(served: "ServedModel", since: str) -> dict[str, Any]:
    """What is told of an artifact: each of its instances counts as a worker, which this process is, `since` its start."""
    instances = served.execution.instances
    return {
        "modelName": served.name,
        "modelVersion": str(served.version),
        "modelUrl": artifact_url(served),
        "runtime": "stateserve",
        "minWorkers": instances,
        "maxWorkers": instances,
        "batchSize": served.most_rows,
        "maxBatchDelay": round(served.settings.max_delay_ms),
        "responseTimeout": 0,
        "startupTimeout": 0,
        "maxRetryTimeoutInSec": 0,
        "clientTimeoutInMills": round(1000 * (served.settings.default_timeout_s or 0)),
        "parallelType": "",
        "parallelLevel": 0,
        "deviceType": "cpu",
        **_NO_LARGE_MODELS,
        "useVenv": False,
        **_NO_SEQUENCES,
        "loadedAtStartup": True,
        "workers": [_instance(number, since) for number in range(instances)],
        "jobQueueStatus": {
            "remainingCapacity": max(0, served.max_queue_rows - served.queued_rows),
            "pendingRequests": served.queued_rows,
        },
    }


def _instance(number: int, since: str) -> dict[str, Any]:
    return {
        "id": str(number),
        "startTime": since,
        "status": "READY",
        "memoryUsage": 0,
        "pid": os.getpid(),
        "gpu": False,
        "gpuUsage": "N/A",
    }
