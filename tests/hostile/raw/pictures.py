"""All hostile pictures by name, and good ones cut off at every tenth byte."""

from collections.abc import Iterator, Mapping

from tests.hostile.raw import disguised, jpeg, png, webp
from tests.hostile.raw.hostile import Hostile

FILES: Mapping[str, Hostile] = {**png.FILES, **jpeg.FILES, **webp.FILES, **disguised.FILES}

GOOD: Mapping[str, bytes] = {
    "png": png.many_colours(),
    "jpeg": jpeg.good(),
    "jpeg-progressive": jpeg.good(progressive=True),
    "webp": webp.good(),
    "webp-lossless": webp.good(lossless=True),
}


def truncated(step: int = 10) -> Iterator[tuple[str, bytes]]:
    """Every good picture cut off at every tenth byte, and before its last."""
    for name, data in GOOD.items():
        for length in (*range(0, len(data), step), len(data) - 1):
            yield f"{name} cut off after {length} of {len(data)} bytes", data[:length]


def content_type(name: str) -> str:
    """What a client would say of a file: for a disguised one, a lie."""
    kind = name.partition("-")[0]
    return f"image/{kind if kind in {'png', 'jpeg', 'webp'} else 'png'}"
