"""resnet18, -34 and -50: torchvision's layout, and the paper's numbers written out from the keys."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, batch_norm, conv2d, linear, max_pool2d

import model_defs
from model_defs.errors import InvalidParams

LAYOUTS = {  # name: blocks per stage, convolutions per block, entries, parameters
    "resnet18": ((2, 2, 2, 2), 2, 122, 11_689_512),
    "resnet34": ((3, 4, 6, 3), 2, 218, 21_797_672),
    "resnet50": ((3, 4, 6, 3), 3, 320, 25_557_032),
}


def unallocated(name, **params):
    """The model without memory for its weights."""
    found = model_defs.definition(name)
    with torch.device("meta"):
        return found.module(found.params(**params))


def norm_keys(prefix):
    return [f"{prefix}.{name}" for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")]


def torchvision_keys(depths, convolutions):
    """The keys in torchvision's order; a basic block's first stage needs no projection, a bottleneck's does."""
    keys = ["conv1.weight", *norm_keys("bn1")]
    for stage, depth in enumerate(depths, start=1):
        for block in range(depth):
            prefix = f"layer{stage}.{block}"
            for index in range(1, convolutions + 1):
                keys += [f"{prefix}.conv{index}.weight", *norm_keys(f"{prefix}.bn{index}")]
            if block == 0 and (stage > 1 or convolutions == 3):
                keys += [f"{prefix}.downsample.0.weight", *norm_keys(f"{prefix}.downsample.1")]
    return [*keys, "fc.weight", "fc.bias"]


def read(weights: dict[str, Tensor], prefix: str, x: Tensor, stride: int, norm: str) -> Tensor:
    """One convolution, which keeps the size but for its stride, and its normalisation."""
    weight = weights[f"{prefix}.weight"]
    x = conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)
    mean, var = weights[f"{norm}.running_mean"], weights[f"{norm}.running_var"]
    return batch_norm(x, mean, var, weights[f"{norm}.weight"], weights[f"{norm}.bias"])


def reference(weights: dict[str, Tensor], image: Tensor, depths: tuple[int, ...], convolutions: int) -> Tensor:
    """The network, read off the keys alone."""
    x = max_pool2d(read(weights, "conv1", image, 2, "bn1").relu(), 3, 2, 1)
    strided = 2 if convolutions == 3 else 1  # the 3x3 that carries a block's stride
    for stage, depth in enumerate(depths, start=1):
        for block in range(depth):
            prefix = f"layer{stage}.{block}"
            stride = 2 if stage > 1 and block == 0 else 1
            out = x
            for index in range(1, convolutions + 1):
                out = out.relu() if index > 1 else out
                out = read(weights, f"{prefix}.conv{index}", out, stride if index == strided else 1, f"{prefix}.bn{index}")
            if f"{prefix}.downsample.0.weight" in weights:
                x = read(weights, f"{prefix}.downsample.0", x, stride, f"{prefix}.downsample.1")
            x = (out + x).relu()
    return linear(adaptive_avg_pool2d(x, 1).flatten(1), weights["fc.weight"], weights["fc.bias"])


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_layout_is_torchvisions(name):
    """The same keys in the same order, so many entries and so many parameters."""
    depths, convolutions, entries, parameters = LAYOUTS[name]
    model = unallocated(name)
    assert list(model.state_dict()) == torchvision_keys(depths, convolutions)
    assert len(model.state_dict()) == entries
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


@torch.no_grad()
@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_the_numbers_follow_from_the_keys(name):
    """A bottleneck's stride is on its 3x3, relu comes after the addition, the classifier sees the mean of the positions."""
    torch.manual_seed(0)
    depths, convolutions, _, _ = LAYOUTS[name]
    model = model_defs.build(name, {"num_classes": 5}).eval()
    for key, buffer in model.named_buffers():
        if key.endswith("running_mean"):
            buffer.normal_(std=0.1)
        elif key.endswith("running_var"):
            buffer.uniform_(0.5, 2)
    image = torch.randn(2, 3, 64, 96)
    expected = reference(model.state_dict(), image, depths, convolutions)
    assert expected.shape == (2, 5)
    torch.testing.assert_close(model(image), expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())


@torch.no_grad()
@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_are_normalised_inside(channels):
    """With `normalize` the network gives for pixels what it gives without for the numbers that torchvision makes of them."""
    torch.manual_seed(0)
    params = {"num_classes": 5, "in_channels": channels}
    mean, std = [0.485, 0.456, 0.406][:channels], [0.229, 0.224, 0.225][:channels]
    plain = model_defs.build("resnet18", params).eval()
    inside = model_defs.build("resnet18", {**params, "normalize": {"mean": mean, "std": std}}).eval()
    inside.load_state_dict(plain.state_dict())
    pixels = torch.randint(0, 256, (2, channels, 64, 64), dtype=torch.uint8)

    per_channel = (torch.tensor(values)[:, None, None] for values in (mean, std))
    expected = plain((pixels / 255).sub(next(per_channel)).div(next(per_channel)))

    torch.testing.assert_close(inside(pixels), expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())


@pytest.mark.parametrize("name", LAYOUTS)
def test_normalisation_has_no_keys(name):
    """Mean and deviation come from the config: torchvision's weights load as they are."""
    normalize = {"mean": (0.5, 0.5, 0.5), "std": (0.2, 0.2, 0.2)}
    assert list(unallocated(name, normalize=normalize).state_dict()) == list(unallocated(name).state_dict())


def test_pixels_are_uint8():
    """Numbers between 0 and 1 would pass for nearly black pixels: they are refused."""
    model = model_defs.build("resnet18", {"num_classes": 2, "normalize": {"mean": [0.5] * 3, "std": [0.2] * 3}}).eval()
    with pytest.raises(ValueError, match="image is") as caught:
        model(torch.rand(1, 3, 64, 64))
    assert str(caught.value) == "image is float32, expected uint8: with normalize, the network takes pixels from 0 to 255"


@pytest.mark.parametrize(
    ("normalize", "problem"),
    [
        (
            {"mean": [0.5], "std": [0.2, 0.2, 0.2]},
            "params: normalize.mean has 1 values, expected in_channels (3) of them",
        ),
        ({"mean": [0.5] * 3, "std": [0.2, 0.2, 0]}, "params.normalize.std.2 is 0, expected greater than 0"),
        ({"mean": [0.5] * 3}, "params.normalize.std is missing, expected a value, since it has no default"),
    ],
)
def test_what_is_no_normalisation(normalize, problem):
    """One mean and one deviation above 0 for every channel."""
    with pytest.raises(InvalidParams) as caught:
        model_defs.build("resnet18", {"normalize": normalize})
    assert str(caught.value) == f"the params do not fit resnet18:\n  {problem}"


def test_the_params_change_the_first_and_the_last_layer_only():
    """Grey images and other classes leave the structure alone."""
    grey, colour = unallocated("resnet18", in_channels=1, num_classes=4).state_dict(), unallocated("resnet18").state_dict()
    changed = {key: tuple(value.shape) for key, value in grey.items() if value.shape != colour[key].shape}
    assert changed == {"conv1.weight": (64, 1, 7, 7), "fc.weight": (4, 512), "fc.bias": (4,)}
