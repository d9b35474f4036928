"""The page's first words: what an engineer with two minutes must know, in sentences with numbers."""

from collections.abc import Iterator

from bench.report.findings import (
    CLIENT_FULL,
    MACHINE_FULL,
    Ratio,
    best,
    client_busy,
    failures,
    knee,
    latency_spread,
    load_name,
    machine_busy,
    ratios,
    saturated,
    share_of_bound,
    spread,
    title,
)
from bench.report.markup import Markup, element, joined, strong
from bench.report.sections.slo import slo_words
from bench.report.units import counted, listed, milliseconds, per_second, percent, rounded
from bench.results import OURS, Case, Results


def verdict(results: Results) -> Markup:
    """A list of sentences, the most important first and large."""
    return element("ul", *(element("li", one) for one in sentences(results)), class_="verdict")


def warnings(results: Results) -> Markup:
    """What must be seen before any number is believed: an incomplete run, failed requests, notes."""
    boxes = []
    if not results.complete:
        boxes.append(_box("bad", strong("Incomplete."), f" {_stopped(results)} What was measured by then is below."))
    ours = failures([case for case in results.cases if case.contender == OURS])
    if ours.count:
        kinds = ", ".join(f"{count:,} × {kind}" for kind, count in ours.kinds.items())  # noqa: RUF001
        told = f"{ours.count:,} of {counted(ours.offered, 'request')} failed ({percent(ours.share)})"
        boxes.append(_box("bad", strong(told), f": {kinds}."))
    if results.notes:
        boxes.append(element("div", *(element("p", note) for note in results.notes), class_="box warn"))
    return joined(boxes)


def _stopped(results: Results) -> str:
    return "The test was stopped." if not results.stopped_by else f"Stopped: {results.stopped_by.rstrip('. ')}."


def _box(kind: str, *parts: str) -> Markup:
    return element("div", element("p", *parts), class_=f"box {kind}", role="note")


def sentences(results: Results) -> Iterator[Markup]:
    """The verdict, one sentence after the other: the best throughput, the limit, the target, the others, the rates, errors."""
    most = best(results)
    if most is not None:
        yield _best(results, most)
        yield from _of_the_engine(results, most)
    elif results.open():
        yield _rates_only(results.open())
    else:
        yield joined(["Nothing was measured."])
        return
    if results.slo is not None:
        bold, rest = slo_words(results.slo)
        yield joined([strong(bold), rest])
    if most is not None:
        yield from _against(results, most)
    yield from _open(results)
    yield _limit(most or results.open()[-1])
    if not failures(results.cases).count:
        yield joined(["No request failed."])


def _best(results: Results, most: Case) -> Markup:
    over, p99 = spread(most), latency_spread(most, "p99")
    parts = [strong(f"{rounded(most.requests_per_s)} requests/s"), f" at {load_name(most)}"]
    if results.payload.rows != 1:
        parts.append(f" ({rounded(most.rows_per_s)} rows/s)")
    if p99 is not None:
        parts += [", p99 ", strong(milliseconds(p99.median))]
    parts.append(".")
    if len(most.rounds) > 1:
        parts.append(element("small", f" {len(most.rounds)} rounds: {rounded(over.low)} to {rounded(over.high)}."))
    return joined(parts)


def _rates_only(cases: list[Case]) -> Markup:
    top = cases[-1]
    p99 = top.latency_ms("p99")
    latency = ["."] if p99 is None else [", p99 ", strong(milliseconds(p99)), "."]
    return joined([strong(f"{rounded(top.requests_per_s)} requests/s"), f" answered with {load_name(top)} due", *latency])


def _of_the_engine(results: Results, most: Case) -> Iterator[Markup]:
    share = share_of_bound(results, most)
    if share is not None and results.bound is not None:
        point = results.bound.best
        rest = f" of what the engine does alone ({rounded(point.rows_per_s)} rows/s, {counted(point.rows, 'row')} in a call)."
        yield joined([strong(percent(share)), rest])


def _against(results: Results, most: Case) -> Iterator[Markup]:
    found = ratios(results, most)
    if found:
        yield joined([*listed([_times(results, one) for one in found]), "."])


def _times(results: Results, one: Ratio) -> Markup:
    over = one.spread
    times = f"{rounded(over.median)} times"
    return joined([strong(times), f" {title(results, one.contender)} ({rounded(over.low)}–{rounded(over.high)})"])  # noqa: RUF001


def _open(results: Results) -> Iterator[Markup]:
    bend, full = knee(results), saturated(results)
    parts: list[str] = []
    if bend is not None:
        p99 = bend.latency_ms("p99")
        parts += ["The knee is at ", strong(per_second(bend.rate_per_s or 0.0)), f" (p99 {milliseconds(p99)})" if p99 else ""]
    if full is not None:
        parts += ["; from " if parts else "From ", f"{per_second(full.rate_per_s or 0.0)} on, answers no longer keep up"]
    if parts:
        yield joined([*parts, "."])


def _limit(case: Case) -> Markup:
    """Who was the limit there: the load generator, this machine, or neither."""
    client, machine = client_busy(case), machine_busy(case)
    at = f"at {load_name(case)}"
    if client > CLIENT_FULL:
        return joined(
            [strong("The load generator was the limit"), f" {at}: its busiest process used {percent(client)} of a core."]
        )
    if machine is not None and machine > MACHINE_FULL:
        return joined(
            [
                strong("The machine was the limit"),
                f" {at}: its cores were {percent(machine)} busy, server and load generator together.",
            ]
        )
    known = "" if machine is None else f", the machine's cores were {percent(machine)} busy"
    return joined(
        [f"Neither the load generator nor the machine was the limit {at}: the generator used {percent(client)} of a core{known}."]
    )
