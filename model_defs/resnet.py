"""Residual networks for images: ResNet-18, -34 and -50.

He et al., "Deep residual learning for image recognition" (2015), with the stride of a bottleneck on its 3x3 convolution rather
than on the first 1x1, as torchvision has it. The keys are torchvision's (`resnet18`, `resnet34`, `resnet50`), so its weights load
as they are.

With `normalize`, the image is its pixels as they come, uint8 from 0 to 255, and what torchvision's transforms do before the
network (`ToTensor` and `Normalize`) is the first thing inside it: a quarter of the bytes travel to the device.

Shapes: B batch, C channels of the image, H and W its height and width (multiples of 32 halve five times without a remainder;
others are rounded up), K classes, D channels of the last stage (512 or 2048).
"""

from typing import Annotated, ClassVar, Self

import torch
from pydantic import BaseModel, Field, FiniteFloat, PositiveInt, model_validator
from torch import Tensor, nn
from torch.nn.functional import relu

from model_defs.registry import register_model

PIXEL_MAX = 255

Positive = Annotated[FiniteFloat, Field(gt=0)]


class NormalizeParams(BaseModel, frozen=True, extra="forbid", strict=True):
    """Mean and standard deviation of each channel, where black is 0 and white is 1."""

    mean: Annotated[tuple[FiniteFloat, ...], Field(strict=False)]  # a YAML has lists, no tuples; the numbers stay strict
    std: Annotated[tuple[Positive, ...], Field(strict=False)]


class ResNetParams(BaseModel, frozen=True, extra="forbid", strict=True):
    """What may differ from torchvision's networks without changing their structure."""

    num_classes: PositiveInt = 1000
    in_channels: PositiveInt = 3
    normalize: NormalizeParams | None = None

    @model_validator(mode="after")
    def _one_of_each_for_every_channel(self) -> Self:
        for name in ("mean", "std"):
            count = self.in_channels if self.normalize is None else len(getattr(self.normalize, name))
            if count != self.in_channels:
                raise ValueError(f"normalize.{name} has {count} values, expected in_channels ({self.in_channels}) of them")
        return self


class BasicBlock(nn.Module):
    """Two 3x3 convolutions, and the input added to their result; the first one carries the stride."""

    expansion: ClassVar[int] = 1

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _shortcut(inputs, width * self.expansion, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, width, H / stride, W / stride)."""
        out = relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return relu(out + self.downsample(x))


class Bottleneck(nn.Module):
    """A 3x3 convolution between two 1x1 ones that narrow and widen the channels, and the input added to their result."""

    expansion: ClassVar[int] = 4

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, width * self.expansion, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width * self.expansion)
        self.downsample = _shortcut(inputs, width * self.expansion, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, 4 * width, H / stride, W / stride)."""
        out = relu(self.bn1(self.conv1(x)))
        out = relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return relu(out + self.downsample(x))


class Pixels(nn.Module):
    """Pixels to numbers about 0 with a spread of about 1: `(pixel / 255 - mean) / std`. It has no keys."""

    mean: Tensor
    scale: Tensor

    def __init__(self, params: NormalizeParams) -> None:
        super().__init__()
        mean, std = (torch.tensor(values, dtype=torch.float64)[:, None, None] for values in (params.mean, params.std))
        dtype = torch.get_default_dtype()
        self.register_buffer("mean", (PIXEL_MAX * mean).to(dtype), persistent=False)  # (C, 1, 1)
        self.register_buffer("scale", (1 / (PIXEL_MAX * std)).to(dtype), persistent=False)  # (C, 1, 1)

    def forward(self, image: Tensor) -> Tensor:  # (B, C, H, W) uint8
        """The numbers, (B, C, H, W), in the weights' dtype.

        Raises:
            ValueError: the image is not uint8.
        """
        if image.dtype != torch.uint8:
            dtype = str(image.dtype).removeprefix("torch.")
            raise ValueError(f"image is {dtype}, expected uint8: with normalize, the network takes pixels from 0 to 255")
        return (image.to(self.mean.dtype) - self.mean) * self.scale


class ResNet(nn.Module):
    """A stem, four stages of `depths` blocks each, and a linear classifier over the mean of the last stage's positions."""

    def __init__(self, params: ResNetParams, block: type[BasicBlock | Bottleneck], depths: tuple[int, int, int, int]) -> None:
        super().__init__()
        self.pixels = None if params.normalize is None else Pixels(params.normalize)
        self.conv1 = nn.Conv2d(params.in_channels, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = _stage(block, 64, 64, depths[0], stride=1)
        self.layer2 = _stage(block, 64 * block.expansion, 128, depths[1], stride=2)
        self.layer3 = _stage(block, 128 * block.expansion, 256, depths[2], stride=2)
        self.layer4 = _stage(block, 256 * block.expansion, 512, depths[3], stride=2)
        self.fc = nn.Linear(512 * block.expansion, params.num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):  # He et al., "Delving deep into rectifiers" (2015)
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, image: Tensor) -> Tensor:  # (B, C, H, W), uint8 with normalize
        """The logits, (B, K)."""
        x = image if self.pixels is None else self.pixels(image)
        x = relu(self.bn1(self.conv1(x)))  # (B, 64, H / 2, W / 2)
        x = self.layer1(self.maxpool(x))  # (B, D / 8, H / 4, W / 4)
        x = self.layer2(x)  # (B, D / 4, H / 8, W / 8)
        x = self.layer3(x)  # (B, D / 2, H / 16, W / 16)
        x = self.layer4(x)  # (B, D, H / 32, W / 32)
        return self.fc(x.mean((2, 3)))


@register_model("resnet18", params=ResNetParams)
class ResNet18(ResNet):
    """Eighteen layers of weights, in basic blocks; D = 512."""

    def __init__(self, params: ResNetParams) -> None:
        super().__init__(params, BasicBlock, (2, 2, 2, 2))


@register_model("resnet34", params=ResNetParams)
class ResNet34(ResNet):
    """Thirty-four layers of weights, in basic blocks; D = 512."""

    def __init__(self, params: ResNetParams) -> None:
        super().__init__(params, BasicBlock, (3, 4, 6, 3))


@register_model("resnet50", params=ResNetParams)
class ResNet50(ResNet):
    """Fifty layers of weights, in bottlenecks; D = 2048."""

    def __init__(self, params: ResNetParams) -> None:
        super().__init__(params, Bottleneck, (3, 4, 6, 3))


def _stage(block: type[BasicBlock | Bottleneck], inputs: int, width: int, depth: int, stride: int) -> nn.Sequential:
    """`depth` blocks, of which the first carries the stride and brings `inputs` channels to the stage's own."""
    first = block(inputs, width, stride)
    return nn.Sequential(first, *(block(width * block.expansion, width, 1) for _ in range(depth - 1)))


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
    """What brings a block's input to the shape of its result; it has no keys where the two agree already."""
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
