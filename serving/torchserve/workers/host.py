"""What all workers of a server share: where their sockets are, their numbers, their environment, their GPUs and their cores."""

import importlib.util
import itertools
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from foundation.environment import cores
from serving.errors import ServingError
from serving.torchserve.archives.mar import Mar
from serving.torchserve.registry.unpacked import UnpackedFolder
from serving.torchserve.workers.parameters import Parameters
from serving.torchserve.workers.worker import WorkerMetrics

if TYPE_CHECKING:
    from serving.settings import Settings

CHILD = Path(__file__).with_name("child") / "__main__.py"
"""The program that becomes TorchServe's worker."""

_MAX_FOLDER_BYTES = 88
"""A Unix socket's whole path may have 103 bytes (macOS; 107 on Linux)."""
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
_HIDDEN = re.compile(r"STATESERVE_.*|TS_KEYSTORE_PASS|PYTHONHOME|PYTHONSAFEPATH")
"""Variables of ours: settings, secrets among them, and what would change where a worker finds its modules."""


class WorkersMissing(ServingError):
    """TorchServe's worker is not installed."""

    status: ClassVar[int] = 500


@dataclass(eq=False)
class WorkerHost:
    """What workers need of their server. `command` is what a worker is started with, before its own arguments; `gpus`, how many.

    `sockets` is a folder of its own, for its owner alone, with a short path (see `socket_folder`); `close` removes it.
    """

    sockets: UnpackedFolder
    metrics: WorkerMetrics
    metrics_config: Path
    command: tuple[str, ...] = ()
    python: str = sys.executable
    first_id: int = 9000
    gpus: int = 0
    max_response_bytes: int = 6553500
    limit_max_image_pixels: bool = True
    decode_input_request: bool = True
    install_requirements: bool = False
    hidden_variables: str | None = None
    variables: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    workers: int = 0
    """How many there are, on all models, those that still start included."""

    def __post_init__(self) -> None:
        self._ids: Iterator[int] = itertools.count(self.first_id)
        self._gpu_turns: Iterator[int] = itertools.count()

    def next_id(self) -> int:
        """The number of the next worker, which also ends its socket's name."""
        return next(self._ids)

    def next_gpu(self, parameters: Parameters, turn: int) -> int:
        """The GPU of a model's next worker, its `turn`-th: -1 where it has none."""
        if parameters.device_type == "cpu" or not self.gpus:
            return -1
        if parameters.device_ids:
            return parameters.device_ids[turn % len(parameters.device_ids)]
        return next(self._gpu_turns) % self.gpus

    def worker_command(self, python: str, socket: Path) -> Sequence[str]:
        """What starts a worker that listens at `socket`."""
        command = self.command or (python, str(CHILD))
        return (
            *command,
            str(os.getpid()),
            *("--sock-type", "unix", "--sock-name", str(socket), "--metrics-config", str(self.metrics_config)),
        )

    def environment(self, mar: Mar, threads: int | None = None) -> dict[str, str]:
        """The variables of a model's processes: the server's, but for those that are hidden, and as TorchServe adds to them.

        Unless `threads` are given, or the user's own variables say otherwise, the workers share the cores.
        """
        hidden = re.compile(self.hidden_variables) if self.hidden_variables else None
        kept = {
            name: value
            for name, value in self.variables.items()
            if not _HIDDEN.fullmatch(name) and not (hidden and hidden.fullmatch(name))
        }
        paths = [str(mar.directory), *([kept["PYTHONPATH"]] if kept.get("PYTHONPATH") else [])]
        kept["PYTHONPATH"] = os.pathsep.join(paths)
        kept["TS_DECODE_INPUT_REQUEST"] = str(self.decode_input_request).lower()
        share = str(threads or max(1, cores() // max(1, self.workers)))
        for name in _THREADS:
            if threads is not None or name not in self.variables:
                kept[name] = share
        return kept

    def close(self) -> None:
        """Removes the folder of sockets. No worker runs any more."""
        self.sockets.remove()


def worker_host(settings: "Settings", metrics: WorkerMetrics) -> WorkerHost:
    """What a server with these settings lends its workers. Raises WorkersMissing if TorchServe's worker is not installed."""
    package = torchserve_folder()
    return WorkerHost(
        sockets=socket_folder(),
        metrics=metrics,
        metrics_config=settings.metrics_config or package / "configs" / "metrics.yaml",
        first_id=settings.initial_worker_port,
        gpus=found_gpus() if settings.number_of_gpu is None else min(settings.number_of_gpu, found_gpus()),
        max_response_bytes=settings.max_response_size,
        limit_max_image_pixels=settings.limit_max_image_pixels,
        decode_input_request=settings.decode_input_request,
        install_requirements=settings.install_py_dep_per_model,
        hidden_variables=settings.blacklist_env_vars,
    )


def torchserve_folder() -> Path:
    """The folder of the package `ts`.

    Raises:
        WorkersMissing: it is not installed.
    """
    spec = importlib.util.find_spec("ts")
    if spec is None or spec.origin is None:
        raise WorkersMissing("models of TorchServe need its Python worker: pip install 'stateserve[torchserve]'")
    return Path(spec.origin).parent


def socket_folder() -> UnpackedFolder:
    """A new folder for sockets; where the usual place has too long a path, it is below /tmp."""
    folder = UnpackedFolder()
    if len(os.fsencode(folder.path)) <= _MAX_FOLDER_BYTES:
        return folder
    folder.remove()
    return UnpackedFolder(Path("/tmp"))  # noqa: S108 - a folder for its owner alone is made there


def found_gpus() -> int:
    """How many NVIDIA GPUs workers can see."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([name for name in visible.split(",") if name.strip() not in {"", "-1"}])
    return len([entry for entry in Path("/dev").glob("nvidia[0-9]*") if entry.name.removeprefix("nvidia").isdigit()])
