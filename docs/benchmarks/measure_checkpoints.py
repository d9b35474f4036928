"""Measures what saving takes from a training, and writes checkpoints.md and its chart: `make bench-checkpoints`.

A transformer with 500 MB of weights trains; each way of saving has its turn in every round. Timed is what a training waits for:
the call that saves, and what the steps after it take longer than others.
"""

import argparse
import contextlib
import importlib.metadata
import logging
import os
import shutil
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytorch_lightning
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor, nn

from bench.page import Chart, Goal, Spread, to_svg
from checkpoints.keeping.keeper import Keeper
from checkpoints.keeping.policies import Last
from foundation.environment import environment

ROUNDS = {"SGD": 5, "AdamW": 3}
STEPS = {"SGD": 8, "AdamW": 16}
"""Before and after each save: long enough that the Keeper has written by then."""
GOAL = Goal(1.15, at_least=False)
WORDS, WIDTH, HEADS, LAYERS, ROWS, LENGTH = 51_200, 768, 12, 12, 2, 16
OPTIMIZERS: Mapping[str, Callable[..., torch.optim.Optimizer]] = {"SGD": torch.optim.SGD, "AdamW": torch.optim.AdamW}
COPY = "one copy of the tensors in memory"
KEEPER, WAITED = "Keeper", "Keeper, waited for"
TORCH, TORCH_FLUSHED = "`torch.save`", "`torch.save`, fsync, rename"
LIGHTNING = "Lightning's `ModelCheckpoint`"

_HOW = """Made by `make bench-checkpoints`: a transformer of GPT-2's size trains; in each round every way of saving has its
turn, in another order each time, on the same disk, which is flushed in between. Numbers are medians, with the
smallest and the largest in brackets, and a ratio is the median of the rounds' own ratios.""".replace("\n", " ")
_TO_READ = """The call is what a training waits for. The Keeper's returns when the tensors are copied; its thread then writes,
hashes and flushes while the next steps run, and takes a share of the machine from them: the steps after a save are
compared with as many before it. `torch.save` and Lightning's callback return when the
bytes are in the system's cache; after a power cut they may not be on the disk.""".replace("\n", " ")

_FIRST = (
    "The Keeper's first save, which makes its buffers, took {:,.0f} ms; one that was waited for was on the disk after {:.2f} s."
)


class Language(nn.Module):
    """A transformer of GPT-2's size: 500 MB of float32 in 149 tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, WIDTH)
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 4 * WIDTH, dropout=0.0, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Token numbers (B, T) -> vectors (B, T, WIDTH)."""
        return self.layers(self.embedding(tokens))


class Training:
    """The model and its optimizer; a step is a real one."""

    def __init__(self, optimizer: str) -> None:
        torch.manual_seed(0)
        self.model = Language()
        self.optimizer = OPTIMIZERS[optimizer](self.model.parameters(), lr=1e-5)
        self.tokens = torch.randint(WORDS, (ROWS, LENGTH))
        self.number = 0

    def loss(self) -> Tensor:
        """Of one batch."""
        return self.model(self.tokens).square().mean()

    def step(self) -> None:
        """Forward, backward, update."""
        self.optimizer.zero_grad(set_to_none=False)
        self.loss().backward()
        self.optimizer.step()
        self.number += 1

    def steps_s(self, count: int) -> float:
        """Seconds of some steps."""
        return _seconds(lambda: [self.step() for _ in range(count)])

    def tensors(self) -> list[Tensor]:
        """All that a checkpoint holds: weights, and what the optimizer keeps."""
        state = [value for entry in self.optimizer.state.values() for value in entry.values() if isinstance(value, Tensor)]
        return [value.detach() for value in (*self.model.state_dict().values(), *state)]

    def all_of_it(self) -> dict[str, Any]:
        """The dict that a loop gives to `torch.save`."""
        return {"model_state_dict": self.model.state_dict(), "optimizer_state_dict": self.optimizer.state_dict()}


@dataclass(slots=True)
class Measured:
    """One way of saving: the seconds of its call, of the steps before it and of those after it, in every round."""

    call_s: list[float] = field(default_factory=list)
    before_s: list[float] = field(default_factory=list)
    after_s: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Way:
    """A way of saving: `save` returns the seconds that the training waited, `finish` waits until all is written."""

    save: Callable[[], float]
    finish: Callable[[], None] = lambda: None


