"""Levels become numbers: to_float and normalize.

A picture of uint8 has at most 256 values per channel, whatever is computed of them elementwise. So the operations work on a table
of these values, and `layout` looks every pixel up once: the same numbers, bit for bit, as the formulas give for every pixel.
"""

from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
from pydantic import Field

from artifact.operations.images.pictures import require_floats, require_picture
from artifact.operations.kinds import Files, InputOperation, Kind, Step

Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]

_LEVELS = np.arange(256, dtype=np.uint8)[:, np.newaxis]  # (256, 1): a column per channel, or one for all


@dataclass(frozen=True, slots=True)
class Numbers:
    """A picture of float32: `table[level, channel]` where `levels[row, column, channel]` is uint8. (256, C) and (H, W, C)."""

    levels: np.ndarray
    table: np.ndarray


class ToFloat(InputOperation):
    """`to_float: {scale: 0.00392156862745098}`: uint8 -> float32, times the scale (1/255 where it is not given)."""

    scale: Positive = 1 / 255

    def kind_of(self, given: Kind, files: Files) -> Kind:  # noqa: ARG002 - the interface
        """Image of uint8 -> image of float32."""
        image = require_picture(given)
        with np.errstate(over="ignore"):
            low, high = (float(scaled(np.array(level), self.scale)) for level in (image.low, image.high))
        if not 0 <= low <= high < np.inf:
            raise ValueError(f"scale {self.scale:g} makes numbers that float32 does not hold")
        return replace(image, dtype="float32", low=low, high=high)

    def step(self, given: Kind, files: Files) -> Step:  # noqa: ARG002 - the interface
        """The function."""
        channels = require_picture(given).channels
        table = np.broadcast_to(scaled(_LEVELS, self.scale), (256, channels))
        return lambda picture, _limits: Numbers(levels(picture), table)


class Normalize(InputOperation):
    """`normalize: {mean: [...], std: [...]}`, a number per channel: (x - mean) / std in float32."""

    mean: tuple[Finite, ...]
    std: tuple[Positive, ...]

    def kind_of(self, given: Kind, files: Files) -> Kind:  # noqa: ARG002 - the interface
        """Image of float32 -> the same, normalised."""
        image = require_floats(given)
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != image.channels:
                raise ValueError(f"{name} has {len(values)} numbers, the picture {image.channels} channels")
        with np.errstate(all="ignore"):
            ends = normalized(np.array([[image.low], [image.high]], np.float32), self.mean, self.std)
        if not np.isfinite(ends).all():
            raise ValueError("mean and std make numbers that float32 does not hold")
        return replace(image, low=float(ends.min()), high=float(ends.max()))

    def step(self, given: Kind, files: Files) -> Step:  # noqa: ARG002 - the interface
        """The function."""
        return lambda numbers, _limits: Numbers(numbers.levels, normalized(numbers.table, self.mean, self.std))


def levels(picture: "np.ndarray | object") -> np.ndarray:
    """A Pillow image as uint8 (H, W, C)."""
    array = np.asarray(picture)
    return array[:, :, np.newaxis] if array.ndim == 2 else array


def scaled(x: np.ndarray, scale: float) -> np.ndarray:
    """Values times scale, computed in float64 and rounded once to float32. With 1/255 these are x / 255 in float32."""
    return (x.astype(np.float64) * scale).astype(np.float32)


def normalized(x: np.ndarray, mean: tuple[float, ...], std: tuple[float, ...]) -> np.ndarray:
    """(x - mean) / std along the last axis, each step rounded to float32, mean and std too: as PyTorch computes it."""
    return (x - np.array(mean, np.float32)) / np.array(std, np.float32)
