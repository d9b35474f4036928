"""A load test, its steps in order: prepare, measure the engine alone, closed loops, open loops, search; write after each.

Contenders run side by side and are asked in turn, round by round, so that a slow minute of the machine hits them all.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from bench import bound, generator, search
from bench.client.load import Load, Outcome
from bench.contenders import Contestant
from bench.errors import ServerGone
from bench.observed import Observation, Observer, listening
from bench.options import SWEEP, Options
from bench.preparation import Prepared, Steps, prepare
from bench.record import Record
from bench.report import units
from bench.results import BoundPoint, Case, Probe, Results, Round
from foundation.errors import StateserveError

BOUND_LOADS = 2
"""The engine alone gets as long as so many loads, for all its batch sizes together."""

_LONGER_WARM_UP = 4
_WAITED = 0.01
"""Share of an open loop's requests that waited for a connection, from which on a reader is told."""


class Shown(generator.Watcher, Steps, Protocol):
    """Who shows a test while it runs: see `bench.live`."""

    def expect(self, loads: int) -> None:
        """So many loads more are to come."""
        ...

    def begins(self, title: str) -> None:
        """A load begins."""
        ...

    def ended(self, title: str, last: Round, case: Case | None) -> None:
        """A load was measured, which is the last round of a case, or none."""
        ...

    def kept(self, folder: Path) -> None:
        """The test was stopped; what was measured is in this folder."""
        ...


def run(options: Options, shown: Shown, previous: Results | None = None) -> Results:
    """Runs a test and writes its folder; `previous` is what its report compares it with.

    Raises:
        NotAsked, PeerMissing, WrongAnswer: nothing could be measured, and nothing was written.
        ServerGone, ProcessFailed, NotWritten: it was stopped in the middle; what was measured by then is kept. So on Ctrl-C.
    """
    with contextlib.ExitStack() as stack:
        return LoadTest(options, shown, prepare(options, shown, stack), previous).run()


