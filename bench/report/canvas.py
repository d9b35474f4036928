"""Pictures as SVG within the page: matplotlib draws them for a wide and for a narrow page, the page's own colours paint them.

A colour that is drawn with stands for a variable of the style sheet, so that one picture is right in light and in dark. Text
stays text, in the page's font. The same numbers give the same bytes.
"""

import io
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, cast

from bench.report.markup import Markup, element
from bench.report.units import short

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, MUTED, LINE, BACK, BAD, GOOD = (f"#0a0b0{digit}" for digit in range(6))
SERIES = tuple(f"#0a0b1{digit}" for digit in range(5))
_VARIABLES = {INK: "ink", MUTED: "muted", LINE: "line", BACK: "bg", BAD: "bad", GOOD: "good"}
_VARIABLES |= {colour: f"s{number}" for number, colour in enumerate(SERIES)}
MARKERS = ("o", "^", "s", "D", "v")
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (7, 2, 1.5, 2)), (0, (3, 1.5)))

_STYLE: dict[str, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": LINE,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.labelcolor": MUTED,
    "axes.linewidth": 1.0,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.dpi": 72,
    "font.family": "DejaVu Sans",
    "font.size": 12.5,
    "grid.color": LINE,
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "lines.linewidth": 2.0,
    "lines.markersize": 6.5,
    "savefig.dpi": 72,
    "svg.fonttype": "none",
    "text.color": INK,
    "text.parse_math": False,
    "xtick.bottom": False,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "ytick.left": False,
}
_LEGEND_LINE = 19
_LABEL_LINE = 15
_TOP, _BOTTOM, _LEFT, _RIGHT = 30, 46, 58, 16


@dataclass(frozen=True, slots=True)
class Frame:
    """One of a picture's two sizes, in CSS pixels; `labels` is the room at the right for the series' names (narrow: none)."""

    name: str
    width: int
    labels: int

    @property
    def narrow(self) -> bool:
        """Whether the series' names stand in a legend above the picture, for want of room beside it."""
        return self.name == "narrow"


@dataclass(frozen=True, slots=True)
class Picture:
    """What is drawn: a caption, the facts in words for who cannot see it, and how. `height` is that of the axes, in pixels.

    `names` are the series that are labelled at their ends; `bars` leaves no room for numbers at the left, and above them
    `top` pixels only.
    """

    key: str
    caption: str
    says: str
    draw: Callable[["Axes", Frame], None]
    names: Sequence[str] = ()
    height: int = 270
    bars: bool = False
    top: int = 6


@dataclass(frozen=True, slots=True)
class End:
    """The end of a series, as high as its name is written. `look` is how it was drawn, where not by `line_style`."""

    y: float
    name: str
    number: int
    look: Mapping[str, Any] | None = None


def figure(picture: Picture) -> Markup:
    """The picture in both sizes; the style sheet shows one."""
    room = min(210, 24 + max((len(name) for name in picture.names), default=-1) * 8)
    frames = (Frame("wide", 820, max(room, _RIGHT)), Frame("narrow", 360, _RIGHT))
    with _style():
        drawn = [Markup(_drawn(picture, frame)) for frame in frames]
    return element("figure", element("figcaption", picture.caption), *drawn)


def colour(number: int) -> str:
    """The colour of a series."""
    return SERIES[number % len(SERIES)]


def line_style(number: int) -> dict[str, Any]:
    """Colour, marker and dash of a series: no two of the first five share any of them."""
    return {"color": colour(number), "marker": MARKERS[number % len(MARKERS)], "linestyle": DASHES[number % len(DASHES)]}


def titles(axes: "Axes", x: str, y: str) -> None:
    """Names the axes: the upright one at its top, written flat."""
    axes.set_xlabel(x, labelpad=7)
    axes.annotate(y, (0, 1), (-_LEFT + 2, 9), xycoords="axes fraction", textcoords="offset points", color=MUTED)


def log_ticks(axes: "Axes", which: str, low: float, high: float) -> None:
    """A logarithmic axis with few round numbers on it; `which` is x or y."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    getattr(axes, f"set_{which}scale")("log")
    getattr(axes, f"set_{which}lim")(low, high)
    axis = getattr(axes, f"{which}axis")
    axis.set_major_locator(FixedLocator(_round_numbers(low, high)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))


def plain_ticks(axes: "Axes", which: str, most: int = 6) -> None:
    """A linear axis with few round numbers on it."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axis = getattr(axes, f"{which}axis")
    axis.set_major_locator(MaxNLocator(most, steps=[1, 2, 2.5, 5, 10]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))


def name_bar(axes: "Axes", number: int, text: str, above: int) -> None:
    """Writes a lying bar's name over it, so many pixels from its middle; lines behind it are hidden."""
    box = {"facecolor": BACK, "edgecolor": "none", "pad": 1.5}
    at = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
    axes.annotate(text, (0, number), (0, above), va="bottom", color=INK, bbox=box, **at)


def at_ends(axes: "Axes", frame: Frame, ends: Sequence[End]) -> None:
    """Names the series: at the right edge, as high as their ends, pushed apart where they meet; narrow: in a legend above."""
    if frame.narrow:
        _legend(axes, ends)
        return
    edge = axes.get_xlim()[1]
    places = [float(axes.transData.transform((edge, end.y))[1]) for end in ends]
    for end, place, apart in zip(ends, places, _apart(places), strict=True):
        axes.annotate(
            end.name, (1, end.y), (6, apart - place), ("axes fraction", "data"), "offset points", va="center",
            color=colour(end.number),
        )  # fmt: skip


