"""Raw samples: real ones from a folder (`--samples`), or made-up ones, the same on every machine."""

import csv
import io
import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from artifact.operations import RawSpec, RawValue
from artifact.signature import Signature
from export.errors import ConfigError

MAX_SAMPLES = 32
"""Samples that are read from a folder; more would make the export long, and prove little more."""
IMAGES = frozenset({".jpg", ".jpeg", ".png", ".webp"})

_SENTENCES = (
    "The quick brown fox jumps over the lazy dog.",
    "Is this what you meant? Yes, it is: 3 of 4.",
    "",
    "Größe, naïveté, 東京, 🙂: words of several scripts.",
    " ".join(f"word{number}" for number in range(700)),
)
_SIZES = ((320, 240), (240, 320), (64, 64), (512, 384), (28, 28), (8, 8), (1024, 1024))


@dataclass(frozen=True, slots=True)
class Sample:
    """One row of raw values, by raw input; `name` is for messages."""

    name: str
    raw: Mapping[str, RawValue]


def read_samples(directory: Path, specs: Sequence[RawSpec]) -> list[Sample]:
    """The samples of a folder, by name: pictures, `.txt` (a text a line), `.csv` (a row a line, below a header).

    `.jsonl` has a row of several raw inputs a line: an object by raw input (a picture as a file's name beside it).

    Raises:
        ConfigError: there are none, or one cannot be read.
    """
    try:
        files = sorted(path for path in directory.iterdir() if path.is_file())
    except (OSError, ValueError) as cause:
        raise ConfigError(f"samples {directory} cannot be read: {cause}") from cause
    samples = list(itertools.islice((sample for path in files for sample in _read_file(path, specs)), MAX_SAMPLES))
    if not samples:
        wanted = {"image": "*.jpg, *.png, *.webp", "text": "*.txt", "pair": "*.jsonl", "row": "*.csv"}
        shown = "*.jsonl" if len(specs) > 1 else wanted[specs[0].kind]
        raise ConfigError(f"samples {directory} holds nothing for the raw inputs; put {shown} there (not in a folder below)")
    return samples


def _read_file(path: Path, specs: Sequence[RawSpec]) -> Iterator[Sample]:
    """The samples of one file, read as far as they are asked for; none where it is of another kind.

    Raises:
        ConfigError: it cannot be read; with its name.
    """
    suffix = path.suffix.lower()
    kind = specs[0].kind if len(specs) == 1 else None
    try:
        if kind == "image" and suffix in IMAGES:
            yield Sample(str(path), {specs[0].name: path.read_bytes()})
        elif suffix == ".jsonl" or (kind, suffix) in {("text", ".txt"), ("row", ".csv")}:
            with path.open(encoding="utf-8-sig", newline="" if suffix == ".csv" else None) as file:
                yield from _LINES[suffix](file, path, specs)
    except (OSError, ValueError, csv.Error) as cause:
        raise ConfigError(f"samples {path} cannot be read: {cause}") from cause


def _json_lines(file: TextIO, path: Path, specs: Sequence[RawSpec]) -> Iterator[Sample]:
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, parse_constant=_no_constant)
            raw = _raws(specs, row, path.parent)
        except (OSError, ValueError, RecursionError) as cause:
            raise ConfigError(f"sample {path}:{number} cannot be read: {cause}") from cause
        yield Sample(f"{path}:{number}", raw)


def _text_lines(file: TextIO, path: Path, specs: Sequence[RawSpec]) -> Iterator[Sample]:
    for number, line in enumerate(file, 1):
        yield Sample(f"{path}:{number}", {specs[0].name: line.removesuffix("\n")})


def _csv_lines(file: TextIO, path: Path, specs: Sequence[RawSpec]) -> Iterator[Sample]:
    lines = csv.DictReader(file)
    columns = [column["name"] for column in specs[0].details["columns"]]
    header = lines.fieldnames or ()
    if absent := [name for name in columns if name not in header]:
        raise ValueError(f"its header, {', '.join(header)!r:.80}, lacks {', '.join(absent)}; cells are separated by commas")
    for row in lines:
        yield Sample(f"{path}:{lines.line_num}", {specs[0].name: _typed(row, specs[0])})


