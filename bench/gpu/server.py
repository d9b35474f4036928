"""Our server as it is measured on the device: its flags, what it is asked, and whether its answers are right."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import artifact
from artifact import Artifact, scaled_error
from bench import generator, payloads
from bench.client.load import Load, Outcome, Request
from bench.errors import WrongAnswer
from bench.exchange import exchange
from bench.generator import Progress
from bench.gpu.models import GpuModel
from bench.gpu.stage import Work
from bench.gpu.stages import bound
from bench.gpu.stages.export import budgets, require
from bench.inputs import made_up
from bench.load_test import to_round
from bench.observed import Observer
from bench.payloads import Payload
from bench.processes import Running, started
from bench.results import Round
from bench.target import Target, look
from foundation.environment import cores

PROTOCOL = "oip-binary"
READY = "/v2/health/ready"

_DIFFERENT = 4
_ANSWER_TIMEOUT_S = 60.0
_LOAD_TIMEOUT_S = 30.0
_ROUNDING = 1e-3
"""What an answer may differ beside its precision's budget: rows are joined with others, and the reference here is float32."""


class Quiet:
    """Looks on while a load runs, and lets an observer, if there is one, know when its window begins and ends."""

    def __init__(self, observer: Observer | None = None) -> None:
        self._observer = observer

    def window_began(self) -> None:
        """The warm-up is over."""
        if self._observer is not None:
            self._observer.began()

    def window_ended(self) -> None:
        """The measured time is over."""
        if self._observer is not None:
            self._observer.window_ended()

    def progressed(self, progress: Progress) -> None:
        """Nobody is told."""


@dataclass(frozen=True, slots=True)
class Served:
    """A server that is ready, with one model that is asked for."""

    running: Running
    target: Target
    made: Path
    work: Work

    def payloads(self, rows: int, different: int = _DIFFERENT) -> list[Payload]:
        """Requests of so many rows, made up within the signature."""
        return payloads.build(PROTOCOL, self.target, made_up(self.target.signature, rows, different))

    def requests(self, rows: int) -> list[Request]:
        """The same as bytes for the load generator."""
        return [payloads.request(one, "127.0.0.1", self.running.port) for one in self.payloads(rows)]

    def load(self, rows: int, connections: int, seconds: float, warmup_s: float) -> Load:
        """A closed loop of requests of so many rows, by up to four processes."""
        return Load(
            host="127.0.0.1",
            port=self.running.port,
            requests=self.requests(rows),
            connections=connections,
            duration_s=seconds,
            warmup_s=warmup_s,
            timeout_s=_LOAD_TIMEOUT_S,
            processes=max(1, min(4, cores() // 4, connections)),
        )

    def fire(self, load: Load) -> tuple[Outcome, Round]:
        """One load, observed. Raises ServerGone or ProcessFailed."""
        observer = Observer("127.0.0.1", self.running.port, self.target.model, pid=self.running.pid)
        observer.prepare()
        outcome = generator.fire(load, self.work.folder, Quiet(observer))
        return outcome, to_round(outcome, observer.ended())

    def ask(self, payload: Payload) -> tuple[int, str]:
        """Status and the server's own words. Raises NotAsked where there is no answer."""
        answer = exchange("127.0.0.1", self.running.port, payload, _ANSWER_TIMEOUT_S)
        return answer.status, "" if answer.ok else answer.said()

    def require_answers(self, precision: str) -> float:
        """Asks once with two rows, and gives the largest scaled error against the engine on the CPU in float32.

        Raises:
            WrongAnswer: it is not 200, or beyond the precision's budget.
        """
        signature = self.target.signature
        (inputs,) = made_up(signature, 2, different=1, seed=1)
        (payload,) = payloads.build(PROTOCOL, self.target, [inputs])
        answer = exchange("127.0.0.1", self.running.port, payload, _ANSWER_TIMEOUT_S)
        if not answer.ok:
            raise WrongAnswer(f"{self.target.model} answered {answer.status}: {answer.said()}")
        found = payloads.read_answer(PROTOCOL, answer.headers, answer.content, signature.outputs)
        expected, allowed = _on_the_cpu(self.made).run(inputs), budgets(self.made, precision)
        errors = {name: scaled_error(values, expected[name].ravel()) for name, values in found.items()}
        beyond = {name: error for name, error in errors.items() if not error <= allowed[name] + _ROUNDING}
        if beyond:
            raise WrongAnswer(f"{self.target.model} answers other numbers than the engine: scaled errors {beyond}, of {allowed}")
        return max(errors.values())


@contextlib.contextmanager
def serving(work: Work, model: GpuModel, precision: str, frontends: int, flags: Sequence[str] = ()) -> Iterator[Served]:
    """Our server with one model at one precision, on the device, with the engine that is the fastest alone.

    Raises:
        ProcessFailed: it did not start, or ended.
    """
    made = require(work.folder, model, precision)
    engine = bound.served_engine(work.earlier.get("bound", ()), model.key, precision)
    with started("serving", *standard_flags(work, made, frontends, engine), *flags, folder=work.folder, ready=READY) as running:
        target = look(f"http://127.0.0.1:{running.port}", model.at(precision).name)
        yield Served(running, target, made, work)


def standard_flags(work: Work, made: Path, frontends: int, engine: str) -> tuple[str, ...]:
    """What a server needs to serve an artifact on the device; a rehearsal's engine has a process of its own, as on a device."""
    place = ("--repository", str(made.parents[1]), "--device", work.device, "--engine", engine)
    return (*place, "--execution", "process", "--frontends", str(frontends))


def _on_the_cpu(made: Path) -> Artifact:
    return artifact.load(made, threads=max(1, cores() // 2))
