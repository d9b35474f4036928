"""How much a raw value may ask of us: checked before anything of that size is allocated."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from artifact.operations.images.resize import PixelBudget


@dataclass(frozen=True, slots=True)
class RawLimits:
    """The most that one raw value may hold.

    `image_pixels`: width x height, as the file's header says. `image_frames`: pictures in one file; of several the first is
    taken, where several are allowed. `image_bytes` and `text_bytes`: of the file, and of the text in UTF-8. `tokens`: what a
    tokenizer may make of a text before truncation. `budget` bounds what all pictures of a request are
    resized to.
    """

    image_bytes: int = 32 << 20
    image_pixels: int = 25_000_000
    image_frames: int = 1
    text_bytes: int = 1 << 18
    tokens: int = 1 << 18
    budget: "PixelBudget | None" = None
