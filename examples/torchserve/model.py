"""The net, as TorchServe wants it: one class in the file, made without arguments. It tells the digit of an 8x8 image."""

from torch import Tensor, nn


class Net(nn.Module):
    """The net of examples/digits, with the same keys."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *_convolution(1, 16),
            *_convolution(16, 16),
            nn.MaxPool2d(2),
            *_convolution(16, 32),
            nn.MaxPool2d(2),
        )
        self.classifier = nn.Linear(32 * 2 * 2, 10)

    def forward(self, pixels: Tensor) -> Tensor:  # (N, 1, 8, 8), from 0 to 1
        """The logits, (N, 10)."""
        return self.classifier(self.features(pixels).flatten(1))


def _convolution(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
