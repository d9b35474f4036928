"""Looks at a server while a load runs."""

import contextlib
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import psutil

from bench.observed import gpus, listening, page
from bench.observed.cores import CoreTimes, busy_share, core_times
from bench.observed.errors import NotSeen
from bench.observed.page import Counted, Series
from bench.observed.processes import ServerProcesses
from bench.results import GpuUse, ServerUse, Stages

SAMPLE_S = 0.2
"""How often processes and GPUs are looked at."""

_USE = "The server's CPU time and memory"
_ALL_GPUS = (
    "No process of the server is seen on a GPU (in a container, the driver may tell other process ids, or none): all GPUs are "
    "shown, and other processes' use may be in it."
)

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Observation:
    """What was seen. `machine_busy` is of this machine, the load generator included, wherever the server runs: see `is_local`.

    `server` is None and `gpus` is empty where they cannot be seen; `notes` say why, each a sentence for the report. They and
    `machine_busy` are of the measured window alone; `counted`, and `server` where only its own metrics tell it, are of the whole
    load: of the warm-up, of the window, and of what was waited for after it.
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
    """Sees what a server does while a load runs, one load after the other.

    For each: `prepare` before it, `began` and `window_ended` at the edges of its measured window, `ended` after it. What takes
    time (finding the server's processes among all of the machine, asking for its metrics) is done before the load and after it:
    what is done within is in the latencies that are measured.

    Where the server runs on this machine, its processes are `pid` and all that it started, or without `pid` those that listen on
    the port and all that they started. Elsewhere our own server's metrics tell; other servers' are not asked.
    """

    def __init__(self, host: str, port: int, model: str | None, version: str | None = None, pid: int | None = None) -> None:
        self._place = Place(host, port, model, version, pid)
        self._roots: list[psutil.Process] = []
        self._watch: Watch | None = None

    def prepare(self) -> None:
        """A load is about to begin. Finds the server's processes, once as long as they live, and reads its metrics."""
        self._leave()  # a load that did not come to its end
        not_seen = ""
        if not self._roots or not all(root.is_running() for root in self._roots):
            try:
                self._roots = _roots(self._place)
            except NotSeen as reason:
                self._roots, not_seen = [], str(reason)
        self._watch = Watch(self._place, self._roots, not_seen)

    def began(self) -> None:
        """The measured window begins. Takes about a millisecond; much longer where `prepare` was not called before."""
        if self._watch is None or self._watch.has_begun:
            self.prepare()
        if self._watch is not None:
            self._watch.begin()

    def window_ended(self) -> None:
        """The measured window is over. Takes about a millisecond; nothing where it had not begun."""
        if self._watch is not None and self._watch.has_begun:
            self._watch.end_window()

    def ended(self) -> Observation:
        """The load is over, and its window, too, if that was not told. Reads the server's metrics again.

        Stages are means over the warm-up and the window together, with what an open loop beyond the server's capacity waited for
        after it. Where the window had not begun, nothing was observed.
        """
        watch = self._watch
        if watch is None or not watch.has_begun:
            self._leave()
            return Observation(notes=("Nothing was observed: the measured window had not begun.",))
        self._watch = None
        return watch.end()

    def _leave(self) -> None:
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.leave()


class Watch:
    """One observation: prepared when it is made, and over when `end` gives what was seen, or with `leave`."""

    def __init__(self, place: Place, roots: Sequence[psutil.Process], not_seen: str) -> None:
        self._place, self._not_seen = place, not_seen
        self._notes: list[str] = []
        self._readings: list[gpus.Reading] = []
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._is_local = place.pid is not None or listening.is_here(place.host)
        self._processes = ServerProcesses(roots) if roots else None
        self._cores: tuple[CoreTimes | None, CoreTimes | None] = (None, None)
        self._page_before = self._read_page()
        self._stack = contextlib.ExitStack()
        self._library = self._stack.enter_context(gpus.nvml()) if self._is_local else None

    @property
    def has_begun(self) -> bool:
        """Whether the window has begun."""
        return self._thread is not None

    def begin(self) -> None:
        """Counts from now on."""
        self._thread = threading.Thread(target=self._sample, daemon=True)
        if self._processes is not None:
            self._processes.began()
        self._cores = core_times(), None
        self._thread.start()

    def end_window(self) -> None:
        """Counts no further."""
        if self._over.is_set():
            return
        self._cores = self._cores[0], core_times()
        if self._processes is not None:
            self._processes.ended()
        self._over.set()

    def end(self) -> Observation:
        """Says what was seen."""
        self.end_window()
        self.leave()
        before, after = self._page_before, self._read_page()
        return Observation(
            server=self._server(before, after),
            gpus=self._gpus(),
            machine_busy=busy_share(*self._cores),
            notes=tuple(self._notes),
            is_local=self._is_local,
            counted=self._counted(before, after),
        )

    def leave(self) -> None:
        """Looks no more: the thread has ended, and NVML is left."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()
        self._stack.close()

    def _sample(self) -> None:
        over = False
        while not over:
            over = self._over.wait(SAMPLE_S)
            if self._processes is not None:
                self._processes.sample()
            if self._library is not None:
                self._readings += gpus.read(self._library)

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
            self._notes.append(
                f"{_USE} are by its own metrics, its time that of the warm-up, too, its memory at the beginning and the end "
                f"only: {self._not_seen}."
            )
        return found

    def _gpus(self) -> tuple[gpus.GpuUse, ...]:
        pids = set() if self._processes is None else self._processes.pids
        if self._readings and not gpus.are_told(self._readings, pids):
            self._notes.append(_ALL_GPUS)
        return gpus.uses(self._readings, pids)

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
