"""Operations as they are declared: the YAML's `preprocess` and `postprocess`, and what the manifest holds of them.

A list is the chain of the only raw input, or of the only output; else a mapping names them. Each operation is a mapping of one
key, its name, to its parameters: `{resize: {short: 256}}`.
"""

import difflib
import json
import re
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError

from artifact.operations import images, outputs, table, text
from artifact.operations.errors import BadOperations
from artifact.operations.kinds import InputOperation, Operation, OutputOperation

INPUT_OPERATIONS: Mapping[str, type[InputOperation]] = {**images.OPERATIONS, **text.OPERATIONS, **table.OPERATIONS}
"""Every operation on inputs, by the name that the YAML gives it."""
OUTPUT_OPERATIONS: Mapping[str, type[OutputOperation]] = outputs.OPERATIONS
"""Every operation on outputs, by the name that the YAML gives it."""

ONLY = ""
"""The name of a chain that was declared as a list."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

Path = tuple[str | int, ...]
Kept = TypeVar("Kept", bound=Operation)


@dataclass(frozen=True, slots=True)
class Declared(Generic[Kept]):
    """One operation, and where it stands in the YAML."""

    name: str
    operation: Kept
    path: Path

    def to_json(self) -> dict[str, Any]:
        """As it stands in the manifest: every parameter, defaults too; what is not set is left out."""
        return {self.name: self.operation.model_dump(mode="json", exclude_none=True)}


@dataclass(frozen=True, slots=True)
class Chains:
    """All that is declared: chains by the name of their raw input or output, `ONLY` where it was a list."""

    preprocess: Mapping[str, tuple[Declared[InputOperation], ...]] = field(default_factory=dict)
    postprocess: Mapping[str, tuple[Declared[OutputOperation], ...]] = field(default_factory=dict)

    @property
    def files(self) -> dict[str, Path]:
        """Every file that an operation names, and the place that names it first."""
        found: dict[str, Path] = {}
        for one in (one for chain in self.preprocess.values() for one in chain):
            for parameter in one.operation.file_fields():
                found.setdefault(getattr(one.operation, parameter), (*one.path, parameter))
        return found

    def renamed(self, names: Mapping[str, str]) -> "Chains":
        """The same with other names of files: an artifact has its own."""

        def changed(one: Declared[InputOperation]) -> Declared[InputOperation]:
            update = {parameter: names[getattr(one.operation, parameter)] for parameter in one.operation.file_fields()}
            return Declared(one.name, one.operation.model_copy(update=update), one.path)

        return Chains({name: tuple(changed(one) for one in chain) for name, chain in self.preprocess.items()}, self.postprocess)

    def to_json(self) -> dict[str, Any]:
        """What the manifest holds: `parse(**value)` is the inverse. Empty where nothing is declared."""
        sides = {"preprocess": _to_json(self.preprocess), "postprocess": _to_json(self.postprocess)}
        return {side: value for side, value in sides.items() if value}


def parse(preprocess: Any = None, postprocess: Any = None) -> Chains:
    """The chains that plain YAML or JSON data declares; whether they fit the model is `operations.make`'s to say.

    Raises:
        BadOperations: an operation is unknown, or a parameter is missing, unknown or of another type.
    """
    return Chains(
        _chains(preprocess, "preprocess", INPUT_OPERATIONS),
        _chains(postprocess, "postprocess", OUTPUT_OPERATIONS),
    )


def _chains(data: Any, side: str, known: Mapping[str, type[Kept]]) -> dict[str, tuple[Declared[Kept], ...]]:
    if data is None:
        return {}
    if isinstance(data, list):
        return {ONLY: _chain(data, (side,), known)}
    if not isinstance(data, dict):
        shown = json.dumps(data, default=str)
        raise BadOperations(f"a list of operations is expected, or a mapping of names to such lists, not {shown:.80}", (side,))
    for name in data:
        if not isinstance(name, str) or _NAME.fullmatch(name) is None:
            raise BadOperations(f"{name!r} is no name of an input or output: it has letters, digits and _", (side, name))
    return {
        name: () if chain == [] and side == "postprocess" else _chain(chain, (side, name), known) for name, chain in data.items()
    }


def _chain(data: Any, path: Path, known: Mapping[str, type[Kept]]) -> tuple[Declared[Kept], ...]:
    if not isinstance(data, list) or not data:
        raise BadOperations("a list of at least one operation is expected, as [{softmax: {axis: -1}}]", path)
    return tuple(_one(item, (*path, place), known) for place, item in enumerate(data))


def _one(item: Any, path: Path, known: Mapping[str, type[Kept]]) -> Declared[Kept]:
    if isinstance(item, str):  # an operation without parameters may stand alone
        item = {item: {}}
    if not isinstance(item, dict) or len(item) != 1:
        raise BadOperations("one operation is a mapping of its name to its parameters, as {resize: {short: 256}}", path)
    name, parameters = next(iter(item.items()))
    if name not in known:
        raise BadOperations(f"there is no operation {name!r}{nearest(name, list(known))}", path)
    try:
        # JSON, so that types are strict, and lists are tuples all the same
        operation = known[name].model_validate_json(json.dumps({} if parameters is None else parameters), strict=True)
    except (TypeError, RecursionError) as cause:  # a YAML's date, or a list within itself
        raise BadOperations(f"the parameters of {name} hold more than plain data: {cause}", (*path, name)) from cause
    except ValidationError as cause:
        # of a value that may be of several types, the problem that lies deepest is of the type that was meant
        problem = max(map(_of_tag, cause.errors(include_url=False)), key=lambda one: len(_inside(parameters, one["loc"])))
        raise BadOperations(_message(problem, known[name]), (*path, name, *_inside(parameters, problem["loc"]))) from cause
    return Declared(name, operation, (*path, name))


def _of_tag(problem: Any) -> Any:
    """The problem as one of the parameter by which the models of a union are told apart, where it is."""
    if problem["type"] not in {"union_tag_invalid", "union_tag_not_found"}:
        return problem
    tag = problem["ctx"]["discriminator"].strip("'")
    if tag not in problem["input"]:
        return {**problem, "type": "missing", "loc": (*problem["loc"], tag)}
    expected = " or ".join(problem["ctx"]["expected_tags"].split(", "))
    return {
        "type": "literal_error",
        "loc": (*problem["loc"], tag),
        "msg": f"Input should be {expected}",
        "input": problem["input"][tag],
        "ctx": {"expected": expected},
    }


def _inside(data: Any, location: Path) -> Path:
    """The parts of a problem's location that are in the data: pydantic also names the types that it tried."""
    found: list[str | int] = []
    for part in location:
        known: Any = dict(enumerate(data)) if isinstance(data, list) else data
        if isinstance(known, dict) and part in known:
            data = known[part]
            found.append(part)
    return tuple(found)


