"""The .pt2 format: an exported program of PyTorch's, beside the content id, without code and without paths."""

import json

import numpy as np
import torch

import artifact
from artifact.manifest import read_manifest
from export.build import build_model
from foundation.pt2 import pt2_pickles


def test_it_answers_as_the_model_does(small):
    """Loaded through the artifact, over the whole declared range."""
    folder, exported = small
    folder.plugin("good")
    model = build_model("small", {})
    model.load_state_dict(torch.load(folder.checkpoint, weights_only=True))

    loaded = artifact.load(exported.path, engine="pt2")

    assert loaded.engine.name == "pt2"
    for rows in (1, 2, 5, 8):
        x = np.random.default_rng(rows).uniform(-1, 1, (rows, 4)).astype(np.float32)
        assert np.allclose(loaded.run({"x": x})["y"], model(torch.from_numpy(x)).numpy(), atol=1e-6)


def test_its_golden_cases_replay(small):
    """Its own recorded answers, bit for bit where they are not tiled."""
    _, exported = small

    replayed = artifact.load(exported.path, engine="pt2").replay()

    assert replayed
    assert all(one.passed for one in replayed)
    assert all(one.bit_equal for one in replayed if not one.tiled)


def test_it_is_unstable(small):
    """Its bytes are hashed, under `unstable`, and not part of the content."""
    _, exported = small
    manifest = json.loads((exported.path / "manifest.json").read_bytes())

    assert list(manifest["unstable"]) == ["model.pt2"]
    assert set(manifest["content"]["files"]) == {"model.onnx", "model.pt", "labels.txt"}
    assert read_manifest(exported.path).formats == ("onnx", "torchscript", "pt2")


def test_the_content_id_does_not_depend_on_it(small, work):
    """The same export without it has the same id."""
    _, exported = small
    work.net("good", "small", outputs={"y": {"dtype": "float32", "shape": ["batch", 3], "labels": "names.txt"}})
    work.write("low\nmiddle\nhigh\n", "names.txt")

    assert work.export(formats=("onnx", "torchscript")).content_id == exported.content_id


def test_loading_it_unpickles_tensors_at_most(small):
    """PyTorch unpickles its example inputs without being asked: they are plain tensors, the capture's seeded sample."""
    _, exported = small
    assert pt2_pickles(exported.path / "model.pt2") == ()
    examples = torch.export.load(exported.path / "model.pt2").example_inputs
    assert examples is not None
    arguments, keywords = examples
    assert [tuple(tensor.shape) for tensor in arguments] == [(2, 4)]
    assert keywords == {}


def test_only_pt2(work):
    """It can be the only format."""
    work.net("good", "small")

    exported = work.export(formats=("pt2",))

    assert artifact.load(exported.path).engine.name == "pt2"
    assert work.export(formats=("pt2",)).path == exported.path


def test_sizes_in_multiples_are_let_through(work):
    """Arithmetic of symbols, such as 4 times a step, is what the scan of a program expects."""
    work.net(
        "good",
        "pool",
        inputs={"image": {"dtype": "float32", "shape": ["batch", 1, "height", 8]}},
        dims={"batch": {"min": 1, "max": 3}, "height": {"min": 8, "max": 16, "multiple": 4}},
    )

    exported = work.export(formats=("pt2",))

    assert pt2_pickles(exported.path / "model.pt2") == ()
    assert all(one.passed for one in artifact.load(exported.path, engine="pt2").replay())


def test_a_transformer_over_a_sequence_is_let_through(work):
    """So is BERT's program with any length of text: masks and positions are made of symbols."""
    sizes = {"vocab_size": 20, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    params = {**sizes, "max_position_embeddings": 12}
    work.save(build_model("bert", params).state_dict())
    tokens = {"dtype": "int64", "shape": ["batch", "sequence"]}
    work.write(
        {
            "schema": 1,
            "model": {"name": "bert", "params": params},
            "inputs": {"input_ids": {**tokens, "range": [0, 19]}, "attention_mask": {**tokens, "range": [0, 1]}},
            "dims": {"batch": {"min": 1, "max": 4}, "sequence": {"min": 1, "max": 12}},
            "outputs": {"embedding": {"dtype": "float32", "shape": ["batch", 8]}},
        }
    )

    exported = work.export(formats=("pt2",))

    assert pt2_pickles(exported.path / "model.pt2") == ()
    assert all(one.passed for one in artifact.load(exported.path, engine="pt2").replay())
