"""What a training hands to a Keeper, checked and made plain: numbers, metrics, and the config that goes with the weights."""

import copy
import functools
import operator
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from checkpoints.errors import KeeperError
from checkpoints.keeping.names import LARGEST_STEP, is_link, stem_of
from foundation.storage import canonical_json

if TYPE_CHECKING:
    from checkpoints.keeping.store import Store


@dataclass(frozen=True, slots=True)
class Given:
    """A config as every sidecar carries it, and the files that go beside the checkpoints: labels, tokenizers, by name."""

    config: Mapping[str, Any] | None = None
    files: Mapping[str, bytes] = field(default_factory=dict)


def whole_number(what: str, value: Any) -> int:
    """A step or an epoch as an int: NumPy's and torch's whole numbers are taken as well.

    Raises KeeperError where it is none, negative, or too large.
    """
    try:
        number = operator.index(value)
    except TypeError as error:
        raise KeeperError(f"{what} is {value!r}, expected a whole number.") from error
    if isinstance(value, bool) or not 0 <= number <= LARGEST_STEP:
        raise KeeperError(f"{what} is {value!r}, expected a whole number from 0 to {LARGEST_STEP}.")
    return number


def plain_metrics(metrics: Mapping[str, Any] | None) -> dict[str, float]:
    """Metrics as floats by name; tensors and arrays of one element are taken as well.

    Raises KeeperError where a name is no text or a value is not one number.
    """
    found = {}
    for name, value in (metrics or {}).items():
        if not isinstance(name, str):
            raise KeeperError(f"metrics: the name {name!r} is not a text.")
        try:
            found[name] = float(value)
        except (TypeError, ValueError, RuntimeError, OverflowError) as error:
            raise KeeperError(f"metrics: {name} is {type(value).__name__}, expected one number.") from error
        if isinstance(value, str | bytes):
            raise KeeperError(f"metrics: {name} is {value!r}, expected a number.")
    return found


def given_config(config: str | Path | Mapping[str, Any] | None) -> Given:
    """The config that a sidecar carries: from the model's YAML, or a mapping; with `schema` it is the exporter's.

    Labels and tokenizers that it names are read, and named without their folder: an exporter takes them beside the checkpoint.

    Raises KeeperError where the file cannot be read or is not a mapping, or where a value is not what JSON holds.
    """
    if config is None:
        return Given()
    directory = Path.cwd() if isinstance(config, Mapping) else Path(config).absolute().parent
    fields = dict(config) if isinstance(config, Mapping) else _read_yaml(Path(config))
    try:
        canonical_json(fields)
    except (TypeError, ValueError, RecursionError) as error:
        raise KeeperError(f"config: {error}; expected texts, finite numbers, booleans, lists and mappings.") from error
    return _with_files(fields, directory) if "schema" in fields else Given(fields)


def put_files(store: "Store", given: Given) -> None:
    """Write the files that the config names beside the checkpoints, once.

    Raises KeeperError where another file has such a name: checkpoints that are there may need that one.
    """
    for name, data in given.files.items():
        if name not in store.sizes():
            store.write(name, functools.partial(_write_all, data=data))
        elif store.read(name) != data:
            raise KeeperError(
                f"config: the file {name} in {store.where} is another than this training's. "
                "Keep these checkpoints in a directory of their own, or give the file another name."
            )


def _write_all(stream: Any, *, data: bytes) -> None:
    stream.write(data)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        import yaml
    except ImportError as error:
        raise KeeperError(f"config: {path} needs pyyaml to be read. Run: pip install pyyaml") from error
    try:
        fields = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise KeeperError(f"config: {path} cannot be read: {error.strerror or error}.") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise KeeperError(f"config: {path} is not YAML: {error}.") from error
    if not isinstance(fields, dict):
        raise KeeperError(f"config: {path} holds {type(fields).__name__}, expected a mapping.")
    return fields


def _with_files(fields: dict[str, Any], directory: Path) -> Given:
    fields = copy.deepcopy(fields)
    labelled = _mappings_with(fields.get("outputs"), "labels")
    if len({output["labels"] for output in labelled}) > 1:
        raise KeeperError("config: several outputs name different labels files; one of them may.")
    files: dict[str, bytes] = {}
    for owner, key in [*((one, "labels") for one in labelled), *((one, "file") for one in _tokenizers(fields.get("preprocess")))]:
        path = directory / owner[key]
        data = _read_beside(path)
        if files.setdefault(path.name, data) != data:
            raise KeeperError(f"config: two files are called {path.name}. Give one of them another name.")
        owner[key] = path.name
    return Given(fields, files)


def _tokenizers(preprocess: Any) -> list[dict[str, Any]]:
    """The parameters of operations that name a file: of a list of them, or of lists by the input's name."""
    chains = preprocess.values() if isinstance(preprocess, dict) else [preprocess]
    operations = [one for chain in chains if isinstance(chain, list) for one in chain]
    return [parameters for one in operations for parameters in _mappings_with(one, "file")]


def _mappings_with(owner: Any, key: str) -> list[dict[str, Any]]:
    """The mappings below one that have a text under a key."""
    below = owner.values() if isinstance(owner, dict) else ()
    return [one for one in below if isinstance(one, dict) and isinstance(one.get(key), str)]


def _read_beside(path: Path) -> bytes:
    if stem_of(path.name) is not None or is_link(path.name) or path.name.startswith("."):
        raise KeeperError(f"config: the file {path.name} has a name that checkpoints have. Give it another.")
    try:
        return path.read_bytes()
    except OSError as error:
        raise KeeperError(f"config: the file {path} cannot be read: {error.strerror or error}.") from error