_LINES: Mapping[str, Callable[[TextIO, Path, Sequence[RawSpec]], Iterator[Sample]]] = {
    ".jsonl": _json_lines,
    ".txt": _text_lines,
    ".csv": _csv_lines,
}


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is no number of JSON")


def _raws(specs: Sequence[RawSpec], row: Any, directory: Path) -> dict[str, RawValue]:
    """A row of all raw inputs as JSON states it. Raises OSError or ValueError where it is none."""
    names = [spec.name for spec in specs]
    if not isinstance(row, dict) or sorted(row) != sorted(names):
        raise ValueError(f"it is {json.dumps(row):.80}; an object of {', '.join(names)} is expected")
    return {spec.name: _raw(spec, row[spec.name], directory) for spec in specs}


def _raw(spec: RawSpec, value: Any, directory: Path) -> RawValue:
    """A raw value as JSON states it. Raises OSError or ValueError where it is none."""
    if spec.kind == "image":
        if not isinstance(value, str):
            raise ValueError(f"{spec.name} is {json.dumps(value):.80}; the name of a picture's file is expected")
        return (directory / value).read_bytes()
    if spec.kind != "pair":
        return value
    if not isinstance(value, list) or len(value) != 2:
        raise ValueError(f"{spec.name} is {json.dumps(value):.80}; a list of two texts is expected")
    return value[0], value[1]


def _typed(row: Mapping[str, Any], spec: RawSpec) -> dict[str, Any]:
    """A line of CSV as a row: numbers and values as the columns declare them, null for what is empty.

    A text that is none of them stays, for the operations to judge. Columns that the model does not take are left out.
    """
    columns = {column["name"]: column for column in spec.details["columns"]}
    return {name: _cell_value(columns[name], text) for name, text in row.items() if name in columns}


def _cell_value(column: Mapping[str, Any], text: str | None) -> Any:
    if not text:
        return None
    if column["kind"] == "category":
        return next(
            (value for value in column["values"] if text == (value if isinstance(value, str) else json.dumps(value))), text
        )
    try:
        return float(text)
    except ValueError:
        return text


def made_samples(specs: Sequence[RawSpec], signature: Signature) -> Iterator[Sample]:
    """Samples out of a fixed seed: pictures of several sizes (that of the inputs too), sentences, rows of each kind of value."""
    declared = (shape[place : place + 2] for shape in (spec.shape for spec in signature.inputs) for place in (1, 2))
    own = [(size[1], size[0]) for size in declared if len(size) == 2 and all(isinstance(side, int) for side in size)]
    for number, size in enumerate(dict.fromkeys([*_SIZES, *own])):
        yield Sample(f"made-{number}", {spec.name: _made(spec, number, size) for spec in specs})


def _made(spec: RawSpec, number: int, size: Any) -> RawValue:
    if spec.kind == "image":
        return _picture(number, size)
    if spec.kind == "row":
        return {column["name"]: _made_cell(column, number) for column in spec.details["columns"]}
    first, second = (_SENTENCES[(number + step) % len(_SENTENCES)] for step in (0, 1))
    return (first, second) if spec.kind == "pair" else first


def _made_cell(column: Mapping[str, Any], number: int) -> Any:
    if column["kind"] == "number":
        value = [1.5, 0.0, -2.25, 40.0][number % 4]
        return min(max(value, column.get("min", value)), column.get("max", math.inf))
    values = column["values"]
    return values[number % len(values)]


def _picture(number: int, size: tuple[int, int]) -> bytes:
    """A picture of waves, edges and noise as a PNG, or, every second one, as a JPEG."""
    from PIL import Image

    width, height = size
    rng = np.random.default_rng([7, number])
    down, right = np.mgrid[0:height, 0:width]
    waves = np.stack([np.sin(down / (3 + channel)) + np.cos(right / (5 + 2 * channel)) for channel in range(3)], axis=-1)
    values = 127 + 50 * waves + rng.normal(0, 8, (height, width, 3))
    values[height // 4 : height // 2, width // 4 : width // 2] = rng.integers(0, 255, 3)
    file = io.BytesIO()
    picture = Image.fromarray(np.clip(values, 0, 255).astype(np.uint8), "RGB")
    picture.save(file, *(("JPEG",) if number % 2 else ("PNG",)), **({"quality": 90} if number % 2 else {}))
    return file.getvalue()
