"""A load test, its steps in order: look at the server, make the requests, ask each once, measure, write.

Contenders run side by side and are asked in turn, round by round, so that a slow minute of the machine hits them all.
"""

import contextlib
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import numpy as np

from bench import bound, generator, inputs, payloads, peers, search, target
from bench.client.load import Load, Outcome
from bench.contenders import Asked, artifact_of, beside, our_server, ours, require_answers
from bench.errors import NotAsked, ServerGone
from bench.live import load_text
from bench.observed import Observation, Observer, machine
from bench.options import SWEEP, Options
from bench.payloads import Inputs
from bench.record import Record
from bench.results import BoundPoint, Case, ModelAsked, PayloadSent, Probe, Results, Round
from bench.target import Target
from foundation.errors import StateserveError

DIFFERENT = 8
"""How many different bodies take turns, so that no cache can answer."""
BOUND_LOADS = 2
"""The engine alone gets as long as so many loads, for all its batch sizes together."""

_LONGER_WARM_UP = 4
_MACHINE_BUSY_BEFORE = 0.1
"""Load before the test, as a share of the cores, from which on a reader is warned."""


class Shown(generator.Watcher, Protocol):
    """Who shows a test while it runs: see `bench.live`."""

    def expect(self, loads: int) -> None:
        """So many loads more are to come."""
        ...

    def step(self, title: str) -> None:
        """Something that is no load begins."""
        ...

    def begins(self, title: str) -> None:
        """A load begins."""
        ...

    def ended(self, title: str, last: Round, case: Case | None) -> None:
        """A load was measured, which is the last round of a case, or none."""
        ...


def run(options: Options, shown: Shown, previous: Results | None = None) -> Results:
    """Runs a test and writes its folder; `previous` is what its report compares it with.

    Raises:
        NotAsked, PeerMissing, WrongAnswer: nothing could be measured, and nothing was written.
        ServerGone, ProcessFailed: it was stopped in the middle; what was measured by then is written. So on Ctrl-C.
    """
    if not options.concurrency and (options.sweep or options.target is not None):
        raise NotAsked("--slo and --rate sweep begin at what a closed loop reaches: give --concurrency, too")
    if not options.concurrency and not options.rates:
        raise NotAsked("there is nothing to measure: give --concurrency, or --rate")
    others = peers.chosen(options.against)
    for one in others:
        one.require_installed()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="stateserve-bench-")))
        found = _looked_at(options, shown, folder, stack)
        loaded = None if options.bound is None else artifact_of(options.bound, found)
        arrays = _arrays(options, found)
        asked = [ours(found, payloads.build(options.protocol, found, arrays, options.headers))]
        for one in others:
            shown.step(f"start {one.title}")
            asked.append(stack.enter_context(beside(one, loaded, options.protocol, asked[0], folder)))
        for one in asked:
            shown.step(f"ask {one.info.title} once")
            require_answers(one, options.protocol, arrays, loaded)
        options.out.mkdir(parents=True, exist_ok=True)
        test = LoadTest(
            options, shown, folder, asked, Record(options.out, _begun(options, found, asked), previous, options.tolerance)
        )
        return test.run()


def _looked_at(options: Options, shown: Shown, folder: Path, stack: contextlib.ExitStack) -> Target:
    if options.protocol not in payloads.PROTOCOLS:
        raise NotAsked(f"--protocol {options.protocol}: there are {', '.join(payloads.PROTOCOLS)}")
    if options.protocol == "raw":
        return target.any_url(options.url or "")
    url = options.url
    if url is None and options.bound is not None:
        shown.step("start the server")
        url = stack.enter_context(our_server(options.bound, folder))
    return target.look(url or "", options.model, options.version, options.headers)


def _arrays(options: Options, found: Target) -> Sequence[Inputs | payloads.Body]:
    if payloads.PROTOCOLS[options.protocol].write is None:
        return inputs.bodies(options.inputs, images_only=options.protocol != "raw")
    if options.inputs:
        return inputs.from_files(options.inputs, found.signature, guessed=found.guessed)
    return inputs.made_up(found.signature, options.rows, DIFFERENT)


