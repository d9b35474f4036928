"""The models that are measured: made-up weights under the keys of `model_defs`, and artifacts by the real export."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from artifact import Signature
from artifact.signature import BATCH, DTYPES
from bench.processes import run_module

Weights = dict[str, np.ndarray]

_EXPORT_TIMEOUT_S = 600
_SEED = 0


@dataclass(frozen=True, slots=True)
class MeasuredModel:
    """A model as its YAML describes it, and a function that makes weights up."""

    name: str
    title: str
    config: Mapping[str, Any]
    weights: Callable[[np.random.Generator], Weights]


def export_model(model: MeasuredModel, directory: Path) -> Path:
    """The artifact of a model, in a repository of its own: `<directory>/<name>/<name>/1`.

    Raises:
        ProcessFailed: the export failed.
    """
    repository = directory / model.name
    checkpoint = directory / f"{model.name}.safetensors"
    save_file(model.weights(np.random.default_rng(_SEED)), checkpoint)
    checkpoint.with_suffix(".yaml").write_text(json.dumps(model.config))  # JSON is YAML
    flags = ["--ckpt", str(checkpoint), "--repository", str(repository)]
    return Path(run_module("export", *flags, timeout_s=_EXPORT_TIMEOUT_S))


def made_up_inputs(signature: Signature, rows: int) -> dict[str, np.ndarray]:
    """Inputs within the declared ranges, the same on every call; the batch is the only dimension that may be named."""
    generator = np.random.default_rng(_SEED)
    inputs = {}
    for spec in signature.inputs:
        low, high = spec.range or (0.0, 1.0)
        inputs[spec.name] = generator.uniform(low, high, spec.concrete({BATCH: rows})).astype(DTYPES[spec.dtype])
    return inputs


def _mlp_weights(generator: np.random.Generator) -> Weights:
    return _linear(generator, "layers.0", 784, 128) | _linear(generator, "layers.2", 128, 10)


def resnet18_weights(generator: np.random.Generator) -> Weights:
    """Made-up weights of `model_defs`' resnet18 with 1000 classes."""
    weights = _convolution(generator, "conv1", 3, 64, 7) | _batch_norm("bn1", 64)
    width = 64
    for stage, wider in enumerate((64, 128, 256, 512), start=1):
        for block in range(2):
            here = f"layer{stage}.{block}"
            weights |= _convolution(generator, f"{here}.conv1", width, wider, 3) | _batch_norm(f"{here}.bn1", wider)
            weights |= _convolution(generator, f"{here}.conv2", wider, wider, 3) | _batch_norm(f"{here}.bn2", wider)
            if width != wider:
                weights |= _convolution(generator, f"{here}.downsample.0", width, wider, 1)
                weights |= _batch_norm(f"{here}.downsample.1", wider)
            width = wider
    return weights | _linear(generator, "fc", 512, 1000)


def resnet50_weights(generator: np.random.Generator) -> Weights:
    """Made-up weights of `model_defs`' resnet50 with 1000 classes; a block adds half of what an equal variance would be.

    Sixteen blocks whose parts are added to their inputs make the numbers larger and larger where nothing was trained: too large
    for float16.
    """
    weights = _convolution(generator, "conv1", 3, 64, 7) | _batch_norm("bn1", 64)
    width = 64
    for stage, (depth, narrow) in enumerate(((3, 64), (4, 128), (6, 256), (3, 512)), start=1):
        for block in range(depth):
            here = f"layer{stage}.{block}"
            weights |= _convolution(generator, f"{here}.conv1", width, narrow, 1) | _batch_norm(f"{here}.bn1", narrow)
            weights |= _convolution(generator, f"{here}.conv2", narrow, narrow, 3) | _batch_norm(f"{here}.bn2", narrow)
            weights |= _convolution(generator, f"{here}.conv3", narrow, 4 * narrow, 1) | _batch_norm(f"{here}.bn3", 4 * narrow)
            weights[f"{here}.bn3.weight"] *= np.float32(0.5)
            if block == 0:
                weights |= _convolution(generator, f"{here}.downsample.0", width, 4 * narrow, 1)
                weights |= _batch_norm(f"{here}.downsample.1", 4 * narrow)
            width = 4 * narrow
    return weights | _linear(generator, "fc", 2048, 1000)


