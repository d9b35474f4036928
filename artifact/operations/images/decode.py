"""Decoding: a picture's file -> pixels of 8 bits, upright, in the declared mode.

A picture is a Pillow image of mode L, RGB or RGBA until its levels become numbers. The decoders are Pillow's, each called by its
own name, on a stream of just those parts that it needs: no other format is ever tried, and nothing warns.
"""

import io
import struct
import zlib
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import model_validator

from artifact.operations.errors import BadImage, OperationsUnavailable, TooLarge
from artifact.operations.images import jpeg, png, webp
from artifact.operations.images.colours import CHANNELS, WHITE, Colour, Level, Mode, in_mode
from artifact.operations.images.header import Header
from artifact.operations.kinds import Files, Image, InputOperation, Kind, Raw, Step
from artifact.operations.raw import RawKind
from artifact.raw_limits import RawLimits

if TYPE_CHECKING:
    from PIL.Image import Image as Picture
    from PIL.ImageFile import ImageFile

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
        """The function; Pillow and its decoders are imported here, and not by the first request."""
        require_pillow()
        background = self.background or WHITE
        return lambda data, limits: decode(data, self.mode, background, limits)

    def details(self) -> dict[str, Any]:
        """What a client may send."""
        return {"mode": self.mode, "formats": ["image/jpeg", "image/png", "image/webp"]}


def require_pillow() -> None:
    """Raises OperationsUnavailable where Pillow is not installed."""
    try:
        from PIL import JpegImagePlugin, PngImagePlugin, WebPImagePlugin  # noqa: F401 - whether they are there
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
        picture = in_mode(picture, header, mode, background)  # the same name: the one before it is let go
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
