"""The page of a benchmark: sections with tables, one bar chart, and what it was measured on."""

import importlib.metadata
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.wrk import wrk_version
from foundation.environment import environment

_PACKAGES = (
    "fastapi",
    "granian",
    "numpy",
    "onnxruntime",
    "orjson",
    "pydantic",
    "pysimdjson",
    "torch",
    "torchserve",
    "uvicorn",
    "uvloop",
)
_COLOURS = ("#8a94a6", "#1f6feb")


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of some values, and the smallest and largest of them."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """The spread of at least one value."""
        return cls(statistics.median(values), min(values), max(values))

    @classmethod
    def of_ratios(cls, ours: Sequence[float], others: Sequence[float]) -> "Spread":
        """The spread of the rounds' own ratios."""
        return cls.of([one / two for one, two in zip(ours, others, strict=True)])

    def text(self, digits: int) -> str:
        """As it stands in a table: `9,120 (8,900-9,300)`."""
        return f"{self.median:,.{digits}f} ({self.low:,.{digits}f}-{self.high:,.{digits}f})"


@dataclass(frozen=True, slots=True)
class Goal:
    """What a median should be at least, or at most."""

    bound: float
    at_least: bool

    def text(self, median: float) -> str:
        """As it stands in a table: `≥ 1.2: held`."""
        held = median >= self.bound if self.at_least else median <= self.bound
        return f"{'≥' if self.at_least else '≤'} {self.bound:g}: {'held' if held else '**missed**'}"


@dataclass(frozen=True, slots=True)
class Chart:
    """Bars in groups, in a file beside the page: for every group one value of each of two series."""

    file: str
    title: str
    series: tuple[str, str]
    groups: Mapping[str, tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Section:
    """One table of the page, what must be known to read it, and perhaps a chart of it."""

    title: str
    text: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]
    chart: Chart | None = None


def write(path: Path, text: str, sections: Sequence[Section]) -> None:
    """Writes the page's text, and the sections' charts beside it."""
    path.write_text(text)
    for section in sections:
        if section.chart:
            (path.parent / section.chart.file).write_text(to_svg(section.chart))


def to_markdown(title: str, introduction: str, sections: Sequence[Section]) -> str:
    """The page: its title, what was done, on what machine, with which versions, and the sections."""
    facts = environment()
    lines = [f"# {title}", "", introduction, "", f"{facts['cpu']}, {facts['cores']} cores; {_versions(facts)}."]
    for section in sections:
        lines += ["", f"## {section.title}", "", section.text, ""]
        lines += [_row(section.columns), _row(("---",) * len(section.columns)), *(_row(row) for row in section.rows)]
        if section.chart:
            lines += ["", f"![{section.chart.title}]({section.chart.file})"]
    return "\n".join(lines) + "\n"


def to_svg(chart: Chart) -> str:
    """The chart as a picture of its own: horizontal bars with their values."""
    largest = max(max(values) for values in chart.groups.values())
    parts, y = [_text(16, 26, chart.title, "bold")], 44
    for name, colour, x in zip(chart.series, _COLOURS, (16, 216), strict=True):
        parts += [f'<rect x="{x}" y="{y}" width="12" height="12" fill="{colour}"/>', _text(x + 18, y + 11, name)]
    y += 30
    for group, values in chart.groups.items():
        parts.append(_text(16, y + 24, group))
        for value, colour in zip(values, _COLOURS, strict=True):
            width = 400 * value / largest
            parts.append(f'<rect x="160" y="{y}" width="{width:.0f}" height="16" fill="{colour}"/>')
            parts.append(_text(166 + width, y + 13, f"{value:,.0f}"))
            y += 18
        y += 12
    style = 'font-family="sans-serif" font-size="13" fill="#1b1f24"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" width="660" height="{y}" {style}>\n' + "\n".join(
        [f'<rect width="660" height="{y}" fill="#ffffff"/>', *parts, "</svg>", ""]
    )


def _text(x: float, y: float, text: str, weight: str = "normal") -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" font-weight="{weight}">{text}</text>'


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _versions(facts: Mapping[str, str]) -> str:
    found = [f"Python {facts['python']}"]
    for package in _PACKAGES:
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    if wrk := wrk_version():
        found.append(wrk)
    return ", ".join(found)