def bert_weights(generator: np.random.Generator, layers: int = 6, width: int = 384) -> Weights:
    """Made-up weights of `model_defs`' bert with so many layers, `width` features and four times as many between them."""
    here = "embeddings"
    weights = _embedding(generator, f"{here}.word_embeddings", 30522, width)
    weights |= _embedding(generator, f"{here}.position_embeddings", 512, width)
    weights |= _embedding(generator, f"{here}.token_type_embeddings", 2, width) | _layer_norm(f"{here}.LayerNorm", width)
    for number in range(layers):
        here = f"encoder.layer.{number}"
        for name in ("query", "key", "value"):
            weights |= _linear(generator, f"{here}.attention.self.{name}", width, width)
        weights |= _linear(generator, f"{here}.attention.output.dense", width, width)
        weights |= _linear(generator, f"{here}.intermediate.dense", width, 4 * width)
        weights |= _linear(generator, f"{here}.output.dense", 4 * width, width)
        weights |= _layer_norm(f"{here}.attention.output.LayerNorm", width) | _layer_norm(f"{here}.output.LayerNorm", width)
    return weights


def _linear(generator: np.random.Generator, name: str, inputs: int, outputs: int) -> Weights:
    weight = generator.standard_normal((outputs, inputs), np.float32) / np.float32(inputs**0.5)
    return {f"{name}.weight": weight, f"{name}.bias": np.zeros(outputs, np.float32)}


def _convolution(generator: np.random.Generator, name: str, inputs: int, outputs: int, size: int) -> Weights:
    scale = np.float32((2 / (inputs * size * size)) ** 0.5)
    return {f"{name}.weight": generator.standard_normal((outputs, inputs, size, size), np.float32) * scale}


def _batch_norm(name: str, channels: int) -> Weights:
    ones, zeros = np.ones(channels, np.float32), np.zeros(channels, np.float32)
    statistics = {f"{name}.running_mean": zeros, f"{name}.running_var": ones, f"{name}.num_batches_tracked": np.array(0)}
    return {f"{name}.weight": ones, f"{name}.bias": zeros, **statistics}


def _embedding(generator: np.random.Generator, name: str, entries: int, width: int) -> Weights:
    return {f"{name}.weight": generator.standard_normal((entries, width), np.float32) * np.float32(0.02)}


def _layer_norm(name: str, width: int) -> Weights:
    return {f"{name}.weight": np.ones(width, np.float32), f"{name}.bias": np.zeros(width, np.float32)}


MLP = MeasuredModel(
    "mlp",
    "MLP 784-128-10",
    {
        "schema": 1,
        "model": {"name": "mlp", "params": {"in_features": 784, "hidden": [128], "out_features": 10}},
        "inputs": {"x": {"dtype": "float32", "shape": ["batch", 784], "range": [0, 1]}},
        "dims": {"batch": {"min": 1, "max": 64}},
        "outputs": {"logits": {"dtype": "float32", "shape": ["batch", 10]}},
        "formats": ["onnx", "torchscript"],
    },
    _mlp_weights,
)

RESNET18 = MeasuredModel(
    "resnet18",
    "ResNet-18 at 224²",
    {
        "schema": 1,
        "model": {"name": "resnet18", "params": {"num_classes": 1000}},
        "inputs": {"image": {"dtype": "float32", "shape": ["batch", 3, 224, 224], "range": [-3, 3]}},
        "dims": {"batch": {"min": 1, "max": 16}},
        "outputs": {"logits": {"dtype": "float32", "shape": ["batch", 1000]}},
        "formats": ["onnx"],
    },
    resnet18_weights,
)

PICTURES = MeasuredModel(
    "resnet18-pictures",
    "ResNet-18 at 224², from JPEG files",
    {
        **RESNET18.config,
        "name": "resnet18-pictures",
        "preprocess": [
            {"decode": {"mode": "RGB"}},
            {"resize": {"short": 256}},
            {"center_crop": {"size": 224}},
            {"to_float": {"scale": 1 / 255}},
            {"normalize": {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}},
        ],
        "postprocess": [{"softmax": {"axis": -1}}, {"topk": {"k": 5}}],
    },
    resnet18_weights,
)

BERT = MeasuredModel(
    "bert",
    "BERT encoder 6x384, 128 tokens",
    {
        "schema": 1,
        "model": {
            "name": "bert",
            "params": {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536},
        },
        "inputs": {
            "input_ids": {"dtype": "int64", "shape": ["batch", 128], "range": [0, 30521]},
            "attention_mask": {"dtype": "int64", "shape": ["batch", 128], "range": [0, 1]},
        },
        "dims": {"batch": {"min": 1, "max": 16}},
        "outputs": {"embedding": {"dtype": "float32", "shape": ["batch", 384]}},
        "formats": ["onnx", "torchscript"],
    },
    bert_weights,
)

ALL = (MLP, RESNET18, BERT)
