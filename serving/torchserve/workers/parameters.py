"""How the workers of one version run."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Parameters:
    """TorchServe's parameters of a model, from the request, its model-config.yaml, or the settings; `threads` None: by the cores.

    `gpu` is False where the model is to stay on the processor; `device_ids` are the GPUs that it may have, all where None.
    """

    min_workers: int = 1
    max_workers: int = 1
    batch_size: int = 1
    max_batch_delay_ms: float = 100
    response_timeout_s: float = 120
    startup_timeout_s: float = 120
    max_retry_timeout_s: float = 300
    client_timeout_ms: float = 0
    job_queue_size: int = 100
    handler: str = ""
    envelope: str = ""
    device_type: str | None = None
    device_ids: tuple[int, ...] | None = None
    use_venv: bool = False
    strict_batch_delay: bool = False
    threads: int | None = None
