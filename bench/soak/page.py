"""The page that tells what was shown, and the curve of the memory beside it."""

import importlib.metadata
import os
from collections.abc import Sequence
from pathlib import Path

from bench.soak.finding import Curve, Finding
from foundation.environment import environment

_PACKAGES = ("granian", "numpy", "onnxruntime", "torch", "torchserve", "uvloop")
_WIDTH, _HEIGHT = 690, 280
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 640, 48, 240
_TICKS = 4


def write(path: Path, findings: Sequence[Finding], command: str) -> None:
    """Writes the page, and the curve where there is one."""
    path.write_text(to_markdown(findings, command, path.stem))
    for finding in findings:
        if finding.curve is not None:
            path.with_name(_curve(path.stem)).write_text(to_svg(finding.curve))


def to_markdown(findings: Sequence[Finding], command: str, name: str = "soak") -> str:
    """The page: how and where it was made, a line for each scenario, and what each found. `name` is the file's."""
    facts = environment()
    versions = [f"{package} {importlib.metadata.version(package)}" for package in _PACKAGES]
    introduction = (
        f"Made by `{command}`: real servers, each a process of its own, asked over loopback by a client of ours on the same "
        f"machine. Its load average was {os.getloadavg()[0]:.1f} at the end."
    )
    lines = [
        "# Nothing is lost under load",
        "",
        introduction,
        "",
        f"{facts['cpu']}, {facts['cores']} cores; Python {facts['python']}, {', '.join(versions)}.",
        "",
        *_table(("scenario", "wrong", "bounds missed"), [_verdict(finding) for finding in findings]),
    ]
    for finding in findings:
        lines += ["", f"## {finding.title}", "", finding.text, "", *_table(("", ""), list(finding.figures.items()))]
        if finding.faults or finding.missed:
            lines += ["", *(f"- **{text}**" for text in [*finding.faults, *finding.missed])]
        if finding.curve is not None:
            lines += ["", f"![VmRSS over the requests]({_curve(name)})"]
    return "\n".join(lines) + "\n"


def to_svg(curve: Curve) -> str:
    """The memory over the requests, and the line that it may not pass; the scale does not begin at 0."""
    most = max(requests for requests, _ in curve.points)
    values = [value for _, value in curve.points] + [curve.limit_mb]
    low, high = min(values) - 2, max(values) + 2

    def at(requests: float, value: float) -> tuple[float, float]:
        across = _LEFT + (_RIGHT - _LEFT) * requests / most
        return across, _BOTTOM - (_BOTTOM - _TOP) * (value - low) / (high - low)

    parts = [_text(16, 26, "VmRSS of the server, MB, over the requests that it answered", "font-weight='bold'")]
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


def _curve(name: str) -> str:
    """The file of a page's curve."""
    return f"{name}-memory.svg"


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
