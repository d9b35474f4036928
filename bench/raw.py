"""Raw values for a load test, where the server makes the tensors: pictures, texts and rows, made up or read from files."""

import csv
import io
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from artifact.operations.raw import RawSpec, RawValue
from bench.body import Raws
from bench.errors import NotAsked
from bench.inputs import IMAGES, content_of, listed

PICTURE = (375, 500)
"""Height and width of a picture that is made up: the mean of ImageNet's."""
JPEG_QUALITY = 90

_COARSE = 16
"""A made-up picture is noise of so many pixels a side, enlarged, under fine noise: it compresses as photographs do."""
_GRAIN = 6.0
_WORDS = "the a of to in is it that for on with as was at by this be not are from have an they which one you had all we can her"
_SENTENCE_WORDS = 16


def spec_from_json(value: Mapping[str, Any]) -> RawSpec:
    """A raw input as a server's metadata states it. Raises KeyError, TypeError or AttributeError where it is none."""
    details = {key: one for key, one in value.items() if key not in {"name", "kind", "makes"}}
    return RawSpec(value["name"], value["kind"], tuple(value.get("makes", ())), details)


def made_up(specs: Sequence[RawSpec], rows: int = 1, different: int = 8, seed: int = 0) -> list[Raws]:
    """So many different requests of `rows` rows, the same for the same seed: JPEG files, sentences, or rows of every column.

    Raises:
        NotAsked: pictures are needed, and pillow is not installed; or a raw input is of a kind that is not made up.
    """
    generator = np.random.default_rng(seed)
    return [Raws({spec.name: [_made(spec, generator) for _ in range(rows)] for spec in specs}) for _ in range(different)]


def from_files(paths: Sequence[Path], specs: Sequence[RawSpec], rows: int = 1) -> list[Raws]:
    """Requests of the values in files, `rows` at a time; the last one begins again with the first.

    Of an image, every file; of a text, every line of a .txt file that is not blank; of a row, every line of a .csv file under
    its header. A folder stands for all its files of that kind.

    Raises:
        NotAsked: a file cannot be read or is of another kind, or the model takes several raw inputs.
    """
    if len(specs) != 1:
        names = ", ".join(spec.name for spec in specs)
        raise NotAsked(f"--input has a place for one raw input, the model takes {names}: leave it out, they are made up")
    spec = specs[0]
    if spec.kind not in _READERS:
        raise NotAsked(f"--input cannot hold the raw input {spec.name}, which is a {spec.kind}: leave it out, it is made up")
    suffixes, read = _READERS[spec.kind]
    values = [value for file in listed(paths, suffixes) for value in read(content_of(file), file)]
    if not values:
        raise NotAsked(f"--input {', '.join(map(str, paths))} holds no {spec.kind}")
    turns = itertools.cycle(values)
    return [Raws({spec.name: list(itertools.islice(turns, rows))}) for _ in range(-(-len(values) // rows))]


def picture(generator: np.random.Generator, height: int = PICTURE[0], width: int = PICTURE[1]) -> bytes:
    """A JPEG file as large as a photograph of that size.

    Raises:
        NotAsked: pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError as cause:
        raise NotAsked("pictures are made up by pillow, which is not installed: pip install 'stateserve[images]'") from cause
    coarse = Image.fromarray(generator.integers(0, 256, (_COARSE, _COARSE, 3), np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.float32)
    levels = smooth + generator.normal(0, _GRAIN, smooth.shape).astype(np.float32)
    file = io.BytesIO()
    Image.fromarray(np.clip(levels, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=JPEG_QUALITY)
    return file.getvalue()


def sentence(generator: np.random.Generator, words: int = _SENTENCE_WORDS) -> str:
    """So many common English words in some order."""
    return " ".join(generator.choice(_WORDS.split(), words))


def _made(spec: RawSpec, generator: np.random.Generator) -> RawValue:
    match spec.kind:
        case "image":
            return picture(generator)
        case "text":
            return sentence(generator)
        case "pair":
            return sentence(generator), sentence(generator)
        case "row":
            return {column["name"]: _made_cell(column, generator) for column in spec.details.get("columns", ())}
        case _:
            raise NotAsked(f"the raw input {spec.name} is a {spec.kind}, which is not made up")


def _made_cell(column: Mapping[str, Any], generator: np.random.Generator) -> Any:
    values = column.get("values")
    return values[int(generator.integers(len(values)))] if values else round(float(generator.random()), 6)


def _read_picture(content: bytes, _file: Path) -> list[RawValue]:
    return [content]


def _read_lines(content: bytes, file: Path) -> list[RawValue]:
    return [line for line in _text(content, file).splitlines() if line.strip()]


def _read_csv(content: bytes, file: Path) -> list[RawValue]:
    rows = csv.DictReader(io.StringIO(_text(content, file)), strict=True)
    try:
        return [{name: _cell(text) for name, text in row.items() if text != ""} for row in rows]
    except (csv.Error, TypeError) as cause:  # a row longer than its header
        raise NotAsked(f"--input {file} is no table: {cause}") from cause


def _cell(text: str) -> Any:
    """A number where it is one, as JSON writes it; else the text."""
    try:
        found = json.loads(text)
    except ValueError:
        return text
    return found if isinstance(found, (int, float)) and not isinstance(found, bool) else text


def _text(content: bytes, file: Path) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as cause:
        raise NotAsked(f"--input {file} is no UTF-8: {cause}") from cause


_READERS: Mapping[str, tuple[Sequence[str], Callable[[bytes, Path], list[RawValue]]]] = {
    "image": (tuple(IMAGES), _read_picture),
    "text": ((".txt",), _read_lines),
    "row": ((".csv",), _read_csv),
}
"""Kind of a raw input -> suffixes of its files, and how their values are read."""
