"""report.html: one file without a script and without anything fetched, the verdict first, then a section per question."""

from collections.abc import Callable

from bench.compare import Comparison
from bench.report import verdict
from bench.report.markup import Markup, element, joined, sentence
from bench.report.section import Section
from bench.report.sections import (
    changes,
    engine_alone,
    failed,
    latency,
    made_on,
    numbers,
    peers,
    rates,
    resources,
    slo,
    stages,
    throughput,
)
from bench.report.style import css
from bench.report.units import moment
from bench.results import Results

_SECTIONS: tuple[Callable[[Results], Section | None], ...] = (
    latency.section,
    throughput.section,
    rates.section,
    slo.section,
    stages.section,
    engine_alone.section,
    peers.section,
    failed.section,
    resources.section,
    numbers.section,
    made_on.section,
)
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def page(results: Results, comparison: Comparison | None) -> str:
    """The whole page; with a comparison, what changed comes first."""
    made = [make(results) for make in _SECTIONS]
    shown = [one for one in (None if comparison is None else changes.section(comparison), *made) if one is not None]
    body = element("body", _head(results), _list(shown), *(_section(one) for one in shown), _foot(results))
    return f'<!doctype html>\n<html lang="en">{_about(results)}\n{body}</html>\n'


def _about(results: Results) -> Markup:
    return element(
        "head",
        Markup('<meta charset="utf-8">\n'),
        Markup(f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'),
        Markup('<meta name="viewport" content="width=device-width, initial-scale=1">\n'),
        Markup('<meta name="color-scheme" content="light dark">\n'),
        element("title", f"Load test of {results.model.name}"),
        element("style", Markup(css())),
    )


def _head(results: Results) -> Markup:
    model = results.model
    name = model.name if model.version is None else f"{model.name}, version {model.version}"
    about = f"{results.url}, {results.payload.protocol}, {moment(results.made_at)}"
    return element(
        "header",
        element("h1", f"Load test of {name}"),
        element("p", about, class_="about"),
        verdict.warnings(results),
        verdict.verdict(results),
    )


def _list(shown: list[Section]) -> Markup:
    links = [element("a", one.short, href=f"#{one.key}") for one in shown]
    return element("nav", joined(links, " "), aria_label="Sections")


def _section(one: Section) -> Markup:
    introduction = [sentence(one.introduction)] if one.introduction else []
    return element("section", element("h2", one.title), *introduction, *one.parts, id=one.key)


def _foot(results: Results) -> Markup:
    told = f"Made by stateserve bench, {moment(results.made_at)}. The numbers lie beside this page: results.json, results.csv."
    return element("footer", told)
