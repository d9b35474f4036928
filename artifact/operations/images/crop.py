"""Cutting out: of the middle, or a fixed window. Nothing is ever padded: a picture that is too small is refused."""

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from artifact.operations.errors import BadImage
from artifact.operations.images.pictures import require_picture
from artifact.operations.images.resize import Side, Sides, half_even
from artifact.operations.kinds import Files, Image, InputOperation, Kind, Step

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

Offset = Annotated[int, Field(ge=0, le=16384)]


class CenterCrop(InputOperation):
    """`center_crop: {size: 224}` or `{size: [height, width]}`."""

    size: Side | Sides

    @property
    def sides(self) -> Sides:
        """(height, width)."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size

    def kind_of(self, given: Kind, files: Files) -> Kind:  # noqa: ARG002 - the interface
        """Image -> image of the size."""
        image = require_picture(given)
        _require_holds(image, *self.sides)
        return Image(image.channels, "uint8", *self.sides, image.low, image.high)

    def step(self, given: Kind, files: Files) -> Step:  # noqa: ARG002 - the interface
        """The function."""
        return lambda picture, _limits: center_cropped(picture, *self.sides)


class Crop(InputOperation):
    """`crop: {top: 0, left: 16, height: 224, width: 224}`, in pixels from the upper left corner."""

    top: Offset
    left: Offset
    height: Side
    width: Side

    def kind_of(self, given: Kind, files: Files) -> Kind:  # noqa: ARG002 - the interface
        """Image -> image of the size."""
        image = require_picture(given)
        _require_holds(image, self.top + self.height, self.left + self.width)
        return Image(image.channels, "uint8", self.height, self.width, image.low, image.high)

    def step(self, given: Kind, files: Files) -> Step:  # noqa: ARG002 - the interface
        """The function."""
        return lambda picture, _limits: cropped(picture, self.top, self.left, self.height, self.width)


def center_cropped(picture: "Picture", height: int, width: int) -> "Picture":
    """The middle: half of the rest is above and left, rounded to the nearest, a half to the even one (as torchvision's)."""
    top, left = half_even(picture.height - height, 2), half_even(picture.width - width, 2)
    return cropped(picture, top, left, height, width)


def cropped(picture: "Picture", top: int, left: int, height: int, width: int) -> "Picture":
    """The window.

    Raises:
        BadImage: the picture does not hold it.
    """
    if min(top, left) < 0 or top + height > picture.height or left + width > picture.width:
        raise BadImage(
            f"the picture has {picture.width} x {picture.height} pixels where {width} x {height} are cut out; send a larger one"
        )
    if (picture.height, picture.width) == (height, width):
        return picture
    return picture.crop((left, top, left + width, top + height))


def _require_holds(image: Image, height: int, width: int) -> None:
    """Raises ValueError where pictures of this kind are known to be too small."""
    for name, size, needed in (("high", image.height, height), ("wide", image.width, width)):
        least = size if size is not None else image.least
        if least is not None and least < needed:
            raise ValueError(
                f"{needed} pixels are cut out, but a picture may be only {least} {name} here; resize it larger before"
            )
