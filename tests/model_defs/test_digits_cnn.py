"""digits_cnn: its keys, and that it learns."""

import pytest
import torch
from sklearn.datasets import load_digits
from torch.nn.functional import cross_entropy

import model_defs
from model_defs import InvalidParams

NORM = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]


def test_the_keys_are_pinned():
    """A checkpoint of today loads tomorrow."""
    expected = []
    for convolution in (0, 3, 7):
        expected += [f"features.{convolution}.weight", *(f"features.{convolution + 1}.{name}" for name in NORM)]
    assert list(model_defs.build("digits_cnn", {}).state_dict()) == [*expected, "classifier.weight", "classifier.bias"]


def test_it_learns_the_digits():
    """At least 98 % of the digits that it has not seen, within seconds."""
    torch.manual_seed(0)
    pixels, labels = load_digits(return_X_y=True)
    images = torch.tensor(pixels / 16, dtype=torch.float32).reshape(-1, 1, 8, 8)
    targets = torch.tensor(labels)
    order = torch.randperm(len(images))
    train, test = order[:1400], order[1400:]
    model = model_defs.build("digits_cnn", {})
    epochs, batches = 12, train.split(64)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-2, total_steps=epochs * len(batches))
    for _ in range(epochs):
        for rows in train[torch.randperm(len(train))].split(64):
            optimizer.zero_grad()
            cross_entropy(model(images[rows]), targets[rows]).backward()
            optimizer.step()
            schedule.step()
    with torch.no_grad():
        right = model.eval()(images[test]).argmax(1) == targets[test]
    assert right.float().mean() >= 0.98


@pytest.mark.parametrize("dropout", [-0.1, 1.0, float("nan"), "0.1"])
def test_dropout_is_a_share_below_one(dropout):
    """All features dropped would leave nothing to classify."""
    with pytest.raises(InvalidParams, match=r"\n  params\.dropout is .*, expected "):
        model_defs.build("digits_cnn", {"dropout": dropout})
