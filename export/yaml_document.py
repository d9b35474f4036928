"""YAML as plain data with the place of every value: one document, no aliases, no tags, no duplicate keys, small.

Scalars follow YAML 1.2's core schema (https://yaml.org/spec/1.2.2/#103-core-schema), not PyYAML's 1.1: `no` and `on` are strings,
`1e-3` is a number, `010` is ten.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from export.errors import ConfigError

MAX_BYTES = 1 << 20
MAX_DEPTH = 16
MAX_NODES = 20_000

Path = tuple[str | int, ...]
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, slots=True)
class Document:
    """The data, and where in the text each value (or a mapping's key) stands: path -> (line, column), from 1."""

    name: str
    data: Any
    places: Mapping[Path, tuple[int, int]]

    def at(self, path: Path) -> str:
        """`name:line:column` of the value at the path, or of the closest one around it."""
        known = path
        while known and known not in self.places:
            known = known[:-1]
        line, column = self.places.get(known, (1, 1))
        return f"{self.name}:{line}:{column}"

    def wrong(self, path: Path, problem: str) -> str:
        """The message of a problem at a path: where it is, the path itself, and what is wrong."""
        return f"{self.at(path)}: {'.'.join(str(part) for part in path)}: {problem}"


class _CoreLoader(_Loader):  # type: ignore[misc, valid-type]
    """Resolves plain scalars by YAML 1.2's core schema."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 (PyYAML's own protocol)


_CoreLoader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""])
_CoreLoader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
_CoreLoader.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile(r"^(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$"), list("-+0123456789")
)
_CoreLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"),
    list("-+.0123456789"),
)


class CoreDumper(yaml.SafeDumper):
    """Puts strings in quotes that `read_yaml` would read as something else: PyYAML alone writes "1e3" without."""

    yaml_implicit_resolvers = {  # noqa: RUF012 (PyYAML's own protocol)
        first: [*yaml.SafeDumper.yaml_implicit_resolvers.get(first, []), *_CoreLoader.yaml_implicit_resolvers.get(first, [])]
        for first in {*yaml.SafeDumper.yaml_implicit_resolvers, *_CoreLoader.yaml_implicit_resolvers}
    }


def read_yaml(text: bytes, name: str) -> Document:
    """Reads one YAML document; `name` stands in the messages.

    Raises:
        ConfigError: the text is no YAML, too large or too deep, has duplicate keys, aliases, tags, or keys that are no strings.
    """
    if len(text) > MAX_BYTES:
        raise ConfigError(f"{name} has {len(text)} bytes; a config has at most {MAX_BYTES}")
    try:
        decoded = text.decode("utf-8")
    except UnicodeDecodeError as cause:
        raise ConfigError(f"{name} is not UTF-8 text: {cause.reason} at byte {cause.start}") from cause
    try:
        node = _compose(decoded, name)
    except yaml.MarkedYAMLError as cause:
        raise ConfigError(_explain(cause, decoded, name)) from cause
    except yaml.YAMLError as cause:  # a character that no YAML holds
        raise ConfigError(f"{name} is not YAML: {' '.join(str(cause).split())}") from cause
    places: dict[Path, tuple[int, int]] = {}
    data = _construct(node, (), places, name) if node is not None else {}
    return Document(name, data, places)


def _compose(text: str, name: str) -> yaml.Node | None:
    """The document's nodes; events are counted first, so that depth, aliases and size are refused before any tree is built."""
    depth = nodes = 0
    for event in yaml.parse(text, Loader=_CoreLoader):
        place = f"{name}:{event.start_mark.line + 1}:{event.start_mark.column + 1}"
        if isinstance(event, yaml.AliasEvent):
            raise ConfigError(f"{place}: alias *{event.anchor}; a config uses no aliases, write the value out")
        if isinstance(event, yaml.NodeEvent):
            nodes += 1
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise ConfigError(f"{place}: nested deeper than {MAX_DEPTH} levels")
        if nodes > MAX_NODES:
            raise ConfigError(f"{place}: more than {MAX_NODES} values")
    return yaml.compose(text, Loader=_CoreLoader)


def _explain(error: yaml.MarkedYAMLError, text: str, name: str) -> str:
    """Where the text is no YAML, in plain words, with the line itself; then the parser's own words."""
    said = " ".join(part for part in (error.context, error.problem) if part)
    unknown = (False, "it cannot be read on from here")
    begins, plain = next(((begins, plain) for words, begins, plain in _PLAIN if words in said), unknown)
    mark, noticed = (error.context_mark if begins else error.problem_mark), error.problem_mark
    if mark is None or noticed is None:
        return f"{name} is not YAML: {said}"
    shown = "".join(text.splitlines()[mark.line : mark.line + 1])[max(mark.column - _SHOWN, 0) : mark.column + _SHOWN]
    return (
        f"{name}:{mark.line + 1}:{mark.column + 1}: not YAML: {plain}: {shown!r} "
        f"(the parser: {said} at {noticed.line + 1}:{noticed.column + 1})"
    )


_SHOWN = 60
"""Characters of a line in a message, on each side of the place."""
_PLAIN: Sequence[tuple[str, bool, str]] = (
    ("flow mapping", True, "the { that begins here is not closed, or a comma is missing in it"),
    ("flow sequence", True, "the [ that begins here is not closed, or a comma is missing in it"),
    ("unexpected end of stream", True, "the quote that begins here is not closed"),
    (
        "mapping values",
        False,
        "no key can stand here: indent it as its neighbours, end the line above with a colon, or quote a value that holds one",
    ),
    ("block mapping", False, "a key is expected here, indented as those above it"),
    ("block collection", False, "a dash is expected here, indented as those above it"),
    ("cannot start any token", False, "nothing can begin so: indent with spaces, and put such a value in quotes"),
    ("another document", False, "a second document begins here, and a config is one"),
)
"""Words of PyYAML's, with libyaml or without; whether the mistake is where the part began that it speaks of; and ours."""


def _construct(node: yaml.Node, path: Path, places: dict[Path, tuple[int, int]], name: str) -> Any:
    line, column = node.start_mark.line + 1, node.start_mark.column + 1
    places.setdefault(path, (line, column))
    place = f"{name}:{line}:{column}"
    if isinstance(node, yaml.MappingNode) and node.tag == "tag:yaml.org,2002:map":
        return _construct_mapping(node, path, places, name)
    if isinstance(node, yaml.SequenceNode) and node.tag == "tag:yaml.org,2002:seq":
        return [_construct(item, (*path, index), places, name) for index, item in enumerate(node.value)]
    if isinstance(node, yaml.ScalarNode) and node.tag in _SCALARS:
        try:
            return _SCALARS[node.tag](node.value)
        except ValueError as cause:  # Python reads no integer of more than 4300 digits
            raise ConfigError(f"{place}: {node.value:.20}… is a number of too many digits") from cause
    raise ConfigError(f"{place}: tag {node.tag}; a config holds plain data only")


def _construct_mapping(node: yaml.MappingNode, path: Path, places: dict[Path, tuple[int, int]], name: str) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key_node, value_node in node.value:
        line, column = key_node.start_mark.line + 1, key_node.start_mark.column + 1
        if not isinstance(key_node, yaml.ScalarNode) or key_node.tag != "tag:yaml.org,2002:str":
            shown = getattr(key_node, "value", "")
            raise ConfigError(f"{name}:{line}:{column}: key {shown!s:.40} is not a string; put it in quotes")
        key = key_node.value
        if key in result:
            first = places[(*path, key)][0]
            raise ConfigError(f"{name}:{line}:{column}: duplicate key {key!r}, first on line {first}")
        places[(*path, key)] = (line, column)
        result[key] = _construct(value_node, (*path, key), places, name)
    return result


def _integer(text: str) -> int:
    return int(text, 0) if text[:2] in {"0o", "0x"} else int(text)


_SCALARS: Mapping[str, Any] = {
    "tag:yaml.org,2002:str": str,
    "tag:yaml.org,2002:null": lambda _: None,
    "tag:yaml.org,2002:bool": lambda text: text.lower() == "true",
    "tag:yaml.org,2002:int": _integer,
    "tag:yaml.org,2002:float": lambda text: float(text.lower().replace(".inf", "inf").replace(".nan", "nan")),
}
