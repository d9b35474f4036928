"""Every layout that training scripts save is taken apart into weight sets, provenance and config."""

import argparse
import collections
import datetime as dt
import json
import pathlib

import numpy as np
import pytest
import torch

from checkpoints import AmbiguousWeights, KeysDoNotMatch, UnreadableCheckpoint, read


@pytest.fixture
def weights():
    torch.manual_seed(0)
    return torch.nn.Linear(3, 2).state_dict()


@pytest.fixture
def saved(tmp_path):
    def save(value, name="best.pth"):
        torch.save(value, tmp_path / name)
        return tmp_path / name

    return save


def test_a_training_checkpoint(saved, weights):
    """The usual dictionary gives its weights, its scalars as Python values, and its config."""
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))])
    checkpoint = read(
        saved(
            {
                "epoch": 37,
                "model_state_dict": weights,
                "optimizer_state_dict": optimizer.state_dict(),
                "loss": torch.tensor(0.25),
                "best_acc": np.float64(0.912),
                "config": {"lr": 1e-3, "widths": (64, 64)},
            }
        )
    )

    assert checkpoint.layout == "training"
    assert list(checkpoint.weight_sets) == ["model_state_dict"]
    assert checkpoint.provenance == {"epoch": 37, "loss": 0.25, "best_acc": 0.912}
    assert checkpoint.config == {"lr": 1e-3, "widths": [64, 64]}
    (notice,) = checkpoint.notices
    assert notice == (
        'best.pth is a training checkpoint: epoch 37, loss 0.25, best_acc 0.912; weights under "model_state_dict" '
        "(2 tensors, 32 bytes). Using it."
    )
    assert checkpoint.select(None).name == "model_state_dict"


def test_everything_plain_is_json(saved, weights):
    """Arguments, paths, times, sets and NumPy values become what JSON can hold."""
    checkpoint = read(
        saved(
            {
                "model": weights,
                "args": argparse.Namespace(data=pathlib.PurePosixPath("/data"), tags={"b", "a"}, lr=np.float32(0.5), none=None),
                "when": dt.datetime(2026, 1, 2, 3, 4, tzinfo=dt.UTC),
                "history": collections.defaultdict(list, acc=[np.float64(0.5), float("nan")]),
                "mean": np.array([0.5, 0.25]),
                "dtype": torch.float16,
                "blob": b"abc",
            }
        )
    )

    assert json.loads(json.dumps([checkpoint.config, checkpoint.provenance])) == [
        {"data": "/data", "tags": ["a", "b"], "lr": 0.5, "none": None},
        {
            "when": "2026-01-02T03:04:00+00:00",
            "history": {"acc": [0.5, "nan"]},
            "mean": [0.5, 0.25],
            "dtype": "torch.float16",
            "blob": "abc",
        },
    ]


def test_two_sets_must_be_chosen_from(saved, weights):
    """With raw and averaged weights in one file, the person says which; the message has their difference."""
    averaged = {key: value + 0.031 for key, value in weights.items()}
    checkpoint = read(saved({"epoch": 3, "arch": "resnet18", "state_dict": weights, "state_dict_ema": averaged}))

    with pytest.raises(AmbiguousWeights) as caught:
        checkpoint.select(None)

    assert str(caught.value) == (
        'Two weight sets: "state_dict" and "state_dict_ema" (max diff 3.1e-2). Say which: --weights state_dict|state_dict_ema'
    )
    assert torch.equal(checkpoint.select("state_dict_ema").tensors["bias"], averaged["bias"])
    assert checkpoint.layout == "timm"


def test_an_unknown_set_is_named_with_those_there_are(saved, weights):
    """Asking for a set that is not there names those that are, and the nearest."""
    checkpoint = read(saved({"params": weights, "params_ema": weights}))
    bare = read(saved(weights, "bare.pth"))

    with pytest.raises(KeysDoNotMatch) as caught:
        checkpoint.select("param_ema")
    with pytest.raises(KeysDoNotMatch) as caught_bare:
        bare.select("state_dict")

    assert str(caught.value) == (
        'best.pth has no weight set "param_ema". It has "params", "params_ema". The nearest name is "params_ema".'
    )
    assert str(caught_bare.value) == (
        'bare.pth has no weight set "state_dict": it is a bare state_dict, so no name is needed. Leave --weights out.'
    )


@pytest.mark.parametrize(
    ("extra", "difference"),
    [
        ({}, "no difference"),
        ({"more": torch.zeros(1)}, "different keys"),
        ({"bias": torch.zeros(5)}, "different shapes"),
        ({"bias": torch.full((2,), float("nan"))}, "max diff not finite"),
    ],
)
def test_differences_between_sets(saved, weights, extra, difference):
    """Sets that are equal, or cannot be compared, are said to be so."""
    checkpoint = read(saved({"teacher": weights, "student": {**weights, **extra}}))

    with pytest.raises(AmbiguousWeights, match=f'"teacher" and "student" \\({difference}\\)'):
        checkpoint.select(None)


