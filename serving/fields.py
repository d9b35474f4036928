"""What a setting may be: the types of the fields of `Settings`, and how a text becomes one of them."""

import json
import re
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints

from foundation.remote import collapsed_url, is_url

NONE = "none"
"""How a file, a variable or a flag says that there is no value."""
UNITS = {"": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
"""What a number of bytes may be followed by."""

_BYTES = re.compile(r"([0-9]{1,18}) ?(KiB|MiB|GiB|)")
_SWITCH = {"true": True, "false": False}


def _not_none(value: Any) -> Any:
    return None if value == NONE else value


def _bytes(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if (found := _BYTES.fullmatch(value)) is None:
        raise ValueError("it should be a number of bytes, as in 65536, 64KiB, 64MiB or 1GiB")
    return int(found[1]) * UNITS[found[2]]


def _list(value: Any) -> Any:
    if isinstance(value, str):
        return [entry.strip() for entry in value.split(",")] if value not in {"", NONE} else []
    return value


def _place(value: Any) -> Any:
    """A URL stays text: a path would take one of its slashes away."""
    if isinstance(value, Path) and (url := collapsed_url(value)) is not None:
        raise ValueError(f"it was a URL before it became a path: give {url!r} as text")
    return Path(value) if isinstance(value, str) and not is_url(value) else value


def _ascending(sizes: tuple[int, ...]) -> tuple[int, ...]:
    if list(sizes) != sorted(set(sizes)):
        raise ValueError("the sizes should ascend, as in 4,8,16")
    return sizes


def _true_or_false(value: Any) -> Any:
    """TorchServe takes every word but `true` for false; here such a word is a mistake."""
    if not isinstance(value, str):
        return value
    if value.lower() not in _SWITCH:
        raise ValueError("it should be true or false")
    return _SWITCH[value.lower()]


def _pattern(value: str) -> str:
    try:
        re.compile(value)
    except re.error as cause:
        raise ValueError(f"it is not a regular expression: {cause}") from cause
    return value


def from_json(value: Any) -> Any:
    """What a JSON text says; a name that stands twice in one object is refused. Anything but a text is left as it is."""
    return json.loads(value, object_pairs_hook=_without_repeats) if isinstance(value, str) else value


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"{key!r} stands twice in one object")
        found[key] = value
    return found


_Value = TypeVar("_Value")
OrNone = Annotated[_Value | None, BeforeValidator(_not_none)]
Count = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]
Bytes = Annotated[int, BeforeValidator(_bytes), Field(ge=0)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Place = Annotated[Path | str, BeforeValidator(_place)]
"""A folder, or the URL of one on another storage (s3://…, gs://…)."""

Sizes = Annotated[tuple[Count, ...], BeforeValidator(_list), AfterValidator(_ascending)]
Device = Annotated[str, StringConstraints(pattern=r"^(auto|cpu|cuda|cuda:[0-9]{1,3}(,cuda:[0-9]{1,3})*)$")]
Label = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_-]*$")]
TrueOrFalse = Annotated[bool, BeforeValidator(_true_or_false)]
Pattern = Annotated[str, AfterValidator(_pattern)]
Texts = Annotated[tuple[str, ...], BeforeValidator(_list)]
Patterns = Annotated[tuple[Pattern, ...], BeforeValidator(_list)]


def setting(group: str, default: Any, does: str, **bounds: Any) -> Any:
    """A field; `group` is the panel of --help and the section of docs/settings.md that it stands in."""
    return Field(default, description=does, json_schema_extra={"group": group}, **bounds)
