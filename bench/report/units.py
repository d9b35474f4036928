"""Numbers as a person reads them: three significant digits in sentences and charts, more in tables; the whole in results.csv."""

import math
from collections.abc import Sequence
from datetime import datetime

_MANY_MS = 10_000
_BYTES = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
_SHORT = ((1e9, " G"), (1e6, " M"))
ABSENT = "-"
"""Stands in a table for what is not known."""


def rounded(value: float, digits: int = 3) -> str:
    """So many significant digits, and never an exponent: `12,345`, `4.21`, `0.00340`; whole numbers stay whole."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else str(value)
    if float(value).is_integer():
        return f"{value:,.0f}"
    decimals = digits - 1 - math.floor(math.log10(abs(value)))
    text = f"{value:,.{max(decimals, 0)}f}"
    return (
        text
        if len(text.replace(",", "").replace("-", "").replace(".", "").lstrip("0")) <= digits
        else f"{value:,.{max(decimals - 1, 0)}f}"
    )


def exact(value: float | None, digits: int = 4) -> str:
    """So many significant digits, for a table."""
    return ABSENT if value is None else rounded(value, digits)


def short(value: float) -> str:
    """For an axis: `0.5`, `200`, `12,000`, `1.5 M`."""
    for size, suffix in _SHORT:
        if abs(value) >= size:
            return f"{value / size:,.4g}{suffix}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def milliseconds(value: float) -> str:
    """A time in a sentence: `4.21 ms`, from ten seconds on `12.3 s`."""
    return f"{rounded(value)} ms" if value < _MANY_MS else f"{rounded(value / 1e3)} s"


def per_second(value: float) -> str:
    """A rate in a sentence: `9,120/s`."""
    return f"{rounded(value)}/s"


def load(connections: int, rate_per_s: float | None = None) -> str:
    """A load in a word: `32 connections`, or `500/s` where so many requests are due in a second."""
    return counted(connections, "connection") if rate_per_s is None else f"{rounded(rate_per_s, 4)}/s"


def percent(share: float) -> str:
    """A share in a sentence: `78 %`; what is above nothing is never told as 0, what is below all never as 100."""
    value = share * 100
    if 0 < value < 1:
        return f"{value:.2g} %" if value >= 0.01 else "< 0.01 %"
    return "> 99 %" if 99.5 <= value < 100 else f"{value:,.0f} %"


def times(ratio: float) -> str:
    """A change: in per cent, or how many times as much it is: `-13.0 %`, `588 times`."""
    return f"{100 * (ratio - 1):+,.1f} %" if ratio < 10 else f"{rounded(ratio)} times"


def of_bytes(count: float | None) -> str:
    """A size in powers of 1,000: `412 MB`."""
    if count is None:
        return ABSENT
    for size, suffix in _BYTES:
        if count >= size:
            return f"{rounded(count / size)} {suffix}"
    return f"{count:,.0f} bytes"


def moment(text: str) -> str:
    """A moment in ISO 8601 as people write it: `2026-11-22 14:20 UTC`; what is none stays as it is."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return text
    return f"{found:%Y-%m-%d %H:%M} {found.tzname() or ''}".rstrip()


def counted(count: int, noun: str) -> str:
    """A number and its noun: `1 request`, `1,200 requests`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def capital(text: str) -> str:
    """As it begins a sentence or a heading."""
    return text[:1].upper() + text[1:]


def listed(parts: Sequence[str]) -> list[str]:
    """The parts with what stands between them: `a`, `a and b`, `a, b and c`."""
    told: list[str] = []
    for left, part in zip(range(len(parts))[::-1], parts, strict=True):
        told += [part, ", " if left > 1 else " and " if left == 1 else ""]
    return told
