"""A class that extends BaseHandler, with a model file and a state_dict."""

import torch
from ts.torch_handler.base_handler import BaseHandler


class Based(BaseHandler):
    """Takes {"x": [...]}, two numbers, and gives three."""

    def preprocess(self, data):
        """(batch, 2)"""
        rows = [row.get("data") or row.get("body") for row in data]
        return torch.tensor([row["x"] for row in rows], dtype=torch.float32)

    def postprocess(self, data):
        """One answer per request, as Python numbers, and the labels of index_to_name.json."""
        labels = (self.mapping or {}).values()
        return [dict(zip(labels, row, strict=True)) for row in data.tolist()]
