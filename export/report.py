"""What a person sees of an export: progress while it runs, and the result, both on stderr; stdout is left to scripts."""

import contextlib
import shlex
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

if TYPE_CHECKING:
    from export.run import Exported, Prepared


class Silent:
    """Tells nobody."""

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:  # noqa: ARG002 (the protocol's)
        """See `export.run.Progress`."""
        yield

    def advance(self, done: int, total: int, what: str) -> None:
        """See `export.run.Progress`."""


class Steps:
    """A line per step with its time, and a bar in the one that runs; without a terminal, a line per finished step."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar: Progress | None = None
        self._task: Any = None

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        """See `export.run.Progress`."""
        started = time.perf_counter()
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description:<24}"),
            BarColumn(30),
            TextColumn("{task.fields[what]}"),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=self._console, transient=True, disable=not self._console.is_terminal) as self._bar:
            self._task = self._bar.add_task(name, total=None, what="")
            try:
                yield
            except BaseException:
                if self._console.is_terminal:  # a log needs the error's own line only
                    self._console.print(f"[red]✗[/] {name:<24} {time.perf_counter() - started:7.2f} s", highlight=False)
                raise
        self._console.print(f"[green]✓[/] {name:<24} {time.perf_counter() - started:7.2f} s", highlight=False)

    def advance(self, done: int, total: int, what: str) -> None:
        """See `export.run.Progress`."""
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=total, what=f"{done}/{total} {what}")


def print_result(console: Console, exported: "Exported") -> None:
    """The closing block: sizes, worst error against budget per engine, notices, and the next command."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for header in ("engine", "worst case", "max abs", "scaled", "budget"):
        table.add_column(header, justify="left" if header in {"engine", "worst case"} else "right")
    for engine, (worst, budget) in exported.worst.items():
        table.add_row(engine, worst.case, f"{worst.max_abs:.1e}", f"{worst.scaled:.1e}", f"{budget:.1e}")
    for precision, found in exported.precisions.items():
        _add_precision(table, precision, found)
    console.print()
    console.print(table)
    for notice in exported.notices:
        console.print(f"[yellow]note[/] {escape(notice)}", highlight=False, soft_wrap=True)
    if exported.left_out:
        console.print(
            f"[yellow]note[/] {exported.left_out} parity case(s) were left out for cost: see parity.json",
            highlight=False,
            soft_wrap=True,
        )
    for precision, found in exported.precisions.items():
        if found["left_out"]:
            console.print(
                f"[yellow]note[/] {len(found['left_out'])} case(s) were left out in {precision} for cost: see parity.json",
                highlight=False,
                soft_wrap=True,
            )
    sizes = ", ".join(f"{name} {_megabytes(size)}" for name, size in exported.sizes.items())
    verb = "wrote" if exported.created else "unchanged"
    console.print(f"\n{verb} [bold]{exported.path}[/] in {exported.seconds:.1f} s: {sizes}", highlight=False, soft_wrap=True)
    console.print(f"content id {exported.content_id}", highlight=False, soft_wrap=True)
    if "model.onnx" in exported.sizes:
        repository = shlex.quote(str(exported.path.parent.parent))
        console.print(f"next: python -m serving --repository {repository}", highlight=False, soft_wrap=True)
    else:
        console.print("next: our server runs model.onnx, which is not there: add --format onnx", highlight=False, soft_wrap=True)


def _add_precision(table: Table, precision: str, found: Mapping[str, Any]) -> None:
    """A row for the model itself in that precision, and one for each file: their outputs closest to the budget."""
    budgets = {name: output["budget"] for name, output in found["outputs"].items()}
    itself = {name: (output["measured"], output["case"]) for name, output in found["outputs"].items()}
    rows = {f"the model in {precision}": itself} | {
        file: {name: (output["scaled"], output["case"]) for name, output in entry["outputs"].items()}
        for file, entry in found["files"].items()
    }
    for title, outputs in rows.items():
        worst = max(outputs, key=lambda name: outputs[name][0] / budgets[name] if budgets[name] else outputs[name][0])
        scaled, case = outputs[worst]
        table.add_row(title, case, "", f"{scaled:.1e}", f"{budgets[worst]:.1e}")


def print_plan(console: Console, prepared: "Prepared") -> None:
    """What an export would do."""
    checkpoint, loaded = prepared.checkpoint, prepared.loaded
    facts = "".join(f", {key} {value}" for key, value in list(checkpoint.provenance.items())[:6])
    lines = {
        "checkpoint": f"{checkpoint.path.name}: {checkpoint.layout}, {_megabytes(checkpoint.size_bytes)}{facts}",
        "config": prepared.config_source,
        "model": f"{prepared.config.model.name} {prepared.config.model.params}",
        "weights": f"{loaded.tensors} tensors, {_megabytes(loaded.size_bytes)}, rewrite {loaded.rewrite}",
        "ignored": ", ".join(loaded.ignored) or "none",
        "inputs": "; ".join(f"{spec.name} {spec.dtype} {list(spec.shape)}" for spec in prepared.signature.inputs),
        "dims": "; ".join(f"{name} {dim}" for name, dim in prepared.signature.dims.items()) or "none",
        "outputs": "; ".join(f"{spec.name} {spec.dtype} {list(spec.shape)}" for spec in prepared.signature.outputs),
        "raw inputs": "; ".join(_raw_inputs(prepared)) or "none",
        "formats": ", ".join(prepared.formats),
        "precision": prepared.config.precision,
        "would write": f"{prepared.request.repository}/{prepared.name}/{prepared.request.version or 'NEXT'}",
    }
    for name, text in lines.items():
        console.print(f"[dim]{name:<12}[/] {escape(text)}", highlight=False, soft_wrap=True)
    for notice in (*checkpoint.notices, *loaded.notices):
        console.print(f"[yellow]note[/] {escape(notice)}", highlight=False, soft_wrap=True)


def _raw_inputs(prepared: "Prepared") -> list[str]:
    specs = prepared.operations.operations.raw_inputs if prepared.operations is not None else ()
    return [f"{spec.name} ({spec.kind}) makes {', '.join(spec.makes)}" for spec in specs]


def to_json(exported: "Exported") -> dict[str, Any]:
    """The result as `--json` prints it."""
    return {
        "path": str(exported.path),
        "content_id": exported.content_id,
        "created": exported.created,
        "sizes": dict(exported.sizes),
        "worst": {
            engine: {
                "case": worst.case,
                "output": worst.output,
                "max_abs": worst.max_abs,
                "scaled": worst.scaled,
                "budget": budget,
            }
            for engine, (worst, budget) in exported.worst.items()
        },
        "notices": list(exported.notices),
        "left_out": exported.left_out,
        "seconds": round(exported.seconds, 3),
        "precisions": dict(exported.precisions),
    }


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"
