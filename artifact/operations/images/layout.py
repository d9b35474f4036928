"""The last operation on pictures: pixels -> a tensor's row."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from artifact.operations.errors import BadImage
from artifact.operations.images.levels import Numbers, levels
from artifact.operations.kinds import Files, Image, InputOperation, Kind, Step, Tensor
from artifact.raw_limits import RawLimits
from artifact.signature import Dim

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

Order = Literal["CHW", "HWC", "HW"]


class Layout(InputOperation):
    """`layout: {order: CHW | HWC | HW}`: channels first, last, or none (of one channel). A chain without it ends with CHW."""

    order: Order = "CHW"

    def kind_of(self, given: Kind, files: Files) -> Kind:  # noqa: ARG002 - the interface
        """Image -> tensor of its dtype."""
        if not isinstance(given, Image):
            raise ValueError(f"it takes a picture, not {given}; it is the last operation, and stands once")  # noqa: TRY004 - the interface
        if self.order == "HW" and given.channels != 1:
            raise ValueError(f"order HW is for one channel, and the picture has {given.channels}; decode it with mode L")
        sizes = {"C": given.channels, "H": given.height, "W": given.width}
        return Tensor(given.dtype, tuple(sizes[axis] for axis in self.order), given.low, given.high)

    def step(self, given: Kind, files: Files) -> Step:  # noqa: ARG002 - the interface
        """The function."""
        return lambda value, _limits: laid_out(value, self.order)


def required_size(order: Order, allowed: Sequence[Dim | None]) -> Step:
    """A step that leaves a picture as it is, where each of its sides is one that the declared dimension of that place allows.

    It stands before the numbers of every pixel are made: their memory is asked for only where they can be used.
    """
    sides = [(axis, dim) for axis, dim in zip(order, allowed, strict=True) if dim is not None and axis != "C"]

    def check(value: "Numbers | Picture", limits: RawLimits) -> Any:  # noqa: ARG001 - the interface
        height, width = value.levels.shape[:2] if isinstance(value, Numbers) else (value.height, value.width)
        for axis, dim in sides:
            if not dim.allows(height if axis == "H" else width):
                name = "height" if axis == "H" else "width"
                raise BadImage(f"the picture has {width} x {height} pixels; the model takes a {name} of {dim}: send another size")
        return value

    return check


def laid_out(value: "Numbers | Picture", order: Order) -> np.ndarray:
    """The array in the given order of axes, C-contiguous."""
    if not isinstance(value, Numbers):
        pixels = levels(value)
        return np.ascontiguousarray(pixels.transpose(2, 0, 1) if order == "CHW" else pixels[:, :, 0] if order == "HW" else pixels)
    height, width, channels = value.levels.shape
    made = np.empty((height, width, channels) if order == "HWC" else (channels, height, width), np.float32)
    for channel in range(channels):
        # `clip` is the mode that takes no copy of the result; a level is never outside of the table
        column = np.ascontiguousarray(value.table[:, channel])
        if order == "HWC":
            made[:, :, channel] = column.take(value.levels[:, :, channel], mode="clip")
        else:
            column.take(value.levels[:, :, channel], out=made[channel], mode="clip")
    return made[0] if order == "HW" else made
