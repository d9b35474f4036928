"""Its model cannot be loaded: as the first word of `how.txt` says."""

import time
from pathlib import Path


class Failing:
    def initialize(self, context):
        how = Path(context.system_properties["model_dir"], "how.txt").read_text()
        if how == "memory":
            raise MemoryError
        if how == "cuda":
            raise RuntimeError("CUDA out of memory")
        if how == "slow":
            time.sleep(600)
        raise ValueError(how)

    def handle(self, data, context):  # noqa: ARG002 - TorchServe's signature
        return data