def test_three_sets(saved, weights):
    """More than two sets are compared with the first."""
    checkpoint = read(saved({"g_ema": weights, "generator": weights, "discriminator": {"w": torch.zeros(1)}}))

    with pytest.raises(AmbiguousWeights) as caught:
        checkpoint.select(None)

    assert str(caught.value) == (
        '3 weight sets: "g_ema", and beside it "generator" (no difference), "discriminator" (different keys). '
        "Say which: --weights g_ema|generator|discriminator"
    )


LAYOUTS = {
    "lightning": lambda w: {
        "state_dict": w,
        "pytorch-lightning_version": "2.5.0",
        "hyper_parameters": {"lr": 1},
        "callbacks": {"c": 1},
    },
    "torchvision": lambda w: {
        "model": w,
        "optimizer": {"state": {}},
        "lr_scheduler": {},
        "args": argparse.Namespace(),
        "epoch": 1,
    },
    "generative": lambda w: {"params": w},
    "self-distillation": lambda w: {"teacher": w, "student": w},
    "deepspeed": lambda w: {"module": w, "ds_version": "0.15", "param_shapes": {"w": torch.Size([1])}},
    "training": lambda w: {"ema": {"decay": 0.99, "shadow": w}},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(saved, weights, layout):
    """Each known layout is named."""
    assert read(saved(LAYOUTS[layout](weights))).layout == layout


def test_sets_one_level_down(saved, weights):
    """Weights in a dictionary of a dictionary are found under both names."""
    assert list(read(saved(LAYOUTS["training"](weights))).weight_sets) == ["ema.shadow"]


def test_deepspeed_says_where_the_other_weights_are(saved, weights):
    """DeepSpeed's model file holds the weights it computes with; the notice names the script for the others."""
    assert "zero_to_fp32.py" in read(saved(LAYOUTS["deepspeed"](weights))).notices[1]


def test_scalars_beside_bare_weights(saved, weights):
    """A state_dict with a few scalars among the tensors is a bare one with provenance."""
    checkpoint = read(saved({**weights, "epoch": 3}))

    assert (checkpoint.layout, checkpoint.provenance) == ("bare", {"epoch": 3})
    assert checkpoint.select(None).tensors.keys() == weights.keys()


def test_extra_state_is_left_out_with_a_notice(saved, weights):
    """A module's extra state that is no tensor is not a weight."""
    checkpoint = read(saved({**weights, "fc._extra_state": None}))

    assert checkpoint.select(None).tensors.keys() == weights.keys()
    assert checkpoint.notices == ("fc._extra_state was left out: it is a module's extra state, not a tensor.",)


def test_random_states_are_no_weights(saved, weights):
    """The state of random generators is tensors too, and not a weight set."""
    checkpoint = read(saved({"model": weights, "rng_state": {"cpu": torch.get_rng_state()}}))

    assert list(checkpoint.weight_sets) == ["model"]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([torch.zeros(1)], "best.pth holds a list, not a state_dict. Save model.state_dict()."),
        ({}, "best.pth holds an empty dictionary, no weights. Save model.state_dict()."),
        (
            {"state": {}, "param_groups": []},
            "best.pth holds an optimizer's state, not a model's. Give the model's checkpoint.",
        ),
        (
            {"epoch": 1, "loss": 0.5},
            "best.pth holds no weights: no entry maps names to tensors (epoch, loss). Save model.state_dict().",
        ),
        (
            {"lora_A.w": torch.zeros(1), "lora_B.w": torch.zeros(1)},
            "best.pth holds only LoRA adapters (lora_A.w), not a model's weights. Merge them first: model.merge_and_unload().",
        ),
    ],
)
def test_what_holds_no_weights(saved, value, message):
    """A file without a model's weights is refused with what it holds instead."""
    with pytest.raises(UnreadableCheckpoint) as caught:
        read(saved(value))

    assert str(caught.value) == message


def nested(depth):
    value = {"deep": 1}
    for _ in range(depth):
        value = {"deep": value}
    return value


def test_settings_without_an_end(saved, weights):
    """Settings that refer to themselves, or nest without end, are refused and not followed."""
    endless = {}
    endless["self"] = endless

    for config in (endless, nested(100)):
        with pytest.raises(UnreadableCheckpoint, match="more than 32 levels or 20000 parts"):
            read(saved({"model": weights, "config": config}))


def test_settings_that_multiply(saved, weights):
    """A few shared lists that would unfold into millions are refused."""
    value = ["x"] * 10
    for _ in range(8):
        value = [value] * 10

    with pytest.raises(UnreadableCheckpoint, match="20000 parts"):
        read(saved({"model": weights, "config": {"a": value}}))