def _begun(options: Options, found: Target, asked: Sequence[Asked]) -> Results:
    """The results before anything is measured."""
    sent = asked[0].sent
    notes = list(found.notes)
    busy = machine.load_before()
    if busy > _MACHINE_BUSY_BEFORE:
        notes.append(f"The machine was not quiet before the test: {busy * 100:.0f} % of its cores were busy.")
    return Results(
        made_at=datetime.now(UTC).isoformat(timespec="seconds"),
        command=options.command,
        url=options.url or "started for the test",
        complete=False,
        stopped_by=None,
        machine=machine.facts(),
        model=ModelAsked(
            name=found.model, version=found.version, signature=found.signature.to_json() if found.oip else None, facts=found.facts
        ),
        payload=PayloadSent(
            protocol=options.protocol,
            different=len(sent),
            rows=sum(one.rows for one in sent) / len(sent),
            body_bytes=sum(len(one.content) for one in sent) / len(sent),
        ),
        contenders={one.key: one.info for one in asked},
        cases=[],
        notes=notes,
    )


class LoadTest:
    """A test whose contenders run and answer; made by `run`."""

    def __init__(self, options: Options, shown: Shown, folder: Path, asked: Sequence[Asked], record: Record) -> None:
        self._options, self._shown, self._folder = options, shown, folder
        self._asked, self._record = asked, record

    def run(self) -> Results:
        """Measures the engine alone, closed loops, open loops, and searches, in this order. What was measured is always written.

        Raises:
            ServerGone, ProcessFailed, KeyboardInterrupt: it was stopped.
        """
        try:
            self._bound()
            self._warm_up()
            self._closed()
            self._open()
            self._search()
            self._record.change(complete=True)
        except (StateserveError, KeyboardInterrupt, SystemExit) as error:
            self._record.change(stopped_by=str(error) if isinstance(error, StateserveError) else "it was interrupted")
            raise
        finally:
            self._shown.step("write the report")
            self._record.report()
        return self._record.results

    def _bound(self) -> None:
        if self._options.bound is None:
            return
        self._shown.step("the engine alone, every batch size")
        run = bound.Run.of(self._record.results.model.facts)
        self._record.change(bound=bound.measure(self._options.bound, run, BOUND_LOADS * self._options.duration_s, self._point))

    def _point(self, point: BoundPoint) -> None:
        self._shown.step(f"the engine alone: {point.rows} rows, {point.rows_per_s:,.0f} rows/s")

    def _warm_up(self) -> None:
        """Where others are asked, all get a longer load once that is not counted: Java compiles what it runs after a while."""
        seconds = self._options.warmup_s * _LONGER_WARM_UP
        if len(self._asked) == 1 or not seconds:
            return
        self._shown.expect(len(self._asked))
        for one in self._asked:
            title = f"{one.key}, warm-up"
            load = replace(self._closed_load(max(self._options.concurrency, default=1)), warmup_s=0.0, duration_s=seconds)
            self._shown.ended(title, self._fire(one, load, title)[1], None)

    def _closed(self) -> None:
        self._rounds([self._closed_load(connections) for connections in self._options.concurrency], self._asked)

    def _open(self) -> None:
        options = self._options
        rates = [self._best_per_s() * share for share in SWEEP] if options.sweep else options.rates
        loads = [self._open_load(rate) for rate in rates]
        self._rounds(loads, self._asked[:1] if options.sweep else self._asked)

    def _search(self) -> None:
        options = self._options
        if options.target is None:
            return
        ours, wanted = self._asked[0], options.target
        least = search.least_rate_per_s(wanted, options.duration_s)

        def probe(rate_per_s: float) -> Probe:
            self._shown.expect(1)
            title = f"{wanted.text} at {load_text(0, rate_per_s)}"
            outcome, measured = self._fire(ours, self._open_load(rate_per_s), title)
            judged = search.judge(wanted, rate_per_s, outcome)
            self._shown.ended(f"{title}: {'held' if judged.held else judged.why_not}", measured, None)
            return judged

        self._record.change(slo=search.search(wanted, self._best_per_s(), least, probe))

    def _rounds(self, loads: Sequence[Load], asked: Sequence[Asked]) -> None:
        """Every load on every contender, again and again; every second round backwards: each neighbour is first as often."""
        self._shown.expect(len(loads) * len(asked) * self._options.rounds)
        for number in range(self._options.rounds):
            turns = [(load, one) for load in loads for one in asked]
            for load, one in turns[:: -1 if number % 2 else 1]:
                self._one_round(one, load, number)

    def _one_round(self, one: Asked, load: Load, number: int) -> None:
        title = f"{one.key}, {load_text(load.connections, load.rate_per_s)}, round {number + 1} of {self._options.rounds}"
        try:
            _, measured = self._fire(one, replace(load, seed=number), title)
        except ServerGone as gone:
            if gone.outcome is not None and gone.outcome.offered:
                self._record.add(one.key, load, self._round(gone.outcome, one.observer))
            raise
        self._shown.ended(title, measured, self._record.add(one.key, load, measured))

    def _fire(self, one: Asked, load: Load, title: str) -> tuple[Outcome, Round]:
        self._shown.begins(title)
        there = replace(load, host=one.host, port=one.port, requests=one.requests)
        outcome = generator.fire(there, self._folder, _Watched(self._shown, one.observer))
        _require_answers(one, outcome)
        return outcome, self._round(outcome, one.observer)

    def _round(self, outcome: Outcome, observer: Observer) -> Round:
        seen = observer.ended()
        for note in seen.notes:
            self._record.note(note)
        return to_round(outcome, seen)

    def _closed_load(self, connections: int) -> Load:
        options = self._options
        return Load("", 0, (), connections, options.duration_s, options.warmup_s, None, options.timeout_s, options.processes)

    def _open_load(self, rate_per_s: float) -> Load:
        options = self._options
        most = options.max_connections
        return Load("", 0, (), most, options.duration_s, options.warmup_s, rate_per_s, options.timeout_s, options.processes)

    def _best_per_s(self) -> float:
        """What our closed loops reached at most."""
        return max(case.requests_per_s for case in self._record.results.closed())


