"""What a client accepts: lists with q-values, as in `Accept` and `Accept-Encoding` (RFC 9110, section 12.4.2)."""

import functools
import re
from collections.abc import Mapping
from types import MappingProxyType

_Q = re.compile(r"(?:0(?:\.\d{0,3})?|1(?:\.0{0,3})?)\Z", re.ASCII)


_MOST_CHARACTERS = 2048


def accepted(header: str) -> Mapping[str, float]:
    """The names that a header lists, in lower case, each with its weight of 0 (refused) to 1; 0 where its q is no number.

    Other parameters of a name (`;charset=utf-8`) are passed over, and so are names beyond the first 2048 characters: a browser's
    header has 150.
    """
    return _accepted(header if len(header) <= _MOST_CHARACTERS else header[:_MOST_CHARACTERS].rpartition(",")[0])


@functools.lru_cache(maxsize=256)
def _accepted(header: str) -> Mapping[str, float]:
    weights: dict[str, float] = {}
    for entry in header.split(","):
        name, *parameters = (part.strip().lower() for part in entry.split(";"))
        if name:
            weights[name] = min((_weight(parameter) for parameter in parameters), default=1.0)
    return MappingProxyType(weights)


def _weight(parameter: str) -> float:
    key, _, value = parameter.partition("=")
    if key.strip() != "q":
        return 1.0
    value = value.strip()
    return float(value) if _Q.match(value) else 0.0
