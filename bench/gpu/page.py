"""docs/benchmarks/gpu.md: the stages, what each measured, and on what machine; or that nothing was measured."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.errors import NotWritten
from bench.gpu import needs
from bench.gpu.bottleneck import GOAL, TARGET_MS
from bench.gpu.record import Record, StageRecord
from bench.gpu.stage import Stage
from bench.page import Section

TITLE = "On a GPU"

_MOST_SHOWN = 360
"""Characters of a cell."""

_MISSING = (
    "**Not measured yet: every figure of this page is missing.** What is written for CUDA was never run on a GPU. `make gpu` "
    "measures it in under eight minutes on a machine that has one, and writes this page and `gpu.json` beside it; elsewhere it "
    "says so in a line and does nothing."
)
_NEEDED = (
    "## What it needs\n\n"
    f"There have to be PyTorch with CUDA, and {', '.join(name for name in needs.HEAVY if name != 'torch')}. The rest is 21 MB of "
    "wheels: `make gpu-wheels` downloads them into `build/wheels` on a machine with a network (for Python 3.12 on x86-64; "
    "`python -m bench.gpu.wheels --help` for another), and `make gpu` installs them from there without one, into an environment "
    "of its own that finds all else where `PYTHON` finds it: "
    f"{', '.join(needs.PACKAGES)}. ONNX Runtime is measured on CUDA where its CUDA build is there, 256 MB more: "
    "`python -m bench.gpu.wheels --onnxruntime-gpu FOLDER --parts-mb 40` downloads it, cut for whoever has to carry it in parts; "
    "put together beside the other wheels (`cat PARTS > WHEEL`) it is installed with them, and finds CUDA's libraries in the "
    "packages that PyTorch brought."
)


def write(path: Path, text: str) -> None:
    """Writes the page. Raises NotWritten."""
    try:
        path.write_text(text)
    except OSError as cause:
        raise NotWritten(f"{path} cannot be written: {cause.strerror}") from cause


def not_measured(stages: Sequence[Stage]) -> str:
    """The page as it stands until a machine with a GPU has run `make gpu`."""
    does = "\n".join(f"- **{stage.name}**: {stage.does}" for stage in stages)
    goals = (
        f"Goals: ResNet-50 and the BERT encoder at float16 are served at {GOAL:g} of the engine's bound or more with p99 under "
        f"{TARGET_MS:g} ms, or the bottleneck is named with numbers; every answer is within its budget against float64."
    )
    return f"# {TITLE}\n\n{_MISSING}\n\nWhat will stand here:\n\n{does}\n\n{goals}\n\n{_NEEDED}\n"


def to_markdown(record: Record, stages: Mapping[str, Stage]) -> str:
    """The page of a run, whole or not: how it was made, how each stage ended, and what each found."""
    ran = [stage for name, stage in stages.items() if name in record.stages]
    lines = [f"# {TITLE}", "", _introduction(record), ""]
    left_out = [name for name in stages if name not in record.stages]
    if left_out:
        lines += [f"**Not measured yet: {', '.join(left_out)}.**", ""]
    ended = [_ended(stage.name, record.stages[stage.name]) for stage in ran]
    lines += _table(("stage", "ended", "seconds", "findings that failed", "error"), ended)
    for stage in ran:
        for section in stage.tell(record.stages[stage.name].findings, record.findings):
            lines += _section(section)
    lines += ["", _NEEDED]
    return "\n".join(lines) + "\n"


def _introduction(record: Record) -> str:
    text = (
        f"Made by `{record.command}`: every stage runs in a process of its own, on the same machine as the load generator. What "
        "a stage found before it failed, or ran out of its time, is kept. All numbers stand in `gpu.json`, too."
    )
    if record.device == "cpu":
        text += " **A rehearsal on the CPU with tiny models: no figure of it means anything.**"
    elif record.plan != "full":
        text += f" **The {record.plan} form: fewer combinations, shorter loads.**"
    return text


def _ended(name: str, one: StageRecord) -> tuple[str, ...]:
    failed = sum("failed" in finding for finding in one.findings)
    status = one.status if one.status == "done" else f"**{one.status}**"
    return name, status, f"{one.seconds:.0f}", f"**{failed}**" if failed else "none", one.error or ""


def _section(section: Section) -> list[str]:
    return ["", f"## {section.title}", "", section.text, "", *_table(section.columns, section.rows)]


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [_row(columns), _row(["---"] * len(columns)), *map(_row, rows)]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(_cell, cells))} |"


def _cell(text: str) -> str:
    """One line, whatever an error's message holds; of a long one its beginning and its end, `gpu.json` has it whole."""
    line = " ".join(text.split()).replace("|", "\\|")
    return line if len(line) <= _MOST_SHOWN else f"{line[: _MOST_SHOWN // 3]} … {line[-_MOST_SHOWN * 2 // 3 :]}"