def _require_answers(one: Asked, outcome: Outcome) -> None:
    """Raises ServerGone where a whole load got no answer at all, not even a refusal with a status."""
    if outcome.offered and not any(kind.startswith("status") for kind in outcome.errors) and not len(outcome.latencies_s):
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in outcome.errors.items())
        raise ServerGone(
            f"{one.host}:{one.port} answered none of {outcome.offered:,} requests: {kinds}; look into its log", outcome
        )


class _Watched:
    """Tells whoever shows the test how a load is doing, and the observer when its window begins."""

    def __init__(self, shown: Shown, observer: Observer) -> None:
        self._shown, self._observer = shown, observer

    def window_began(self) -> None:
        self._observer.began()
        self._shown.window_began()

    def progressed(self, progress: generator.Progress) -> None:
        self._shown.progressed(progress)


def to_round(outcome: Outcome, seen: Observation) -> Round:
    """One load as it stands in the results."""
    latency = generator.summary(outcome)
    return Round(
        seconds=outcome.seconds,
        offered=outcome.offered,
        requests=len(outcome.latencies_s),
        in_time=int(np.count_nonzero(outcome.answered_s <= outcome.seconds)),
        rows=outcome.rows,
        errors=outcome.errors,
        latency_ms=latency,
        sent_bytes=outcome.sent_bytes,
        received_bytes=outcome.received_bytes,
        client_busy=outcome.client_busy,
        machine_busy=seen.machine_busy if seen.is_local else None,
        server=seen.server,
        gpus=seen.gpus,
        stages_ms=None if latency is None else seen.stages(latency.mean),
    )
