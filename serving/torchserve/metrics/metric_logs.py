"""TorchServe's two files of metrics, ts_metrics.log and model_metrics.log, in its form; without a folder, neither is written."""

import logging
import os
from logging.handlers import RotatingFileHandler
from pathlib import Path

server_log = logging.getLogger("stateserve.ts_metrics")
"""Lines of the server's metrics, where they are logged: TorchServe's ts_metrics.log."""
workers_log = logging.getLogger("stateserve.model_metrics")
"""Lines of the workers' metrics: TorchServe's model_metrics.log."""

MAX_BYTES = 100 << 20
"""Where a file is set aside and a new one begun, as TorchServe does."""
KEPT = 5
"""Files that were set aside and are kept."""


def metrics_directory() -> Path | None:
    """Where the two files go, if the variable `METRICS_LOCATION` says it."""
    said = os.environ.get("METRICS_LOCATION")
    return Path(said) if said else None


class _Line(logging.Formatter):
    default_time_format = "%Y-%m-%dT%H:%M:%S"


def configure(directory: Path | None) -> None:
    """Writes metrics that are logged to files in this folder, or nowhere."""
    for log, name in ((server_log, "ts_metrics.log"), (workers_log, "model_metrics.log")):
        log.propagate = False
        for handler in log.handlers[:]:
            log.removeHandler(handler)
            handler.close()
        log.setLevel(logging.CRITICAL if directory is None else logging.INFO)
        if directory is not None:
            directory.mkdir(parents=True, exist_ok=True)
            handler = RotatingFileHandler(directory / name, maxBytes=MAX_BYTES, backupCount=KEPT, delay=True)
            handler.setFormatter(_Line("%(asctime)s - %(message)s"))
            log.addHandler(handler)