@dataclass(frozen=True, slots=True)
class Result:
    """All rounds of one training."""

    optimizer: str
    size_bytes: int
    tensors: int
    first_s: float
    steps: int
    ways: dict[str, Measured]

    def ways_in_order(self) -> list[str]:
        """The names of the ways, as the page lists them."""
        return [name for name in (COPY, KEEPER, WAITED, TORCH, TORCH_FLUSHED, LIGHTNING) if name in self.ways]


def main() -> None:
    """Measures with both optimizers and writes the page."""
    parser = argparse.ArgumentParser(description="Measures what saving takes from a training.")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--steps", type=int, help="training steps before and after each save (default: enough to have written)")
    parser.add_argument("--optimizer", action="append", choices=list(OPTIMIZERS), help="default: each in turn")
    parser.add_argument("--within", type=Path, help="on whose disk it is saved (default: the system's temporary directory)")
    parser.add_argument("--to", type=Path, default=Path(__file__).parent / "checkpoints.md", help="the page")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    before = os.getloadavg()[0]
    results = [
        _measure(name, asked.rounds or ROUNDS[name], asked.steps or STEPS[name], asked.within)
        for name in asked.optimizer or OPTIMIZERS
    ]
    _write(asked.to, results, before)


def _measure(optimizer: str, rounds: int, steps: int, within: Path | None) -> Result:
    training = Training(optimizer)
    training.steps_s(2)
    with tempfile.TemporaryDirectory(dir=within) as name, _ways(training, Path(name)) as ways:
        first_s = ways[KEEPER].save()
        ways[KEEPER].finish()
        for way in ways.values():  # each one's first time is not counted: it makes buffers, imports, folders
            way.save()
            way.finish()
        result = Result(optimizer, sum(one.nbytes for one in training.tensors()), len(training.tensors()), first_s, steps, {})
        for number in range(rounds):
            _round(training, ways, result, number)
    return result


def _round(training: Training, ways: Mapping[str, Way], result: Result, number: int) -> None:
    """Every way once, the first one another in every round."""
    names = list(ways)
    for name in names[number % len(names) :] + names[: number % len(names)]:
        os.sync()  # so that no way pays for what another left to the disk
        measured = result.ways.setdefault(name, Measured())
        measured.before_s.append(training.steps_s(result.steps))
        measured.call_s.append(ways[name].save())
        measured.after_s.append(training.steps_s(result.steps))
        ways[name].finish()
        before, call, after = measured.before_s[-1], measured.call_s[-1] * 1000, measured.after_s[-1]
        print(f"{result.optimizer} {number} {name}: {before:.2f} s, {call:.1f} ms, {after:.2f} s", flush=True)


@contextlib.contextmanager
def _ways(training: Training, folder: Path) -> Iterator[dict[str, Way]]:
    buffers = [torch.zeros_like(one) for one in training.tensors()]
    with Keeper(folder / "kept", Last(1)) as keeper, Keeper(folder / "waited", Last(1)) as waited:

        def copy() -> None:
            for buffer, tensor in zip(buffers, training.tensors(), strict=True):
                buffer.copy_(tensor)

        def keep() -> None:
            keeper.save(training.number, training.model, training.optimizer)

        def keep_and_wait() -> None:
            waited.save(training.number, training.model, training.optimizer)
            waited.flush()

        yield {
            COPY: Way(lambda: _seconds(copy)),
            KEEPER: Way(lambda: _seconds(keep), keeper.flush),
            WAITED: Way(lambda: _seconds(keep_and_wait)),
            TORCH: Way(lambda: _seconds(lambda: torch.save(training.all_of_it(), folder / "torch.pth"))),
            TORCH_FLUSHED: Way(lambda: _seconds(lambda: _save_flushed(training.all_of_it(), folder / "flushed.pth"))),
            LIGHTNING: Way(lambda: _lightning(training, folder / "lightning")),
        }
    shutil.rmtree(folder, ignore_errors=True)


