"""How much a raw value may ask of us: checked before anything of that size is allocated."""

import threading
from collections.abc import Callable
from dataclasses import dataclass


class Budget:
    """What the raw values of one request may still take together, whichever thread takes it."""

    def __init__(self, most: int, used_up: Callable[[int], Exception]) -> None:
        """`used_up` is told the most, and makes the error of whoever asks for more."""
        self._most = self._left = most
        self._used_up = used_up
        self._lock = threading.Lock()

    def take(self, count: int) -> None:
        """Raises what `used_up` makes, where less is left."""
        with self._lock:
            self._left -= count
            if self._left < 0:
                raise self._used_up(self._most)


@dataclass(frozen=True, slots=True)
class RawLimits:
    """The most that one raw value may hold.

    `image_pixels`: width x height, as the file's header says. `image_frames`: pictures in one file; of several the first is
    taken, where several are allowed. `image_bytes` and `text_bytes`: of the file, and of the text in UTF-8. `tokens`: what a
    tokenizer may make of a text before truncation. `budget` has the pixels that all pictures of a request may be resized to.
    """

    image_bytes: int = 32 << 20
    image_pixels: int = 25_000_000
    image_frames: int = 1
    text_bytes: int = 1 << 18
    tokens: int = 1 << 18
    budget: Budget | None = None
