"""The base handler's ONNX session, asked as users ask it: its own inference step, the others inherited."""

from typing import Any

import numpy as np
import torch
from ts.torch_handler.base_handler import BaseHandler


class OnnxLine(BaseHandler):
    def inference(self, data, *args, **kwargs):  # noqa: ARG002 - TorchServe's signature
        session: Any = self.model
        (found,) = session.run(None, {"x": np.asarray(data)})
        return torch.from_numpy(found)