def _save_flushed(content: Mapping[str, Any], path: Path) -> None:
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    descriptor = os.open(path.parent, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


class _Timed(ModelCheckpoint):
    """Lightning's own callback, and the seconds that a training waited for it."""

    waited_s = 0.0

    def on_train_batch_end(self, *arguments: Any, **more: Any) -> None:
        """As Lightning's."""
        began = time.perf_counter()
        super().on_train_batch_end(*arguments, **more)
        self.waited_s += time.perf_counter() - began


class _Module(pytorch_lightning.LightningModule):
    """The same training as Lightning runs it."""

    def __init__(self, training: Training) -> None:
        super().__init__()
        self.model, self._training = training.model, training

    def training_step(self, *_: Any) -> Tensor:
        """As Lightning's."""
        return self._training.loss()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """As Lightning's."""
        return self._training.optimizer


def _lightning(training: Training, folder: Path) -> float:
    """One step of a `Trainer`, after which its callback saves; the seconds of the callback."""
    callback = _Timed(folder, filename="{step}", every_n_train_steps=1, save_top_k=1)
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = pytorch_lightning.Trainer(max_steps=1, callbacks=[callback], accelerator="cpu", default_root_dir=folder, **quiet)
    trainer.fit(_Module(training), torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.zeros(1))))
    shutil.rmtree(folder, ignore_errors=True)
    return callback.waited_s


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _write(path: Path, results: list[Result], load: float) -> None:
    facts = environment()
    versions = f"torch {torch.__version__}, pytorch-lightning {importlib.metadata.version('pytorch-lightning')}"
    lines = [
        "# What saving takes from a training",
        "",
        f"{_HOW} The machine's load average was {load:.1f} before the start.",
        "",
        _TO_READ,
        "",
        f"{facts['cpu']}, {facts['cores']} cores; Python {facts['python']}, {versions}.",
    ]
    for result in results:
        lines += ["", *_section(result)]
        chart = path.with_name(f"{path.stem}-{result.optimizer.lower()}.svg")
        chart.write_text(to_svg(_chart(result, chart.name)))
        lines += ["", f"![What saving takes, {result.optimizer}]({chart.name})"]
    path.write_text("\n".join(lines) + "\n")


def _section(result: Result) -> list[str]:
    columns = (
        "way of saving",
        "call, ms",
        "times one copy",
        f"{result.steps} steps after it longer by, ms",
        "call and steps, times `torch.save`",
        "goal",
    )
    plain = Spread.of([value for one in result.ways.values() for value in one.before_s])
    begun = f"{len(result.ways[COPY].call_s)} rounds; {result.steps} steps without saving take {plain.text(2)} s."
    on_disk_s = statistics.median(result.ways[WAITED].call_s)
    return [
        f"## {result.optimizer}: {result.size_bytes / 1e6:,.0f} MB in {result.tensors} tensors",
        "",
        f"{begun} {_FIRST.format(result.first_s * 1000, on_disk_s)}",
        "",
        f"| {' | '.join(columns)} |",
        f"|{'---|' * len(columns)}",
        *(_row(result, name) for name in result.ways_in_order()),
    ]


def _row(result: Result, name: str) -> str:
    measured, copy = result.ways[name], result.ways[COPY]
    ratio = Spread.of_ratios(measured.call_s, copy.call_s)
    total = Spread.of_ratios(_total(result, name), _total(result, TORCH))
    goal = GOAL.text(ratio.median) if name == KEEPER else ""
    call = Spread.of([value * 1000 for value in measured.call_s])
    longer = Spread.of([value * 1000 for value in _longer(result, name)])
    return f"| {name} | {call.text(1)} | {ratio.text(2)} | {longer.text(0)} | {total.text(2)} | {goal} |"


def _longer(result: Result, name: str) -> list[float]:
    return [after - plain for after, plain in zip(result.ways[name].after_s, result.ways[name].before_s, strict=True)]


def _total(result: Result, name: str) -> list[float]:
    return [call + longer for call, longer in zip(result.ways[name].call_s, _longer(result, name), strict=True)]


def _chart(result: Result, file: str) -> Chart:
    groups = {
        name.replace("`", "")[:22]: (
            statistics.median(result.ways[name].call_s) * 1000,
            max(0.0, statistics.median(_longer(result, name)) * 1000),
        )
        for name in result.ways_in_order()
    }
    return Chart(
        file, f"ms that a save takes from the training, {result.optimizer}", ("in the call", "in the steps after"), groups
    )


if __name__ == "__main__":
    main()
