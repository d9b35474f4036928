"""The models that are measured on a GPU, each at every precision, and how a server is asked for them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from bench.models import BERT as BERT_ON_CPU
from bench.models import RESNET18, MeasuredModel, bert_weights, resnet18_weights, resnet50_weights

_FORMATS = ("onnx", "torchscript", "pt2")
_PROVEN_ROWS = 8
_NORMALIZE = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
"""Of ImageNet, for pixels of 0 to 1."""


@dataclass(frozen=True, slots=True)
class GpuModel:
    """A model without its precision. `loads` are pairs: rows of one request, and connections that each wait for an answer."""

    key: str
    measured: MeasuredModel
    loads: Sequence[tuple[int, int]]
    served: str = field(default="float16", kw_only=True)

    @property
    def title(self) -> str:
        """What it is called on the page."""
        return self.measured.title

    def at(self, precision: str) -> MeasuredModel:
        """The model as it is exported to compute in this precision, under a name of its own.

        Only the one that is served takes large batches: on a CPU their proof takes longer than all else together.
        """
        name, config = f"{self.key}-{precision}", {**self.measured.config, "precision": precision}
        if precision != self.served:
            config["dims"] = {"batch": {"min": 1, "max": min(_PROVEN_ROWS, config["dims"]["batch"]["max"])}}
        return replace(self.measured, name=name, config={**config, "name": name})


def _image_config(model: str, size: int, most_rows: int) -> Mapping[str, Any]:
    """Images come as bytes, and are scaled and normalised in the graph: on the device."""
    return {
        **RESNET18.config,
        "model": {"name": model, "params": {"num_classes": 1000, "normalize": _NORMALIZE}},
        "inputs": {"image": {"dtype": "uint8", "shape": ["batch", 3, size, size], "range": [0, 255]}},
        "dims": {"batch": {"min": 1, "max": most_rows}},
        "formats": list(_FORMATS),
    }


def _text_config(most_rows: int) -> Mapping[str, Any]:
    return {**BERT_ON_CPU.config, "dims": {"batch": {"min": 1, "max": most_rows}}, "formats": list(_FORMATS)}


def _tiny_text_config() -> Mapping[str, Any]:
    params = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 128}
    inputs = {name: {**spec, "shape": ["batch", 16]} for name, spec in BERT_ON_CPU.config["inputs"].items()}
    outputs = {"embedding": {"dtype": "float32", "shape": ["batch", 32]}}
    return {**_text_config(4), "model": {"name": "bert", "params": params}, "inputs": inputs, "outputs": outputs}


RESNET50 = GpuModel(
    "resnet50",
    MeasuredModel("resnet50", "ResNet-50 at 224², uint8", _image_config("resnet50", 224, 64), resnet50_weights),
    ((8, 16), (4, 32), (1, 128), (16, 8), (1, 64)),
)
BERT = GpuModel(
    "bert",
    replace(BERT_ON_CPU, config=_text_config(64)),
    ((16, 32), (8, 64), (32, 16), (1, 128), (8, 16)),
)
IMAGES = GpuModel(
    "images",
    MeasuredModel("resnet18", "ResNet-18 at 32², uint8", _image_config("resnet18", 32, 4), resnet18_weights),
    ((1, 4), (2, 2)),
)
TINY_BERT = GpuModel(
    "tiny-bert",
    MeasuredModel("bert", "BERT encoder 1x32, 16 tokens", _tiny_text_config(), partial(bert_weights, layers=1, width=32)),
    ((1, 4),),
)
