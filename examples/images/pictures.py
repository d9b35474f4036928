"""Pictures of handwritten digits, JPEG files of many sizes: scikit-learn's 1,797 digits, in coloured ink on coloured paper.

    python examples/images/pictures.py FOLDER     # writes ten of the held-out ones there, to look at and to send

A third of them lie on their side and say so in their EXIF data, as telephones' pictures do.
"""

import io
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

SIDES = (40, 200)
"""The least and the largest side of a picture, in pixels."""
CONTRAST = 90
"""The least difference between ink and paper, in levels of grey."""
ORIENTATION = 0x0112
"""EXIF's tag of how a picture is to be turned; 6 says: a quarter, clockwise."""


class Pictures(NamedTuple):
    """JPEG files, and which digit each shows (N,) int64."""

    files: list[bytes]
    labels: np.ndarray


def pictures(drawings: int = 3) -> tuple[Pictures, Pictures, Pictures]:
    """Pictures for training, for choosing the best epoch, and held out for the test (60, 20, 20 % of the digits).

    Every digit for training is drawn several times (not at all with `drawings=0`), each time with other
    colours, size and place; the others are drawn once.
    """
    glyphs, labels = load_digits(return_X_y=True)
    train, rest = train_test_split(np.arange(len(labels)), test_size=0.4, random_state=0, stratify=labels)
    validation, test = train_test_split(rest, test_size=0.5, random_state=0, stratify=labels[rest])
    parts = [
        Pictures(
            [draw(glyphs[index], seed=(time, index)) for index in indices for time in range(times)], labels[indices].repeat(times)
        )
        for indices, times in ((train, drawings), (validation, 1), (test, 1))
    ]
    return parts[0], parts[1], parts[2]


def draw(glyph: np.ndarray, seed: tuple[int, int]) -> bytes:
    """A digit (64,) of values from 0 to 16 as a JPEG file; the seed decides its size, place, colours and quality."""
    rng = np.random.default_rng(seed)
    width, height = (int(side) for side in rng.integers(*SIDES, 2))
    side = int(min(width, height) * rng.uniform(0.7, 0.95))
    shape = Image.fromarray((glyph.reshape(8, 8) * (255 / 16)).astype(np.uint8)).resize((side, side), Image.Resampling.BICUBIC)
    mask = Image.new("L", (width, height))
    left, top = (round((whole - side) * rng.uniform(0.4, 0.6)) for whole in (width, height))
    mask.paste(shape, (left, top))
    ink, paper = _colours(rng)
    strength = np.asarray(mask, np.float64)[:, :, np.newaxis] / 255
    levels = ink * strength + paper * (1 - strength) + rng.normal(0, 4, (height, width, 1))
    return _jpeg(Image.fromarray(levels.clip(0, 255).astype(np.uint8)), int(rng.integers(60, 96)), turned=rng.random() < 1 / 3)


def _colours(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Ink and paper, (3,) each; either may be the darker one."""
    while True:
        ink, paper = rng.uniform(0, 255, (2, 3))
        if abs(ink.mean() - paper.mean()) >= CONTRAST:
            return ink, paper


def _jpeg(picture: Image.Image, quality: int, *, turned: bool) -> bytes:
    exif = Image.Exif()
    if turned:
        picture = picture.transpose(Image.Transpose.ROTATE_90)
        exif[ORIENTATION] = 6
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality, exif=exif)
    return file.getvalue()


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    _, _, held_out = pictures(drawings=0)
    for number, (file, label) in enumerate(zip(held_out.files[:10], held_out.labels, strict=False)):
        (folder / f"{number}-is-{label}.jpg").write_bytes(file)
