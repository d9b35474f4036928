"""What was asked, on which machine, by which command: what a person needs to measure it again."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from bench.report.markup import definitions, element
from bench.report.section import Section
from bench.report.units import of_bytes
from bench.results import Results

_LONG = 500


def section(results: Results) -> Section:
    """Always there."""
    parts = [
        element("h3", "Command"),
        element("pre", results.command, tabindex="0"),
        element("h3", "Model and requests"),
        definitions([*_model(results), *_payload(results)]),
        element("h3", "Machine and versions"),
        definitions(list(flat(results.machine))),
    ]
    return Section("made-on", "Model, machine, command", "Machine", "", parts)


def flat(facts: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    """Nested facts as pairs of words: `packages numpy` and `2.4.6`."""
    for name, value in facts.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{before}{name} ")
        elif isinstance(value, list | tuple):
            if value:
                yield f"{before}{name}", ", ".join(_word(one) for one in value)
        elif value is not None:
            yield f"{before}{name}", of_bytes(value) if name.endswith("_bytes") else _word(value)


def _word(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {text}" for name, text in flat(value))
    return str(value)


def _model(results: Results) -> Iterator[tuple[str, str]]:
    model = results.model
    yield "model", model.name if model.version is None else f"{model.name}, version {model.version}"
    yield "server", results.url
    for name, value in model.facts.items():
        if name != "signature":  # told below, once
            yield name, value
    if model.signature is not None:
        text = json.dumps(model.signature, ensure_ascii=False)
        yield "signature", text if len(text) <= _LONG else f"{text[:_LONG]} …"


def _payload(results: Results) -> Iterator[tuple[str, str]]:
    sent = results.payload
    yield "protocol", sent.protocol
    yield "one request", f"{sent.rows:,.4g} {'row' if sent.rows == 1 else 'rows'}, a body of {of_bytes(sent.body_bytes)}"
    yield "different bodies", f"{sent.different:,}, in turn"
