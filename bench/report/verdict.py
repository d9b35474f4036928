"""The page's first words: what an engineer with two minutes must know, in sentences with numbers."""

from collections.abc import Iterator

from bench.report.findings import (
    MACHINE_FULL,
    NEARLY_FULL,
    Ratio,
    best,
    client_busy,
    client_full,
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
from bench.report.sections.peers import failed_words
from bench.report.sections.rates import knee_words
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
    yield from _limits(results, most or results.open()[-1])
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
        yield joined([f"Requests/s at {load_name(most)}: ", *listed([_times(results, one) for one in found]), "."])


def _times(results: Results, one: Ratio) -> Markup:
    over = one.spread
    spread_words = f" {title(results, one.contender)} ({rounded(over.low)}–{rounded(over.high)})"  # noqa: RUF001
    return joined([strong(f"{rounded(over.median)} times"), spread_words, failed_words(one)])


def _open(results: Results) -> Iterator[Markup]:
    bend, full = knee(results), saturated(results)
    parts: list[str] = []
    if bend is not None:
        parts += ["The knee is at ", *knee_words(results, bend)]
    if full is not None:
        parts += ["; from " if parts else "From ", f"{per_second(full.rate_per_s or 0.0)} on, answers no longer keep up"]
    if parts:
        yield joined([*parts, "."])


def _limits(results: Results, case: Case) -> Iterator[Markup]:
    """Who was the limit: the load generator under any load of anybody, and the machine, or neither, under this one of ours."""
    full = client_full(results)
    if full:
        where = "".join(listed([_whose(results, one) for one in full]))
        most = percent(max(client_busy(one) for one in full))
        told = f"{'up to ' if len(full) > 1 else ''}{most} of a core"
        yield joined([strong("The load generator was the limit"), f" at {where}: its busiest process used {told}."])
    machine = machine_busy(case)
    if machine is not None and machine >= NEARLY_FULL:
        was = "was" if machine > MACHINE_FULL else "was nearly"
        busy = f"its cores were {percent(machine)} busy, server and load generator together"
        yield joined([strong(f"The machine {was} the limit"), f" at {load_name(case)}: {busy}."])
    elif case not in full:
        yield _of_the_client(case, machine)


def _whose(results: Results, case: Case) -> str:
    return load_name(case) if case.contender == OURS else f"{load_name(case)} of {title(results, case.contender)}"


def _of_the_client(case: Case, machine: float | None) -> Markup:
    """Of a machine that nobody could look into nothing is said."""
    client, at = client_busy(case), f"at {load_name(case)}"
    used = f"its busiest process used {percent(client)} of a core"
    known = (
        "; how busy the server's machine was is not known"
        if machine is None
        else f", the machine's cores were {percent(machine)} busy"
    )
    if client >= NEARLY_FULL:
        return joined([strong("The load generator was nearly the limit"), f" {at}: {used}{known}."])
    if machine is None:
        return joined([f"The load generator was not the limit {at}: {used}{known}."])
    return joined(
        [f"Neither the load generator nor the machine was the limit {at}: the generator used {percent(client)} of a core{known}."]
    )
