"""What the server and its models say of themselves is what Triton's clients read."""

import dataclasses
import json

import pytest

from artifact.manifest import FileEntry, Manifest
from artifact.signature import Dim, Signature, TensorSpec
from serving.protocols.metadata import (
    BACKENDS,
    PLATFORMS,
    Batching,
    model_config,
    model_metadata,
    model_properties,
    server_metadata,
    signature_text,
)

IMAGES = Signature(
    inputs=(TensorSpec("image", "float32", ("batch", 3, "side", "side"), (-3, 3)),),
    outputs=(TensorSpec("logits", "float16", ("batch", 10), labels="labels.txt"), TensorSpec("best", "int64", ("batch",))),
    dims={"batch": Dim(1, 16, opt=8), "side": Dim(64, 256, multiple=32)},
)
COUNTING = Signature((TensorSpec("rounds", "int64", (1,), (0, 9)),), (TensorSpec("odd", "bool", ()),))
BATCHING = Batching(max_rows=16, max_queue_rows=128)


def test_server_metadata():
    """The extensions have the names that Triton gives them; perf_analyzer looks for `statistics` among them."""
    assert server_metadata("1.2.3") == {
        "name": "stateserve",
        "version": "1.2.3",
        "extensions": [
            "classification",
            "model_repository",
            "model_repository(unload_dependents)",
            "schedule_policy",
            "model_configuration",
            "statistics",
            "binary_tensor_data",
        ],
    }


def test_model_metadata():
    """Versions are strings, and a dimension that may vary is -1."""
    assert model_metadata("resnet", [1, 12], IMAGES, "onnx", {"content_id": "ab"}) == {
        "name": "resnet",
        "versions": ["1", "12"],
        "platform": "onnx_onnxv1",
        "inputs": [{"name": "image", "datatype": "FP32", "shape": [-1, 3, -1, -1]}],
        "outputs": [
            {"name": "logits", "datatype": "FP16", "shape": [-1, 10]},
            {"name": "best", "datatype": "INT64", "shape": [-1]},
        ],
        "properties": {"content_id": "ab"},
    }


def test_model_properties():
    """What the protocol has no field for is told as text, under names that sort together."""
    made = Manifest(IMAGES, {}, "0" * 64, {"model.onnx": FileEntry("1" * 64, 1), "model.pt": FileEntry("2" * 64, 1)}, {})

    assert model_properties(made, {"stable": 3}) == {
        "content_id": made.content_id,
        "formats": "onnx, torchscript",
        "dim.batch": "1 to 16",
        "dim.side": "64 to 256 in multiples of 32",
        "range.image": "-3 to 3",
        "labels.logits": "labels.txt",
        "version_label.stable": "3",
    }


@pytest.mark.parametrize("signature", [IMAGES, COUNTING])
def test_signature_text(signature):
    """Programs read the whole signature out of it: ranges, and the sizes that a named dimension may have."""
    assert Signature.from_json(json.loads(signature_text(signature))) == signature


def test_model_config():
    """Where rows are joined, `dims` leave the batch dimension out and the batcher's limits are shown."""
    batching = dataclasses.replace(BATCHING, preferred_rows=(8, 16), max_delay_ms=1.5, default_timeout_s=2.0, instances=2)

    assert model_config("resnet", IMAGES, "torchscript", batching, {"content_id": "ab"}) == {
        "name": "resnet",
        "platform": "pytorch_torchscript",
        "backend": "pytorch",
        "version_policy": {"latest": {"num_versions": 1}},
        "max_batch_size": 16,
        "input": [{"name": "image", "data_type": "TYPE_FP32", "dims": [3, -1, -1]}],
        "output": [
            {"name": "logits", "data_type": "TYPE_FP16", "dims": [10], "label_filename": "labels.txt"},
            {"name": "best", "data_type": "TYPE_INT64", "dims": [], "label_filename": ""},
        ],
        "instance_group": [{"name": "resnet_0", "kind": "KIND_CPU", "count": 2}],
        "default_model_filename": "model.pt",
        "model_transaction_policy": {"decoupled": False},
        "parameters": {"content_id": {"string_value": "ab"}},
        "dynamic_batching": {
            "preferred_batch_size": [8, 16],
            "max_queue_delay_microseconds": 1500,
            "preserve_ordering": False,
            "priority_levels": 3,
            "default_priority_level": 2,
            "default_queue_policy": {
                "timeout_action": "REJECT",
                "default_timeout_microseconds": 2000000,
                "allow_timeout_override": True,
                "max_queue_size": 128,
            },
        },
    }


def test_without_a_batch_dimension():
    """`max_batch_size` 0 says that a request is a whole; its `dims` are the whole shape, and nothing is batched."""
    config = model_config("counting", COUNTING, "pt2", BATCHING, {})

    assert config["max_batch_size"] == 0
    assert config["input"] == [{"name": "rounds", "data_type": "TYPE_INT64", "dims": [1]}]
    assert config["output"] == [{"name": "odd", "data_type": "TYPE_BOOL", "dims": [], "label_filename": ""}]
    assert "dynamic_batching" not in config


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("latest:2", {"latest": {"num_versions": 2}}),
        ("all", {"all": {}}),
        ("versions:1,3", {"specific": {"versions": [1, 3]}}),
    ],
)
def test_version_policy(policy, expected):
    """Our three version policies are Triton's three."""
    config = model_config("counting", COUNTING, "onnx", dataclasses.replace(BATCHING, version_policy=policy), {})

    assert config["version_policy"] == expected


def test_every_engine():
    """Every engine of ours has a platform and a backend."""
    from artifact.engines import LOADERS

    assert PLATFORMS.keys() == BACKENDS.keys() == LOADERS.keys()
