"""What the server and its models say of themselves: server metadata, model metadata, and Triton's model configuration.

Sources: the Open Inference Protocol v2, and the `ModelConfig` message of Triton, whose JSON perf_analyzer and tritonclient read.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from artifact.engines import MODEL_FILES
from artifact.manifest import Manifest
from artifact.operations import Operations
from artifact.signature import Signature, TensorSpec
from serving.protocols.tensors import DATATYPES

EXTENSIONS = (
    "classification",
    "model_repository",
    "model_repository(unload_dependents)",
    "schedule_policy",
    "model_configuration",
    "statistics",
    "binary_tensor_data",
)
"""The extensions that we speak, under the names that Triton gives them."""

PLATFORMS: Mapping[str, str] = {
    "onnx": "onnx_onnxv1",
    "torchscript": "pytorch_torchscript",
    "pt2": "pytorch_exported_program",
}
"""Engine -> platform: `<project>_<format>`, as the protocol has it."""

BACKENDS: Mapping[str, str] = {"onnx": "onnxruntime", "torchscript": "pytorch", "pt2": "pytorch"}
"""Engine -> the library that runs it, under the name of Triton's backend."""


@dataclass(frozen=True, slots=True)
class Batching:
    """How a version joins requests: what is in force, and not what was set. Rows of one call, and rows that may wait.

    There are so many `instances` on each of the `devices`.
    """

    max_rows: int
    max_queue_rows: int
    instances: int = 1
    devices: Sequence[str] = ("cpu",)
    preferred_rows: Sequence[int] = ()
    max_delay_ms: float = 0.0
    priority_levels: int = 3
    default_priority: int = 2
    default_timeout_s: float | None = None
    version_policy: str = "latest:1"


def server_metadata(version: str) -> dict[str, Any]:
    """The answer to GET /v2; `version` is Stateserve's own."""
    return {"name": "stateserve", "version": version, "extensions": list(EXTENSIONS)}


def model_metadata(
    name: str, versions: Sequence[int], signature: Signature, engine_name: str, properties: Mapping[str, str]
) -> dict[str, Any]:
    """The answer to GET /v2/models/{name}; a dimension that may vary is -1."""
    return {
        "name": name,
        "versions": [str(version) for version in versions],
        "platform": PLATFORMS[engine_name],
        "inputs": [_tensor(spec) for spec in signature.inputs],
        "outputs": [_tensor(spec) for spec in signature.outputs],
        "properties": dict(properties),
    }


def raw_metadata(operations: Operations | None) -> dict[str, Any]:
    """What model metadata says besides where operations are declared: the raw inputs, `preprocess` and `postprocess`."""
    if operations is None:
        return {}
    return {"raw_inputs": [spec.to_json() for spec in operations.raw_inputs], **operations.chains.to_json()}


def model_properties(manifest: Manifest, version_labels: Mapping[str, int]) -> dict[str, str]:
    """What the protocol has no field for, as text for people: the content id, sizes, ranges of values, labels of versions."""
    signature = manifest.signature
    return {
        "content_id": manifest.content_id,
        "formats": ", ".join(manifest.formats),
        **{f"dim.{name}": str(dim) for name, dim in signature.dims.items()},
        **{f"range.{spec.name}": f"{spec.range[0]} to {spec.range[1]}" for spec in signature.inputs if spec.range is not None},
        **{f"labels.{spec.name}": spec.labels for spec in signature.outputs if spec.labels is not None},
        **{f"version_label.{label}": str(version) for label, version in version_labels.items()},
    }


def model_config(
    name: str, signature: Signature, engine_name: str, batching: Batching, parameters: Mapping[str, str]
) -> dict[str, Any]:
    """The answer to GET /v2/models/{name}/config.

    `max_batch_size` is 0 where the signature has no batch dimension; where it has one, `dims` leave it out. `max_queue_size` is
    in rows, of which every request has one at least.
    """
    batch_dim = signature.batch_dim
    config = {
        "name": name,
        "platform": PLATFORMS[engine_name],
        "backend": BACKENDS[engine_name],
        "version_policy": _version_policy(batching.version_policy),
        "max_batch_size": 0 if batch_dim is None else batching.max_rows,
        "input": [_config_tensor(spec, batch_dim) for spec in signature.inputs],
        "output": [{**_config_tensor(spec, batch_dim), "label_filename": spec.labels or ""} for spec in signature.outputs],
        "instance_group": [_instance_group(name, batching)],
        "default_model_filename": MODEL_FILES[engine_name],
        "model_transaction_policy": {"decoupled": False},
        "parameters": {key: {"string_value": value} for key, value in parameters.items()},
    }
    if batch_dim is not None:
        config["dynamic_batching"] = _dynamic_batching(batching)
    return config


def signature_text(signature: Signature) -> str:
    """The whole signature for programs, which `model_metadata` tells people only: JSON, as the manifest has it."""
    return orjson.dumps(signature.to_json()).decode()


def labels_text(labels: Mapping[str, Sequence[str]]) -> str:
    """The names of classes by output, for programs: JSON."""
    return orjson.dumps(labels).decode()


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": DATATYPES[spec.dtype], "shape": _sizes(spec.shape)}


def _config_tensor(spec: TensorSpec, batch_dim: str | None) -> dict[str, Any]:
    dims = spec.shape if batch_dim is None else spec.shape[1:]
    return {"name": spec.name, "data_type": f"TYPE_{DATATYPES[spec.dtype]}", "dims": _sizes(dims)}


def _sizes(shape: Sequence[int | str]) -> list[int]:
    return [-1 if isinstance(dim, str) else dim for dim in shape]


def _version_policy(policy: str) -> dict[str, Any]:
    """Triton's form of `latest:N`, `all` and `versions:1,3`."""
    kind, _, numbers = policy.partition(":")
    if kind == "latest":
        return {"latest": {"num_versions": int(numbers)}}
    if kind == "versions":
        return {"specific": {"versions": [int(number) for number in numbers.split(",")]}}
    return {"all": {}}


def _instance_group(name: str, batching: Batching) -> dict[str, Any]:
    gpus = [int(number) for kind, _, number in (device.partition(":") for device in batching.devices) if kind == "cuda"]
    group = {"name": f"{name}_0", "kind": "KIND_GPU" if gpus else "KIND_CPU", "count": batching.instances}
    return {**group, "gpus": gpus} if gpus else group


def _dynamic_batching(batching: Batching) -> dict[str, Any]:
    return {
        "preferred_batch_size": list(batching.preferred_rows),
        "max_queue_delay_microseconds": round(batching.max_delay_ms * 1e3),
        "preserve_ordering": False,
        "priority_levels": batching.priority_levels,
        "default_priority_level": batching.default_priority,
        "default_queue_policy": {
            "timeout_action": "REJECT",
            "default_timeout_microseconds": round((batching.default_timeout_s or 0) * 1e6),
            "allow_timeout_override": True,
            "max_queue_size": batching.max_queue_rows,
        },
    }
