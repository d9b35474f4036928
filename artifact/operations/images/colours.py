"""What a file's samples mean: levels of 8 bits, in grey, in colours, with or without alpha."""

from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import Field

from artifact.operations.images import png
from artifact.operations.images.header import Header, PngSamples

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

Mode = Literal["RGB", "L", "RGBA"]
Level = Annotated[int, Field(ge=0, le=255)]
Colour = tuple[int, int, int]

CHANNELS = {"L": 1, "RGB": 3, "RGBA": 4}
WHITE: Colour = (255, 255, 255)

_STRIP_PIXELS = 1 << 18


def in_mode(picture: "Picture", header: Header, mode: Mode, background: Colour) -> "Picture":
    """The picture in the wanted mode, made strip by strip: what stands between two modes never has the picture's size."""
    import PIL.Image

    key = None if header.png is None else header.png.transparent
    if picture.mode == mode and key is None and header.format != "WebP":  # WebP's holds its decoder, and so two more canvases
        return picture
    rows = max(1, _STRIP_PIXELS // picture.width)
    made = PIL.Image.new(mode, picture.size)
    for top in range(0, picture.height, rows):
        strip = picture.crop((0, top, picture.width, min(top + rows, picture.height)))
        made.paste(over(_plain(strip, header.png), mode, background), (0, top))
    return made


def _plain(picture: "Picture", samples: PngSamples | None) -> "Picture":
    """Mode L, RGB or RGBA: what the file's own samples mean, in 8 bits."""
    import PIL.Image

    if picture.mode.startswith("I"):  # 16 bits of grey; Pillow's own conversion to L clips
        return PIL.Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    if samples is not None and samples.transparent is not None:
        return _with_transparent(picture, samples, samples.transparent)
    if picture.mode == "P":
        return picture.convert("RGBA" if "transparency" in picture.info else "RGB")
    plain = {"1": "L", "LA": "RGBA", "CMYK": "RGB"}.get(picture.mode)
    return picture.convert(plain) if plain else picture


def _with_transparent(picture: "Picture", samples: PngSamples, colour: tuple[int, ...]) -> "Picture":
    """The picture with alpha 0 where it has the transparent colour, 255 elsewhere."""
    import PIL.Image

    most = 2**samples.depth - 1
    levels = np.asarray(picture.convert("L" if samples.colour == png.GREY else "RGB"))
    levels = levels.reshape(picture.height, picture.width, -1)
    alpha = np.full(levels.shape[:2], 255, np.uint8)
    alpha[(levels == [(sample & most) * (255 // most) for sample in colour]).all(axis=2)] = 0
    made = picture.convert("RGB").convert("RGBA")
    made.putalpha(PIL.Image.fromarray(alpha))
    return made


def over(picture: "Picture", mode: Mode, background: Colour) -> "Picture":
    """L, RGB or RGBA -> the wanted one of them; where alpha goes, the picture is laid over the background."""
    import PIL.Image

    if picture.mode == "RGBA" and mode != "RGBA":
        below = PIL.Image.new("RGB", picture.size, background)
        below.paste(picture.convert("RGB"), mask=picture.getchannel("A"))
        picture = below
    return picture if picture.mode == mode else picture.convert(mode)