class LoadTest:
    """A test whose contenders run and have answered; made by `run`."""

    def __init__(self, options: Options, shown: Shown, prepared: Prepared, previous: Results | None) -> None:
        self._options, self._shown = options, shown
        self._contestants, self._folder = prepared.contestants, prepared.folder
        self._record = Record(options.out, prepared.begun, previous, options.tolerance)
        self._capacity: float | None = None

    def run(self) -> Results:
        """Measures everything that was asked for; what was measured is always written.

        Raises:
            ServerGone, ProcessFailed, NotWritten, KeyboardInterrupt: it was stopped.
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
            self._record.report()
            self._shown.kept(self._options.out)
            raise
        self._shown.step("write the report")
        self._record.report()
        return self._record.results

    def _bound(self) -> None:
        if self._options.bound is None:
            return
        if not listening.is_here(self._contestants[0].host):
            self._record.note("The server runs on another machine: its engine was not measured alone here.")
            return
        facts = self._record.results.model.facts
        if "threads" not in facts:
            self._record.note("The server does not say with how many threads its engine runs: alone, it had all cores.")
        self._shown.step("the engine alone, every batch size")
        seconds = BOUND_LOADS * self._options.duration_s
        self._record.change(bound=bound.measure(self._options.bound, bound.Run.of(facts), seconds, self._point))

    def _point(self, point: BoundPoint) -> None:
        self._shown.step(f"the engine alone: {point.rows} rows, {point.rows_per_s:,.0f} rows/s")

    def _warm_up(self) -> None:
        """Where others are asked, all get a longer load once that is not counted: Java compiles what it runs after a while."""
        seconds = self._options.warmup_s * _LONGER_WARM_UP
        if len(self._contestants) == 1 or not seconds:
            return
        self._shown.expect(len(self._contestants))
        for one in self._contestants:
            load = self._load(one, max(self._options.concurrency, default=1))
            self._uncounted(one, replace(load, warmup_s=0.0, duration_s=seconds), f"{one.key}, warm-up")

    def _closed(self) -> None:
        self._rounds([(connections, None) for connections in self._options.concurrency], self._contestants)

    def _open(self) -> None:
        options = self._options
        rates = [self._capacity_per_s() * share for share in SWEEP] if options.sweep else options.rates
        asked = self._contestants[:1] if options.sweep else self._contestants
        self._rounds([(options.max_connections, rate) for rate in rates], asked)

    def _search(self) -> None:
        objective, ours = self._options.objective, self._contestants[0]
        if objective is None:
            return
        tried: list[Probe] = []

        def probe(rate_per_s: float) -> Probe:
            self._shown.expect(1)
            title = f"{objective.text} at {units.load(0, rate_per_s)}"
            seed = self._options.rounds + len(tried)  # no arrivals are tried twice
            outcome, measured = self._fire(ours, self._load(ours, self._options.max_connections, rate_per_s, seed), title)
            tried.append(search.judge(objective, rate_per_s, outcome))
            self._record.change(slo=search.told(objective, tried, None))
            self._shown.ended(f"{title}: {'held' if tried[-1].held else tried[-1].why_not}", measured, None)
            return tried[-1]

        least = search.least_rate_per_s(objective, self._options.duration_s)
        self._record.change(slo=search.search(objective, self._capacity_per_s(), least, probe))

    def _capacity_per_s(self) -> float:
        """What our server can do: the most that a closed loop reached, one with all connections of an open loop among them."""
        if self._capacity is None:
            self._shown.expect(1)
            load = self._load(self._contestants[0], self._options.max_connections)
            most = self._uncounted(self._contestants[0], load, f"capacity with {load.connections} connections")
            self._capacity = max(most.requests_per_s, *(case.requests_per_s for case in self._record.results.closed()))
        return self._capacity

    def _rounds(self, loads: Sequence[tuple[int, float | None]], contestants: Sequence[Contestant]) -> None:
        """Every load on every contender, again and again; every second round backwards: each neighbour is first as often.

        A load is its connections, and for an open loop its rate.
        """
        self._shown.expect(len(loads) * len(contestants) * self._options.rounds)
        for number in range(self._options.rounds):
            turns = [(load, one) for load in loads for one in contestants]
            for (connections, rate_per_s), one in turns[:: -1 if number % 2 else 1]:
                self._one_round(one, self._load(one, connections, rate_per_s, number), number)

    def _one_round(self, one: Contestant, load: Load, number: int) -> None:
        title = f"{one.key}, {units.load(load.connections, load.rate_per_s)}, round {number + 1} of {self._options.rounds}"
        try:
            outcome, measured = self._fire(one, load, title)
        except ServerGone as gone:
            if gone.outcome is not None and gone.outcome.offered:
                self._record.add(one.key, load, self._round(gone.outcome, one.observer))
            raise
        self._shown.ended(title, measured, self._record.add(one.key, load, measured))
        if outcome.waited > _WAITED * outcome.offered:
            self._record.note(
                f"At some rates requests waited for one of {load.connections} connections, which is in their latency: with more "
                "(--max-connections) they might have been answered sooner."
            )

    def _uncounted(self, one: Contestant, load: Load, title: str) -> Round:
        _, measured = self._fire(one, load, title)
        self._shown.ended(title, measured, None)
        return measured

    def _fire(self, one: Contestant, load: Load, title: str) -> tuple[Outcome, Round]:
        self._shown.begins(title)
        one.observer.prepare()
        outcome = generator.fire(load, self._folder, _Watched(self._shown, one.observer))
        _require_answers(one, outcome)
        return outcome, self._round(outcome, one.observer)

    def _round(self, outcome: Outcome, observer: Observer) -> Round:
        seen = observer.ended()
        for note in seen.notes:
            self._record.note(note)
        return to_round(outcome, seen)

    def _load(self, one: Contestant, connections: int, rate_per_s: float | None = None, seed: int = 0) -> Load:
        options = self._options
        return Load(
            host=one.host,
            port=one.port,
            requests=one.requests,
            connections=connections,
            duration_s=options.duration_s,
            warmup_s=options.warmup_s,
            rate_per_s=rate_per_s,
            timeout_s=options.timeout_s,
            processes=options.processes,
            seed=seed,
        )


def _require_answers(one: Contestant, outcome: Outcome) -> None:
    """Raises ServerGone where a whole load got no answer at all, not even a refusal with a status."""
    if outcome.offered and not any(kind.startswith("status") for kind in outcome.errors) and not len(outcome.latencies_s):
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in outcome.errors.items())
        raise ServerGone(
            f"{one.host}:{one.port} answered none of {outcome.offered:,} requests: {kinds}; look into its log", outcome
        )


class _Watched:
    """Tells whoever shows the test how a load is doing, and the observer when its window begins and ends."""

    def __init__(self, shown: Shown, observer: Observer) -> None:
        self._shown, self._observer = shown, observer

    def window_began(self) -> None:
        self._observer.began()
        self._shown.window_began()

    def window_ended(self) -> None:
        self._observer.window_ended()
        self._shown.window_ended()

    def progressed(self, progress: generator.Progress) -> None:
        self._shown.progressed(progress)


def to_round(outcome: Outcome, seen: Observation) -> Round:
    """One load as it stands in the results."""
    latency = generator.summary(outcome)
    return Round(
        seconds=outcome.seconds,
        offered=outcome.offered,
        requests=len(outcome.latencies_s),
        in_time=outcome.in_time,
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
