"""The handler of the measured archive, as TorchServe's users write one: 784 numbers in, ten out, as JSON or as float32 bytes."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from ts.torch_handler.base_handler import BaseHandler


class MlpHandler(BaseHandler):
    """A request in bytes is answered in bytes, every other in JSON."""

    def preprocess(self, data: Sequence[Mapping[str, Any]]) -> torch.Tensor:
        """The rows of a batch, (B, 784)."""
        bodies = [row["body"] for row in data]
        self._in_bytes = [isinstance(body, bytes | bytearray) for body in bodies]
        rows = [
            np.frombuffer(body, np.float32) if in_bytes else np.asarray(body, np.float32)
            for body, in_bytes in zip(bodies, self._in_bytes, strict=True)
        ]
        return torch.from_numpy(np.stack(rows)).to(self.device)

    def postprocess(self, data: torch.Tensor) -> list[Any]:
        """One answer for each row."""
        return [row.numpy().tobytes() if in_bytes else row.tolist() for row, in_bytes in zip(data, self._in_bytes, strict=True)]