def _legend(axes: "Axes", ends: Sequence[End]) -> None:
    from matplotlib.lines import Line2D

    lines = [Line2D([], [], label=end.name, **(end.look or line_style(end.number))) for end in ends]
    x = (2 - _LEFT) / _width(axes)
    y = 1 + 24 / _height(axes)
    axes.legend(
        handles=lines, loc="lower left", bbox_to_anchor=(x, y), borderaxespad=0, borderpad=0, labelspacing=0.35, handlelength=3.2
    )


def _width(axes: "Axes") -> float:
    return axes.get_window_extent().width


def _height(axes: "Axes") -> float:
    return axes.get_window_extent().height


def _apart(places: Sequence[float]) -> list[float]:
    """The places, at least a line of text between any two: pushed up from the lowest, then back by half of what was too much."""
    upwards = sorted(range(len(places)), key=lambda number: places[number])
    moved = list(places)
    for below, above in pairwise(upwards):
        moved[above] = max(moved[above], moved[below] + _LABEL_LINE)
    for above, below in pairwise(upwards[::-1]):
        if moved[above] - moved[below] <= _LABEL_LINE:
            middle = (places[above] + places[below]) / 2
            excess = max(0.0, (moved[above] + moved[below]) / 2 - middle)
            moved[above], moved[below] = moved[above] - excess, moved[below] - excess
    for below, above in pairwise(upwards):
        moved[above] = max(moved[above], moved[below] + _LABEL_LINE)
    return moved


def _round_numbers(low: float, high: float) -> list[float]:
    """1, 10, 100 …; with 2 and 5 between them where that is too few; even steps where there is not one decade to be divided."""
    from matplotlib.ticker import MaxNLocator

    if high / low < 4:
        return [float(value) for value in MaxNLocator(4).tick_values(low, high) if low <= value <= high]
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if high / low < 60 else (1, 3) if high / low < 1500 else (1,)
    every = 1 if len(decades) <= 7 else 2
    return [step * 10.0**decade for decade in decades[::every] for step in steps if low <= step * 10.0**decade <= high]


@contextmanager
def _style() -> Iterator[None]:
    """Our settings of matplotlib, whatever a user's own are, until the block ends."""
    import matplotlib as mpl

    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(cast("Any", _STYLE))
        yield


def _drawn(picture: Picture, frame: Frame) -> str:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    key = f"{picture.key}-{frame.name}"
    legend = len(picture.names) * _LEGEND_LINE + 4 if frame.narrow and picture.names else 0
    top, left = (picture.top if picture.bars else _TOP) + legend, 2 if picture.bars else _LEFT
    height = picture.height + top + _BOTTOM
    drawing = Figure((frame.width / 72, height / 72))
    box = (left / frame.width, _BOTTOM / height, (frame.width - left - frame.labels) / frame.width, picture.height / height)
    axes = drawing.add_axes(box)
    picture.draw(axes, frame)
    file = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": key}):
        drawing.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _inline(file.getvalue(), key, frame, picture.says)


def _inline(svg: str, key: str, frame: Frame, says: str) -> str:
    """What matplotlib wrote as an element of our page: ids of its own, our colours and font, numbers as fine as can be seen."""
    inner = svg[svg.index("<svg") :]
    view_box = re.search(r'viewBox="([^"]+)"', inner)
    inner = inner[inner.index(">") + 1 : inner.rindex("</svg>")]
    inner = re.sub(r"<metadata>.*?</metadata>|<defs>\s*<style.*?</style>\s*</defs>|<!--.*?-->", "", inner, flags=re.DOTALL)
    inner = _own_ids(inner.replace("xlink:href", "href"), key)
    inner = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", inner)  # matplotlib before 3.10
    inner = re.sub(r" font-family: [^;\"]*;?| transform=\"rotate\(-0 [^)]*\)\"", "", inner)
    inner = re.sub(r'(?<= )(d|transform|x|y|points)="([^"]*)"', lambda found: f'{found[1]}="{_coarse(found[2])}"', inner)
    inner = re.sub(
        "#0a0b[0-9a-f]{2}", lambda found: f"var(--{_VARIABLES[found[0]]})" if found[0] in _VARIABLES else found[0], inner
    )
    inner = _flat(inner)
    return str(
        element("svg", Markup(inner), class_=frame.name, viewBox=view_box[1] if view_box else "", role="img", aria_label=says)
    )


def _own_ids(svg: str, key: str) -> str:
    """Ids that are used get the picture's name in front, so that two pictures never share one; the others go."""
    used = {name: f"{key}-{number}" for number, name in enumerate(dict.fromkeys(re.findall(r'(?:url\(|href=")#([^)"]+)', svg)))}
    svg = re.sub(r' id="([^"]*)"', lambda found: f' id="{used[found[1]]}"' if found[1] in used else "", svg)
    svg = re.sub(r"url\(#([^)]+)\)", lambda found: f"url(#{used.get(found[1], found[1])})", svg)
    return re.sub(r'href="#([^"]+)"', lambda found: f'href="#{used.get(found[1], found[1])}"', svg)


def _flat(svg: str) -> str:
    """Without groups that say nothing and without the spaces between elements."""
    svg = re.sub(r"\s*\n\s*", "", svg)
    before = ""
    while svg != before:
        before, svg = svg, re.sub(r"<g>((?:(?!</?g\b).)*)</g>", r"\1", svg)
    return re.sub(r'<path d="[^"]*"(?: clip-path="[^"]*")? style="fill: none"/>', "", svg)


def _coarse(numbers: str) -> str:
    """Two digits after the point: a hundredth of a pixel."""
    return re.sub(r"-?\d+\.\d+", lambda found: f"{float(found[0]):.2f}".rstrip("0").rstrip("."), numbers)
