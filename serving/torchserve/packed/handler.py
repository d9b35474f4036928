"""The handler in a .mar that `stateserve package mar` writes, for TorchServe's Python worker: behind its own server, or ours.

The artifact and the modules that run it lie beside this file, so that the worker's Python needs NumPy and the artifact's engine
only. A model that fails its checks here is not served: the error ends the worker, and its log says why.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

RUN_PATH = "stateserve_run.zip"
PYTHON = (3, 11)


class StateserveHandler:
    """One model, checked and replayed when TorchServe calls `initialize`, which it does before anything else."""

    def initialize(self, context: Any) -> None:
        """Loads the model on the GPU that TorchServe assigns, or on the CPU, with OMP_NUM_THREADS threads where that is set.

        Raises:
            StateserveError: a file is not what was exported, its golden cases give other numbers here, or there is no engine.
            RuntimeError: the worker's Python is too old.
        """
        if sys.version_info < PYTHON:
            raise RuntimeError(f"this archive needs Python {PYTHON[0]}.{PYTHON[1]} or newer; this is {sys.version.split()[0]}")
        directory = Path(context.system_properties["model_dir"])
        sys.path.insert(0, str(directory / RUN_PATH))
        from serving.torchserve.packed.model import Place, proven, request_of

        model = context.manifest["model"]
        place = Place(directory / model["serializedFile"], context.model_name, int(model["modelVersion"]))
        gpu_id = context.system_properties["gpu_id"]
        threads = os.environ.get("OMP_NUM_THREADS")
        self._request_of = request_of
        self._model = proven(place, "cpu" if gpu_id is None else f"cuda:{gpu_id}", int(threads) if threads else None)

    def handle(self, data: list[dict[str, Any]], context: Any) -> list[bytes]:
        """One answer to each request of a batch, with a status of its own."""
        requests = [self._request_of(row, context.get_all_request_header(index)) for index, row in enumerate(data)]
        request_ids = [context.get_request_id(index) for index in range(len(data))]
        answers = self._model.answers(requests, request_ids)
        for index, answer in enumerate(answers):
            context.set_response_status(code=answer.status, idx=index)
            for name, value in answer.headers:
                context.set_response_header(index, name, value)
        return [answer.body for answer in answers]
