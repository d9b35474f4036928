"""The page that tells what was shown, and the curve of the memory beside it."""

import importlib.metadata
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.soak.finding import Curve, Finding
from bench.soak.processes import ALONE, Processes
from foundation.environment import environment

_PACKAGES = ("granian", "numpy", "onnxruntime", "torch", "torchserve", "uvloop")
_WIDTH, _HEIGHT = 690, 280
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 640, 48, 240
_TICKS = 4


@dataclass(frozen=True, slots=True)
class Made:
    """By which command the findings were made, on servers of how many processes."""

    command: str
    processes: Processes = ALONE


def write(path: Path, findings: Sequence[Finding], made: Made, *, append: bool = False) -> None:
    """Writes the page, and the curve where there is one; or adds to the page that is there, as a part of it."""
    text, stem = to_markdown(findings, made, path.stem, part=append), path.stem
    path.write_text(f"{path.read_text()}\n{text}" if append else text)
    for finding in findings:
        if finding.curve is not None:
            path.with_name(_curve(stem, made.processes)).write_text(to_svg(finding.curve))


def to_markdown(findings: Sequence[Finding], made: Made, name: str = "soak", *, part: bool = False) -> str:
    """The page: how and where it was made, a line for each scenario, and what each found. `name` is the file's.

    As a part of a page its headings are one lower.
    """
    facts = environment()
    versions = [f"{package} {importlib.metadata.version(package)}" for package in _PACKAGES]
    several = f", each of {made.processes}" if made.processes.are_several else ", each a process of its own"
    introduction = (
        f"Made by `{made.command}`: real servers{several}, asked over loopback by a client of ours on the same "
        f"machine. Its load average was {os.getloadavg()[0]:.1f} at the end."
    )
    level = "##" if part else "#"
    lines = [
        f"{level} With {made.processes}" if part else "# Nothing is lost under load",
        "",
        introduction,
        "",
        f"{facts['cpu']}, {facts['cores']} cores; Python {facts['python']}, {', '.join(versions)}.",
        "",
        *_table(("scenario", "wrong", "bounds missed"), [_verdict(finding) for finding in findings]),
    ]
    for finding in findings:
        lines += ["", f"{level}# {finding.title}", "", finding.text, "", *_table(("", ""), list(finding.figures.items()))]
        if finding.faults or finding.missed:
            lines += ["", *(f"- **{text}**" for text in [*finding.faults, *finding.missed])]
        if finding.curve is not None:
            lines += ["", f"![Memory over the requests]({_curve(name, made.processes)})"]
    return "\n".join(lines) + "\n"


def to_svg(curve: Curve) -> str:
    """The memory over the requests, and the line that it may not pass; the scale does not begin at 0."""
    most = max(requests for requests, _ in curve.points)
    values = [value for _, value in curve.points] + [curve.limit_mb]
    low, high = min(values) - 2, max(values) + 2

    def at(requests: float, value: float) -> tuple[float, float]:
        across = _LEFT + (_RIGHT - _LEFT) * requests / most
        return across, _BOTTOM - (_BOTTOM - _TOP) * (value - low) / (high - low)

    parts = [_text(16, 26, f"{curve.what} of the server, MB, over the requests that it answered", "font-weight='bold'")]
    for tick in range(_TICKS + 1):
        value, requests = low + (high - low) * tick / _TICKS, most * tick / _TICKS
        parts.append(_line(at(0, value), at(most, value), "#d8dee9"))
        parts.append(_text(_LEFT - 8, at(0, value)[1] + 4, f"{value:.0f}", "text-anchor='end'"))
        parts.append(_text(at(requests, low)[0], _BOTTOM + 20, f"{requests:,.0f}", "text-anchor='middle'"))
    limit = at(0, curve.limit_mb), at(most, curve.limit_mb)
    parts.append(_line(*limit, "#b42318", "stroke-dasharray='6 4'"))
    parts.append(_text(_RIGHT, limit[1][1] - 6, f"limit {curve.limit_mb:.1f}", "text-anchor='end'"))
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in (at(*point) for point in curve.points))
    parts.append(f"<polyline points='{points}' fill='none' stroke='#1f6feb' stroke-width='2'/>")
    style = "font-family='sans-serif' font-size='13' fill='#1b1f24'"
    head = f"<svg xmlns='http://www.w3.org/2000/svg' width='{_WIDTH}' height='{_HEIGHT}' {style}>"
    return "\n".join([head, f"<rect width='{_WIDTH}' height='{_HEIGHT}' fill='#ffffff'/>", *parts, "</svg>", ""])


def _curve(name: str, processes: Processes) -> str:
    """The file of a page's curve."""
    return f"{name}-memory-{processes.frontends}-{processes.engines}.svg" if processes.are_several else f"{name}-memory.svg"


def _verdict(finding: Finding) -> tuple[str, str, str]:
    wrong, missed = (f"**{len(found)}**" if found else "none" for found in (finding.faults, finding.missed))
    return finding.title, wrong, missed


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (columns, ["---"] * len(columns), *rows)]


def _line(start: tuple[float, float], end: tuple[float, float], colour: str, more: str = "") -> str:
    (x1, y1), (x2, y2) = start, end
    return f"<line x1='{x1:.1f}' y1='{y1:.1f}' x2='{x2:.1f}' y2='{y2:.1f}' stroke='{colour}' {more}/>"


def _text(x: float, y: float, text: str, more: str) -> str:
    return f"<text x='{x:.1f}' y='{y:.1f}' {more}>{text}</text>"
