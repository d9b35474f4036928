"""Decoding: a picture's file -> pixels of 8 bits, upright, in the declared mode.

A picture is a Pillow image of mode L, RGB or RGBA until its levels become numbers. The decoders are Pillow's, each called by its
own name, on a stream of just those parts that it needs: no other format is ever tried, and nothing warns.
"""

import io
import struct
import zlib
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from artifact.operations.errors import BadImage, OperationsUnavailable, TooLarge
from artifact.operations.images import jpeg, png, webp
from artifact.operations.images.header import Header, PngSamples
from artifact.operations.kinds import Files, Image, InputOperation, Kind, Raw, Step
from artifact.operations.limits import RawLimits
from artifact.operations.raw import RawKind

if TYPE_CHECKING:
    from PIL.Image import Image as Picture
    from PIL.ImageFile import ImageFile

Mode = Literal["RGB", "L", "RGBA"]
Level = Annotated[int, Field(ge=0, le=255)]
Colour = tuple[int, int, int]

CHANNELS = {"L": 1, "RGB": 3, "RGBA": 4}
WHITE: Colour = (255, 255, 255)

_STRIP_PIXELS = 1 << 18

# What Pillow's decoders raise on damaged files. MemoryError is not among them: that is no fault of the file.
_DAMAGED = (
    OSError,
    EOFError,
    SyntaxError,
    ValueError,
    IndexError,
    KeyError,
    TypeError,
    AttributeError,
    OverflowError,
    RuntimeError,
    struct.error,
    zlib.error,
)


class Decode(InputOperation):
    """`decode: {mode: RGB | L | RGBA, background: [r, g, b]}`: JPEG, PNG or WebP, known by its bytes -> uint8, 0 to 255."""

    raw: ClassVar[RawKind | None] = "image"

    mode: Mode = "RGB"
    background: tuple[Level, Level, Level] | None = None

    @model_validator(mode="after")
    def _background_is_used(self) -> Self:
        if self.mode == "RGBA" and self.background is not None:
            raise ValueError("mode RGBA keeps the alpha channel, so nothing is laid over a background; remove one of them")
        return self

    def kind_of(self, given: Kind, files: Files) -> Kind:  # noqa: ARG002 - the interface
        """Raw picture -> image of any size."""
        if given != Raw("image"):
            raise ValueError(f"it takes a picture's file, not {given}")
        return Image(CHANNELS[self.mode], "uint8", None, None, 0.0, 255.0)

    def step(self, given: Kind, files: Files) -> Step:  # noqa: ARG002 - the interface
        """The function; Pillow is imported here, and not by the first request."""
        require_pillow()
        background = self.background or WHITE
        return lambda data, limits: decode(data, self.mode, background, limits)

    def details(self) -> dict[str, Any]:
        """What a client may send."""
        return {"mode": self.mode, "formats": ["image/jpeg", "image/png", "image/webp"]}


def require_pillow() -> None:
    """Raises OperationsUnavailable where Pillow is not installed."""
    try:
        import PIL.Image  # noqa: F401 - whether it is there
    except ImportError as cause:
        raise OperationsUnavailable("pictures need pillow, which is not installed: pip install 'stateserve[images]'") from cause


def decode(data: Any, mode: Mode, background: Colour, limits: RawLimits) -> "Picture":
    """The picture in a file, upright.

    Raises:
        BadImage: it is no JPEG, PNG or WebP, or a damaged one.
        TooLarge: it has more bytes, pixels or frames than allowed, by its header: nothing is decoded then.
    """
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise BadImage(f'a picture is the bytes of its file, not a {type(data).__name__}; in JSON it is {{"b64": "…"}}')
    if len(data) > limits.image_bytes:
        raise TooLarge(f"the picture's file has {len(data)} bytes; at most {limits.image_bytes} are allowed")
    data = bytes(data)  # no copy of bytes
    header = read_header(data)
    header.require_within(limits)
    try:
        picture = _opened(header, data)
        picture.load()
        _require_whole(picture, header, data)
        picture = _in_mode(picture, header, mode, background)  # the same name: the one before it is let go
        return _upright(picture, header.orientation)
    except _DAMAGED as cause:
        raise BadImage(f"the {header.format} file cannot be decoded, it is damaged: {cause}") from cause


def read_header(data: bytes) -> Header:
    """What the file says of itself; its kind is known by its first bytes, whatever its name or its Content-Type.

    Raises:
        BadImage: it is none of the three formats, or not a whole one.
    """
    if data.startswith(jpeg.MAGIC):
        return jpeg.read(data)
    if data.startswith(png.MAGIC):
        return png.read(data)
    if webp.is_webp(data):
        return webp.read(data)
    raise BadImage(f"the picture is no JPEG, PNG or WebP file: it begins with {data[:8]!r}")


def _opened(header: Header, data: bytes) -> "ImageFile":
    import PIL.Image
    from PIL import JpegImagePlugin, PngImagePlugin, WebPImagePlugin

    stream = io.BytesIO(header.stream(data))
    if header.format == "JPEG":
        return JpegImagePlugin.JpegImageFile(stream)
    if header.format == "PNG":
        return PngImagePlugin.PngImageFile(stream)
    if not WebPImagePlugin.SUPPORTED:
        raise OperationsUnavailable(
            "this pillow was built without WebP; install one that has it: pip install --force-reinstall pillow"
        )
    try:
        return WebPImagePlugin.WebPImageFile(stream)
    except PIL.Image.DecompressionBombError as cause:  # Pillow's own limit, where ours is higher
        raise TooLarge(f"the WebP file has more pixels than pillow decodes: {cause}") from cause


def _require_whole(picture: "Picture", header: Header, data: bytes) -> None:
    """Raises BadImage where the pixels are not those that the header announces."""
    if picture.size != (header.width, header.height):
        raise BadImage(f"the {header.format} file says {header.width} x {header.height} pixels, but decodes to others")
    if header.png is None:
        return
    # A last row that is not zero was decoded, and so were those above it: then the compressed data need no second look.
    last = picture.crop((0, picture.height - 1, picture.width, picture.height))
    if header.png.interlaced or not any(last.tobytes()):
        png.require_all_pixels(header, header.png, data)


def _in_mode(picture: "Picture", header: Header, mode: Mode, background: Colour) -> "Picture":
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


def _upright(picture: "Picture", orientation: int) -> "Picture":
    from PIL.Image import Transpose

    method = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }.get(orientation)
    return picture if method is None else picture.transpose(method)
