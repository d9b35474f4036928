"""Raw samples: real ones from a folder (`--samples`), or made-up ones, the same on every machine."""

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
        samples = [sample for path in files for sample in _read(path, specs)]
    except OSError as cause:
        raise ConfigError(f"samples {directory} cannot be read: {cause.strerror or cause}") from cause
    except (ValueError, csv.Error) as cause:
        raise ConfigError(f"samples {directory} cannot be read: {cause}") from cause
    if not samples:
        wanted = {"image": "*.jpg, *.png, *.webp", "text": "*.txt", "pair": "*.jsonl", "row": "*.csv"}
        shown = "*.jsonl" if len(specs) > 1 else wanted[specs[0].kind]
        raise ConfigError(f"samples {directory} holds nothing for the raw inputs; put {shown} there")
    return samples[:MAX_SAMPLES]


def _read(path: Path, specs: Sequence[RawSpec]) -> Iterator[Sample]:
    suffix = path.suffix.lower()
    if suffix == ".jsonl":
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
            if line.strip():
                row = json.loads(line)
                yield Sample(f"{path}:{number}", {spec.name: _raw(spec, row[spec.name], path.parent) for spec in specs})
    elif len(specs) == 1:
        (spec,) = specs
        if spec.kind == "image" and suffix in IMAGES:
            yield Sample(str(path), {spec.name: path.read_bytes()})
        elif spec.kind == "text" and suffix == ".txt":
            for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
                yield Sample(f"{path}:{number}", {spec.name: line})
        elif spec.kind == "row" and suffix == ".csv":
            for number, row in enumerate(csv.DictReader(io.StringIO(path.read_text("utf-8"))), 2):
                yield Sample(f"{path}:{number}", {spec.name: _typed(row, spec)})


def _raw(spec: RawSpec, value: Any, directory: Path) -> RawValue:
    if spec.kind == "image":
        return (directory / str(value)).read_bytes()
    return (str(value[0]), str(value[1])) if spec.kind == "pair" else value


def _typed(row: Mapping[str, Any], spec: RawSpec) -> dict[str, Any]:
    """A line of CSV as a row: numbers for columns of numbers, null for what is empty."""
    kinds = {column["name"]: column["kind"] for column in spec.details.get("columns", ())}

    def value(name: str, text: Any) -> Any:
        if text in {"", None}:
            return None
        return float(text) if kinds.get(name) == "number" else text

    return {name: value(name, text) for name, text in row.items() if name in kinds}


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
        return {column["name"]: _cell(column, number) for column in spec.details.get("columns", ())}
    first, second = (_SENTENCES[(number + step) % len(_SENTENCES)] for step in (0, 1))
    return (first, second) if spec.kind == "pair" else first


def _cell(column: Mapping[str, Any], number: int) -> Any:
    if column["kind"] == "number":
        return [1.5, 0.0, -2.25, 40.0][number % 4]
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
