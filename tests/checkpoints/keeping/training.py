"""Training whose weights after every step are known: each checkpoint is compared with training that was never interrupted."""

import os
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count

import torch
from torch import Tensor, nn

from checkpoints.keeping.keeper import Keeper
from checkpoints.keeping.policies import Best, EverySteps, Last

METRIC, TOP, EVERY, NEWEST = "acc", 2, 200, 2
OPENED, RESUMED, SAVED, DURABLE = "opened", "resumed", "saved", "durable"
"""What a child tells: the Keeper is there; the step from which it goes on (-1: none); `save` returned; `flush` after it too."""
NARROW, WIDE = 192, 1300
"""Widths of the model: 300 kB of weights, and 13.5 MB."""
_ROWS = 4
_FLUSHED_SHARE = 0.2


def metric(step: int) -> float:
    """A metric that jumps about and rises slowly, so that there is a new best every now and then, for ever."""
    return (step * 7919 % 1009) / 1009 + step / 250


def policies() -> tuple[Best, EverySteps, Last]:
    """Of all three kinds; `wanted` says what they keep."""
    return Best(METRIC, mode="max", top=TOP), EverySteps(EVERY), Last(NEWEST)


def wanted(steps: set[int]) -> set[int]:
    """What the policies keep of these steps, written down once more and in another way than in the room."""
    by_step = sorted(steps)
    best = sorted(by_step, key=lambda step: (-metric(step), step))[:TOP]
    return {*best, *by_step[-NEWEST:], *(step for step in steps if step and step % EVERY == 0)}


class Trained:
    """A small model in training: SGD with momentum, dropout, a scheduler; the data come from torch's own generator."""

    def __init__(self, width: int = NARROW) -> None:
        torch.manual_seed(0)
        self.width = width
        self.model = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Dropout(0.1), nn.Linear(width, width))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.05, momentum=0.9)
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, step_size=50, gamma=0.99)

    def advance(self) -> None:
        """One step."""
        x = torch.randn(_ROWS, self.width)
        self.optimizer.zero_grad()
        (self.model(x) - x).square().mean().backward()
        self.optimizer.step()
        self.scheduler.step()


class Uninterrupted:
    """The weights after each step of training that nobody stops; computed as far as they are asked for.

    It has random numbers of its own: those of the process stay as they are.
    """

    def __init__(self, width: int = NARROW) -> None:
        with torch.random.fork_rng():
            self._trained = Trained(width)
            self._generator = torch.get_rng_state()
        self._step = -1
        self.weights: dict[int, dict[str, Tensor]] = {}

    def at(self, step: int) -> dict[str, Tensor]:
        """The weights after this step (0 is the first)."""
        with torch.random.fork_rng():
            torch.set_rng_state(self._generator)
            while self._step < step:
                self._trained.advance()
                self._step += 1
                weights = self._trained.model.state_dict()
                self.weights[self._step] = {name: value.detach().clone() for name, value in weights.items()}
            self._generator = torch.get_rng_state()
        return self.weights[step]

    def forget(self, kept: set[int]) -> None:
        """Frees the weights of all steps but these."""
        for step in self.weights.keys() - kept:
            del self.weights[step]

    def differs(self, step: int, tensors: Mapping[str, Tensor]) -> str | None:
        """What differs, in a bit or more, between these tensors and the weights after the step; None where nothing does."""
        expected = self.at(step)
        if tensors.keys() != expected.keys():
            return f"names {sorted(tensors)}"
        wrong = [name for name, value in expected.items() if not torch.equal(value, tensors[name])]
        return f"values of {wrong}" if wrong else None


@dataclass(frozen=True, slots=True)
class Told:
    """What a child told before it was killed."""

    lines: tuple[tuple[str, int], ...]

    @classmethod
    def parse(cls, raw: bytes) -> "Told":
        """From what came through its pipe; a line that is not whole was not told."""
        whole = raw[: raw.rfind(b"\n") + 1].decode().split("\n")[:-1]
        return cls(tuple((word, int(number)) for word, number in (line.split() for line in whole)))

    @property
    def opened(self) -> bool:
        """Whether the Keeper was made, and with it all swept."""
        return any(word == OPENED for word, _ in self.lines)

    @property
    def resumed(self) -> int | None:
        """The step from which it went on; -1 where there was none; None where it did not come so far."""
        return next((step for word, step in self.lines if word == RESUMED), None)

    @property
    def durable(self) -> set[int]:
        """The steps that must be on the disk: those flushed, and those before one that was saved (one save may be under way)."""
        saved = [step for word, step in self.lines if word == SAVED]
        return {*saved[:-1], *(step for word, step in self.lines if word == DURABLE)}


def train(location: str, seed: int, tell: int, *, steps: int | None = None, width: int = NARROW) -> None:
    """Trains for ever (or for some steps) and saves after every step, as a script would; tells through the descriptor."""
    rng = random.Random(seed)
    trained = Trained(width)
    with Keeper(location, *policies(), format=rng.choice(("safetensors", "pth"))) as keeper:
        _tell(tell, OPENED, 0)
        resumed = keeper.resume(trained.model, trained.optimizer, trained.scheduler)
        _tell(tell, RESUMED, resumed.step if resumed else -1)
        for step in _steps(resumed.step + 1 if resumed else 0, steps):
            trained.advance()
            keeper.save(step, trained.model, trained.optimizer, trained.scheduler, metrics={METRIC: metric(step)})
            _tell(tell, SAVED, step)
            if rng.random() < _FLUSHED_SHARE:
                keeper.flush()
                _tell(tell, DURABLE, step)


def _steps(first: int, steps: int | None) -> Iterator[int]:
    return iter(count(first) if steps is None else range(first, first + steps))


def _tell(descriptor: int, word: str, number: int) -> None:
    os.write(descriptor, f"{word} {number}\n".encode())  # at once, whole, and still there when this process is killed
