"""What a picture's file says of itself, found without decoding anything, and the parts of it that a decoder needs.

Everything else (colour profiles, thumbnails, texts, further frames) is left out of what the decoder is given: it changes no
number, and what is not read cannot do harm.
"""

from dataclasses import dataclass
from typing import Literal

from artifact.operations.errors import BadImage, TooLarge
from artifact.raw_limits import RawLimits

MAX_SIDE = 65_535
"""The most that a side may have, in pixels: JPEG's own bound. Resizing takes memory for each pixel of a side."""

MAX_PARTS = 1 << 16
"""The most chunks or segments of one file: walking them costs time."""

Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class PngSamples:
    """How a PNG stores its pixels: bits per sample, the colour type of its header, and the rest that decides about them.

    `transparent` is the one colour, in the file's own samples, that is see-through; `idat` are the compressed pixels' spans.
    """

    depth: int
    colour: int
    interlaced: bool
    transparent: tuple[int, ...] | None
    idat: tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class Header:
    """A picture as its file announces it; width and height are those before the orientation (1 to 8, as in EXIF) is applied.

    `parts` are the spans of the file that a decoder needs, in order. `contradiction` is what else it says, if that cannot be.
    """

    format: Literal["JPEG", "PNG", "WebP"]
    width: int
    height: int
    frames: int
    orientation: int
    parts: tuple[Span, ...]
    contradiction: str = ""
    png: PngSamples | None = None

    def stream(self, data: bytes) -> bytes:
        """The bytes for the decoder."""
        view = memoryview(data)
        return b"".join(view[start:end] for start, end in self.parts)

    def require_within(self, limits: RawLimits) -> None:
        """Raises TooLarge where decoding would take more than the limits allow, BadImage where the header cannot be true."""
        shown = f"the {self.format} file says {self.width} x {self.height} pixels"
        if not self.width or not self.height:
            raise BadImage(f"{shown}; a picture has at least one")
        if self.width * self.height > limits.image_pixels:
            raise TooLarge(f"{shown}; at most {limits.image_pixels} are allowed: send a smaller picture")
        if max(self.width, self.height) > MAX_SIDE:
            raise TooLarge(f"{shown}; a side may have at most {MAX_SIDE}: send a smaller picture")
        if self.frames > limits.image_frames:
            raise TooLarge(
                f"the {self.format} file is animated, with {self.frames} pictures; at most {limits.image_frames} "
                "may be in one file: send the one that is meant"
            )
        if self.contradiction:
            raise BadImage(f"{shown}, but {self.contradiction}")


def too_few(compressed_bytes: int, least_bytes: int) -> str:
    """The contradiction of a header whose pixels cannot be in so few bytes; empty where they can."""
    return f"has only {compressed_bytes} bytes of them; send the whole file" if compressed_bytes < least_bytes else ""


def truncated(kind: str) -> BadImage:
    """The error of a file that ends too early."""
    return BadImage(f"the {kind} file is truncated: it ends before its picture does; send the whole file")


def require_few(parts: int, kind: str) -> None:
    """Raises TooLarge where a file has more parts than any real one."""
    if parts > MAX_PARTS:
        raise TooLarge(f"the {kind} file has more than {MAX_PARTS} parts; save the picture again")