def _names(model: type[BaseModel], location: Path) -> Sequence[str]:
    """The parameters that there are at a place."""
    models = [model]
    for part in location:
        inner = [found for one in models if part in one.model_fields for found in _models(one.model_fields[part].annotation)]
        models = inner or [one for one in models if _is_tagged(one, part)] or models
    return [field.alias or name for name, field in models[0].model_fields.items()]


def _models(annotation: Any) -> list[type[BaseModel]]:
    """The models within a type: that of the list's items, of one that may be None, all of a union."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for inner in typing.get_args(annotation) for found in _models(inner)]


def _is_tagged(model: type[BaseModel], tag: str | int) -> bool:
    """Whether the tag is the one value of a field, by which pydantic tells the models of a union apart."""
    return any(typing.get_args(field.annotation) == (tag,) for field in model.model_fields.values())


def nearest(name: object, known: Sequence[str]) -> str:
    """The end of a message about an unknown name: the known one that is like it, or all that are known."""
    return _close(name, known) or f"; known: {', '.join(known) or 'none'}"


def _close(name: object, known: Sequence[str]) -> str:
    """As `nearest`; empty where none is like it."""
    in_lower_case = {one.lower(): one for one in known}
    found = difflib.get_close_matches(str(name).lower(), in_lower_case, n=1)
    return f"; nearest: {in_lower_case[found[0]]}" if found else ""


def _message(problem: Any, operation: type[Operation]) -> str:
    if problem["type"] == "extra_forbidden":
        return f"unknown parameter {problem['loc'][-1]!r}{nearest(problem['loc'][-1], _names(operation, problem['loc'][:-1]))}"
    if problem["type"] == "missing":
        return f"parameter {problem['loc'][-1]!r} is required, but not there"
    message = problem["msg"].removeprefix("Value error, ")
    shown = "" if problem["type"] == "value_error" else f", got {json.dumps(problem['input'])}"
    # what is expected of an enumerated parameter is words: 'bilinear' or 'bicubic'
    allowed = re.findall("'([^']*)'", problem["ctx"]["expected"]) if problem["type"] == "literal_error" else ()
    return f"{message[:1].lower()}{message[1:]}{shown}{_close(problem['input'], allowed)}"


def _to_json(chains: Mapping[str, tuple[Declared[Any], ...]]) -> Any:
    if ONLY in chains:
        return [one.to_json() for one in chains[ONLY]]
    return {name: [one.to_json() for one in chain] for name, chain in chains.items()}
