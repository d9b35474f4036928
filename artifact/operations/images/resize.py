"""Resizing, by Pillow's `Image.resize` with its antialiasing: the support of the filter grows with the reduction."""

from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from artifact.operations.errors import TooLarge
from artifact.operations.images.colours import Level
from artifact.operations.images.pictures import require_picture
from artifact.operations.kinds import Files, Image, InputOperation, Kind, Step
from artifact.raw_limits import RawLimits

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

Side = Annotated[int, Field(ge=1, le=16384)]
Sides = tuple[Side, Side]


class Letterbox(BaseModel):
    """`letterbox: {size: [height, width], fill: 114 | [r, g, b]}`: as large as fits, the rest filled."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: Sides
    fill: Level | tuple[Level, ...] = 0


class Resize(InputOperation):
    """`resize: {short: 256}`, `{size: [height, width]}` or `{letterbox: {...}}`, and `interpolation: bilinear | bicubic`."""

    short: Side | None = None
    size: Sides | None = None
    letterbox: Letterbox | None = None
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        given = [name for name in ("short", "size", "letterbox") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"it takes one of short, size: [height, width] and letterbox; {', '.join(given) or 'none'} given")
        return self

    def kind_of(self, given: Kind, files: Files) -> Kind:  # noqa: ARG002 - the interface
        """Image -> image of the new size, as far as it is known."""
        image = require_picture(given)
        if self.short is not None:
            known = None if image.height is None or image.width is None else short_side(image.height, image.width, self.short)
            height, width = known or (None, None)
            return Image(image.channels, "uint8", height, width, image.low, image.high, least=self.short)
        if self.letterbox is not None:
            _fill(self.letterbox, image.channels)
        height, width = self.size or (self.letterbox.size if self.letterbox else (None, None))
        return Image(image.channels, "uint8", height, width, image.low, image.high)

    def step(self, given: Kind, files: Files) -> Step:  # noqa: ARG002 - the interface
        """The function."""
        from PIL.Image import Resampling

        image = require_picture(given)
        way = {"bilinear": Resampling.BILINEAR, "bicubic": Resampling.BICUBIC}[self.interpolation]
        if (short := self.short) is not None:
            return lambda picture, limits: resized(picture, short_side(picture.height, picture.width, short), way, limits)
        if (size := self.size) is not None:
            return lambda picture, limits: resized(picture, size, way, limits)
        box = self.letterbox
        if box is None:
            raise ValueError("it takes one of short, size: [height, width] and letterbox")
        fill = _fill(box, image.channels)
        return lambda picture, limits: letterboxed(picture, box.size, fill, way, limits)


def short_side(height: int, width: int, short: int) -> tuple[int, int]:
    """The size whose shorter side is `short`; the longer one is scaled along and cut to a whole number."""
    if height <= width:
        return short, short * width // height
    return short * height // width, short


def fitted(height: int, width: int, size: Sides) -> tuple[int, int]:
    """The largest size of the same proportions within `size`, each side rounded to the nearest (half to even), at least 1."""
    if size[0] * width <= size[1] * height:  # the height decides
        return size[0], max(1, half_even(width * size[0], height))
    return max(1, half_even(height * size[1], width)), size[1]


def half_even(numerator: int, denominator: int) -> int:
    """The quotient rounded to the nearest whole number, a half to the even one: Python's `round`, without a float's error."""
    whole, rest = divmod(numerator, denominator)
    return whole + (2 * rest > denominator or (2 * rest == denominator and whole % 2 == 1))


def resized(picture: "Picture", size: Sides, way: int, limits: RawLimits) -> "Picture":
    """The picture in another size, (height, width); the same picture where it has it.

    Raises:
        TooLarge: the result, or the picture between the two passes (first along rows, then along columns), has too many pixels.
    """
    height, width = size
    if (picture.height, picture.width) == (height, width):
        return picture
    most = max(width * picture.height, width * height)
    if limits.budget is not None:
        limits.budget.take(most)
    if most > limits.image_pixels:
        raise TooLarge(
            f"the picture of {picture.width} x {picture.height} pixels would be resized to {width} x {height}, over "
            f"{width} x {max(height, picture.height)}; at most {limits.image_pixels} pixels are allowed"
        )
    return picture.resize((width, height), way)


def letterboxed(picture: "Picture", size: Sides, fill: tuple[int, ...], way: int, limits: RawLimits) -> "Picture":
    """The picture as large as fits, in the middle of a canvas (of an odd rest, the larger half is below and right)."""
    import PIL.Image

    height, width = fitted(picture.height, picture.width, size)
    canvas = PIL.Image.new(picture.mode, (size[1], size[0]), fill)
    canvas.paste(resized(picture, (height, width), way, limits), ((size[1] - width) // 2, (size[0] - height) // 2))
    return canvas


def _fill(box: Letterbox, channels: int) -> tuple[int, ...]:
    fill = (box.fill,) * channels if isinstance(box.fill, int) else box.fill
    if len(fill) != channels:
        raise ValueError(f"the letterbox's fill has {len(fill)} levels, the picture {channels} channels")
    return fill
