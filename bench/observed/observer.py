"""Looks at a server while a load runs."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import psutil

from bench.observed import gpus, listening, page
from bench.observed.cores import busy_share, core_times
from bench.observed.errors import NotSeen
from bench.observed.page import Counted, Series
from bench.observed.processes import ServerProcesses
from bench.results import GpuUse, ServerUse, Stages

SAMPLE_S = 0.2
"""How often processes and GPUs are looked at."""

_USE = "The server's CPU time and memory"

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Observation:
    """What was seen. `machine_busy` is of this machine, the load generator included, wherever the server runs: see `is_local`.

    `server` is None and `gpus` is empty where they cannot be seen; `notes` say why, each a sentence for the report.
    """

    server: ServerUse | None = None
    gpus: tuple[GpuUse, ...] = ()
    machine_busy: float | None = None
    notes: tuple[str, ...] = ()
    is_local: bool = False
    counted: Counted | None = None

    def stages(self, client_ms: float) -> Stages | None:
        """A request's time, split; `client_ms` is the mean latency that the clients saw. None where the server does not tell."""
        return None if self.counted is None else self.counted.stages(client_ms)


@dataclass(frozen=True, slots=True)
class Place:
    """Which server, and which model of it; all versions together where `version` is None. `pid` is its process, if known.

    Without a model it is any server at all, whose metrics are not asked for.
    """

    host: str
    port: int
    model: str | None
    version: str | None
    pid: int | None


class Observer:
    """Sees what a server does between `began` and `ended`, as often as they are called in turn.

    Where the server runs on this machine, its processes are `pid` and all that it started, or without `pid` those that listen on
    the port and all that they started. Elsewhere our own server's metrics tell; other servers' are not asked.
    """

    def __init__(self, host: str, port: int, model: str | None, version: str | None = None, pid: int | None = None) -> None:
        self._place = Place(host, port, model, version, pid)
        self._watch: Watch | None = None

    def began(self) -> None:
        """The measured window begins. Returns at once: the server's metrics are asked for in a thread."""
        if self._watch is not None:  # a load that did not come to its end
            self._watch.leave()
        self._watch = Watch(self._place)

    def ended(self) -> Observation:
        """The load is over. What it waited for after its window, in an open loop beyond the server's capacity, is in it too."""
        watch, self._watch = self._watch, None
        if watch is None:
            return Observation(notes=("Nothing was observed: the measured window had not begun.",))
        return watch.end()


class Watch:
    """One observation: begins when it is made, and is over when `end` gives what was seen."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._notes: list[str] = []
        self._page_before: Mapping[Series, float] | None = None
        self._readings: list[gpus.Reading] = []
        self._over = threading.Event()
        self._is_local = place.pid is not None or listening.is_here(place.host)
        self._not_seen = ""
        self._processes = self._found()
        self._threads = [threading.Thread(target=target, daemon=True) for target in (self._read_before, self._sample)]
        self._cores = core_times()
        for thread in self._threads:
            thread.start()

    def end(self) -> Observation:
        """Looks once more, and says what was seen since it was made."""
        cores = core_times()
        self._over.set()
        for thread in self._threads:
            thread.join()
        before, after = self._page_before, self._read_page()
        return Observation(
            server=self._server(before, after),
            gpus=self._gpus(),
            machine_busy=busy_share(self._cores, cores),
            notes=tuple(self._notes),
            is_local=self._is_local,
            counted=self._counted(before, after),
        )

    def leave(self) -> None:
        """Looks no more; nothing is said."""
        self._over.set()

    def _found(self) -> ServerProcesses | None:
        try:
            return ServerProcesses(_roots(self._place))
        except NotSeen as reason:
            self._not_seen = str(reason)
            return None

    def _sample(self) -> None:
        with gpus.nvml() as library:
            over = False
            while not over:
                over = self._over.wait(SAMPLE_S)
                if self._processes is not None:
                    self._processes.sample()
                if self._is_local and library is not None:
                    self._readings += gpus.read(library)

    def _read_before(self) -> None:
        self._page_before = self._read_page()

    def _read_page(self) -> Mapping[Series, float] | None:
        if not self._place.model:  # any server at all
            return None
        return self._tried("The stages of a request", lambda: page.read_page(self._place.host, self._place.port))

    def _counted(self, before: Mapping[Series, float] | None, after: Mapping[Series, float] | None) -> Counted | None:
        model = self._place.model
        if before is None or after is None or not model:
            return None
        return self._tried("The stages of a request", lambda: page.counted(before, after, model, self._place.version))

    def _server(self, before: Mapping[Series, float] | None, after: Mapping[Series, float] | None) -> ServerUse | None:
        if self._processes is not None:
            return self._processes.use
        if before is None or after is None:
            self._notes.append(f"{_USE} are not known: {self._not_seen}.")
            return None
        found = self._tried(_USE, lambda: page.process_use(before, after))
        if found is not None:
            self._notes.append(f"{_USE} are by its own metrics, its memory at the beginning and the end only: {self._not_seen}.")
        return found

    def _gpus(self) -> tuple[gpus.GpuUse, ...]:
        return gpus.uses(self._readings, set() if self._processes is None else self._processes.pids)

    def _tried(self, what: str, look: Callable[[], Value]) -> Value | None:
        try:
            return look()
        except NotSeen as reason:
            note = f"{what} are not known: {reason}."
            if note not in self._notes:
                self._notes.append(note)
            return None


def _roots(place: Place) -> list[psutil.Process]:
    if place.pid is None:
        return listening.serving(place.host, place.port)
    try:
        return [psutil.Process(place.pid)]
    except psutil.NoSuchProcess as cause:
        raise NotSeen(f"the server's process {place.pid} has ended") from cause
