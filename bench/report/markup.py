"""HTML that cannot be broken out of: whatever is not HTML already is escaped when it becomes a part of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table: its heading, and whether it holds numbers, which stand at the right."""

    title: str
    numbers: bool = True


def element(name: str, *children: str, **attributes: str) -> Markup:
    """`<name attribute="…">children</name>`; `class_` is the attribute class, and `aria_label` is aria-label."""
    said = "".join(f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"' for key, value in attributes.items())
    return Markup(f"<{name}{said}>{joined(children)}</{name}>")


def joined(parts: Sequence[str], between: str = "") -> Markup:
    """All parts one after the other, escaped where they are not HTML."""
    return Markup(between.join(part if isinstance(part, Markup) else escape(part) for part in parts))


def strong(text: str) -> Markup:
    """A number that a reader in a hurry must see."""
    return element("strong", text)


def sentence(*parts: str) -> Markup:
    """A paragraph."""
    return element("p", *parts)


def table(caption: str, columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> Markup:
    """A table that scrolls within itself; the first cell of a row is its heading."""
    head = [element("th", one.title, scope="col", class_="n" if one.numbers else "t") for one in columns]
    body = [
        element("tr", *(_cell(place, cell, one) for place, (cell, one) in enumerate(zip(row, columns, strict=True))))
        for row in rows
    ]
    made = element(
        "table", element("caption", caption), element("thead", element("tr", *head)), element("tbody", joined(body, "\n"))
    )
    return element("div", made, class_="scroll", role="region", aria_label=caption, tabindex="0")


def definitions(pairs: Sequence[tuple[str, str]]) -> Markup:
    """Names and what they stand for."""
    return element("dl", *(element("div", element("dt", name), element("dd", value)) for name, value in pairs))


def _cell(place: int, cell: str, column: Column) -> Markup:
    kind = "n" if column.numbers else "t"
    return element("th", cell, scope="row", class_=kind) if place == 0 else element("td", cell, class_=kind)
