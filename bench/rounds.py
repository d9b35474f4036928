"""Rounds: every case in turn, again and again, with progress; and the artifacts and servers that the cases need."""

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from rich.progress import Progress

from artifact import scaled_error
from bench.errors import WrongAnswer
from bench.models import MeasuredModel, export_model
from bench.payloads import Body, first_output
from bench.processes import Running, started
from bench.wrk import Load, Outcome, fire

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")

_WARM_UP_S = 1
_TOLERANCE = 1e-5
"""Scaled error that an answer may have: joined rows and other thread counts round differently, JSON writes float32 exactly."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a contender takes one kind of body."""

    server: Running
    path: str
    body: Body

    def require(self, expected: np.ndarray) -> None:
        """Asks once.

        Raises:
            WrongAnswer: the answer is not 200, or holds other numbers.
        """
        status, headers, content = self.server.post(self.path, self.body)
        if status != 200:
            raise WrongAnswer(f"{self.path} answered {status}, not 200: {content[:500].decode(errors='replace')}")
        error = scaled_error(first_output(headers, content), expected.ravel())
        if error > _TOLERANCE:
            raise WrongAnswer(f"{self.path} answers other numbers than the engine: scaled error {error:.1e} > {_TOLERANCE:.0e}")


@dataclass(frozen=True, slots=True)
class Bench:
    """What every measurement needs: how long, where its files go, and how it tells that it goes on."""

    rounds: int
    duration_s: int
    folder: Path
    progress: Progress

    def export(self, model: MeasuredModel) -> Path:
        """The artifact of a model, exported on first use; the folder two above it is a repository with nothing else."""
        there = self.folder / model.name / model.name / "1"
        if there.is_dir():
            return there
        with self.step(f"export {model.name}"):
            return export_model(model, self.folder)

    def server(self, repository: Path, *flags: str) -> AbstractContextManager[Running]:
        """Our server on a repository, until the block ends."""
        return started("serving", "--repository", str(repository), *flags, folder=self.folder, ready="/v2/health/ready")

    def fire(self, endpoint: Endpoint, connections: int, duration_s: int, *, stamped: bool = False, threads: int = 1) -> Outcome:
        """One load on one endpoint, by so many threads of wrk. Raises FailedLoad."""
        url = f"http://127.0.0.1:{endpoint.server.port}{endpoint.path}"
        return fire(Load(url, endpoint.body, connections, duration_s, stamped, threads), self.folder)

    def measure(
        self, title: str, cases: Mapping[Key, Callable[[int], Value]], duration_s: int | None = None
    ) -> dict[Key, list[Value]]:
        """Calls every case once a round with the seconds it may take; the values are in the order of the rounds.

        One short round before them is not counted. Every second round goes backwards: of two neighbours, each is first as often.
        """
        found: dict[Key, list[Value]] = {key: [] for key in cases}
        for _, case in self.track(f"{title}: warm-up", list(cases.items())):
            case(_WARM_UP_S)
        turns = [item for number in range(self.rounds) for item in list(cases.items())[:: -1 if number % 2 else 1]]
        for key, case in self.track(title, turns):
            found[key].append(case(duration_s or self.duration_s))
        return found

    def track(self, title: str, items: Sequence[Value]) -> Iterable[Value]:
        """The items, with progress."""
        return self.progress.track(items, description=title)

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """Progress of one step of unknown length."""
        task = self.progress.add_task(title, total=None)
        yield
        self.progress.update(task, total=1, completed=1)
