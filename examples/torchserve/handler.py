"""A handler as many are: JSON to a tensor, the net, the best class as JSON."""

import torch
from torch import Tensor
from ts.torch_handler.base_handler import BaseHandler


class DigitsHandler(BaseHandler):
    """Takes {"pixels": 8 rows of 8 numbers from 0 to 16}."""

    def preprocess(self, data: list[dict]) -> Tensor:  # one entry per request
        """The images, (N, 1, 8, 8), from 0 to 1."""
        images = [request["body"]["pixels"] for request in data]
        return torch.tensor(images, dtype=torch.float32, device=self.device).unsqueeze(1) / 16

    def postprocess(self, data: Tensor) -> list[dict]:
        """The digit of each image, and how sure the net is."""
        best = data.softmax(1).max(1)
        return [
            {"digit": digit, "probability": round(probability, 1)}
            for probability, digit in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]
