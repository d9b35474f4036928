"""The registry: which names stand for which models, and building a model from its name and its params.

A YAML names a model by `model.name`, never by an import path: what code can run was decided before the YAML was read, by what
was imported.
"""

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeVar

import torch
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from torch import nn

from model_defs.errors import InvalidDefinition, InvalidParams, UnknownModel

Module = TypeVar("Module", bound=nn.Module)

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_definitions: dict[str, "ModelDefinition"] = {}


@dataclass(frozen=True)
class ModelDefinition:
    """One architecture: `module(params)`, where params is an instance of `params`, gives the model."""

    name: str
    params: type[BaseModel]
    module: type[nn.Module]


def register_model(name: str, *, params: type[BaseModel]) -> Callable[[type[Module]], type[Module]]:
    """Registers the decorated nn.Module class, whose constructor takes one argument, an instance of `params`.

    The parameters of its `forward` carry the names of the YAML's inputs.

    Raises:
        InvalidDefinition: the name is not lower-case letters, digits and underscores; the class is not an nn.Module; `params` is
            not a pydantic model that is frozen and forbids unknown keys; or the name is taken.
    """

    def register(module: type[Module]) -> type[Module]:
        subject = f"cannot register {_path(module)} as {name!r}"
        if not _NAME.fullmatch(name):
            raise InvalidDefinition(f"{subject}: expected a name of a-z, 0-9 and _ that starts with a letter")
        if not (isinstance(module, type) and issubclass(module, nn.Module)):
            raise InvalidDefinition(f"{subject}: expected a class that derives from torch.nn.Module")
        if not (isinstance(params, type) and issubclass(params, BaseModel)):
            raise InvalidDefinition(
                f"{subject}: its params are {params!r}, expected a class that derives from pydantic.BaseModel"
            )
        if not params.model_config.get("frozen") or params.model_config.get("extra") != "forbid":
            raise InvalidDefinition(
                f'{subject}: write class {params.__name__}(BaseModel, frozen=True, extra="forbid"), '
                "so that params cannot change and an unknown key is an error"
            )
        if name in _definitions:
            raise InvalidDefinition(f"{subject}: the name is taken by {_path(_definitions[name].module)}; choose another name")
        _definitions[name] = ModelDefinition(name, params, module)
        return module

    return register


def registered() -> Mapping[str, ModelDefinition]:
    """The models that are registered now, by name, in sorted order; what is registered later does not change the answer."""
    return MappingProxyType(dict(sorted(_definitions.items())))


def restore(definitions: Mapping[str, ModelDefinition]) -> None:
    """Makes the registry what `registered()` once answered."""
    _definitions.clear()
    _definitions.update(definitions)


def definition(name: str) -> ModelDefinition:
    """The model registered under this name.

    Raises:
        UnknownModel: there is none.
    """
    if name not in _definitions:
        names = ", ".join(registered())
        raise UnknownModel(
            f"no model is called {name!r}{_nearest(name, _definitions)}; registered are {names}. "
            "A model of your own comes in by --plugin my_model.py"
        )
    return _definitions[name]


def build(name: str, params: BaseModel | Mapping[str, Any]) -> nn.Module:
    """Builds a model on the CPU, with fresh weights: seed torch before, if they matter.

    Raises:
        UnknownModel: no model is registered under this name.
        InvalidParams: a param is unknown, missing or of a wrong value; every such param has its line in the message.
    """
    found = definition(name)
    try:
        valid = found.params.model_validate(dict(params) if isinstance(params, Mapping) else params)
    except ValidationError as error:
        problems = [_problem(found.params, details) for details in error.errors()]
        raise InvalidParams("\n  ".join([f"the params do not fit {name}:", *problems])) from error
    with torch.device("cpu"):
        return found.module(valid)


def _problem(params: type[BaseModel], details: ErrorDetails) -> str:
    """One line on one of pydantic's findings: the param's path, its value, what was expected."""
    path = ".".join(["params", *map(str, details["loc"])])
    if details["type"] == "missing":
        return f"{path} is missing, expected a value, since it has no default"
    found = f"{path} is {details['input']!r}"
    if details["type"] == "extra_forbidden":
        hint = _nearest(str(details["loc"][0]), params.model_fields) + f"; known are {', '.join(params.model_fields)}"
        return f"{found}, expected no such key{hint if len(details['loc']) == 1 else ''}"
    if details["type"] in {"value_error", "assertion_error"}:  # a validator's own words, after pydantic's "Value error, "
        return f"{found if details['loc'] else path}: {details['msg'].partition(', ')[2]}"
    return f"{found}, expected {details['msg'].removeprefix('Input should be ')}"


def _nearest(name: str, names: Mapping[str, Any]) -> str:
    """`; the nearest is …`, or nothing where no name is near."""
    near = difflib.get_close_matches(name, names, n=1)
    return f"; the nearest is {near[0]}" if near else ""


def _path(module: Any) -> str:
    return f"{module.__module__}.{module.__qualname__}"
