"""The model as TorchScript, traced and frozen in a fresh process: a legacy format behind this one file (docs/adr/0007).

A process of its own, because PyTorch numbers the classes that it traces, and those numbers get into the bytes. Debug records,
which hold source paths, are left out; PyTorch loads without them.

Run as `python -m export.torchscript DIRECTORY`, it reads `job.json` and `weights.safetensors` there and writes `model.pt` and
`kept.json`.
"""

import io
import json
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

import model_defs
from artifact.signature import Signature
from export.build import build_model
from export.cases import sample_inputs, tensor_bytes, tensors
from export.errors import CaptureFailed, ParityFailed

_JOB, _WEIGHTS, _MODEL, _KEPT = "job.json", "weights.safetensors", "model.pt", "kept.json"


@dataclass(frozen=True, slots=True)
class TorchScript:
    """The bytes of model.pt, and the names of the weights that freezing keeps as they are (it computes with the others)."""

    data: bytes
    kept: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Job:
    """What the process needs to build the model again."""

    model: str
    params: dict[str, Any]
    plugins: tuple[str, ...]
    signature: dict[str, Any]


def lower_torchscript(
    model_name: str,
    params: Mapping[str, Any],
    plugins: Sequence[str],
    signature: Signature,
    weights: Mapping[str, torch.Tensor],
) -> TorchScript:
    """Builds, loads, traces and freezes the model in a fresh process.

    Raises:
        CaptureFailed: the process failed; the last lines of its log say why.
    """
    with tempfile.TemporaryDirectory(prefix="stateserve-") as name:
        directory = Path(name)
        job = _Job(model_name, dict(params), tuple(_absolute(plugin) for plugin in plugins), signature.to_json())
        (directory / _JOB).write_text(json.dumps(asdict(job)))
        safetensors.torch.save_file({key: tensor.clone() for key, tensor in weights.items()}, directory / _WEIGHTS)
        finished = subprocess.run(  # noqa: S603 (our own module, in a directory of ours)
            [sys.executable, "-P", "-m", "export.torchscript", name],
            env={**os.environ, "PYTHONPATH": _python_path(), "PYTHONHASHSEED": "0"},
            capture_output=True,
            text=True,
            check=False,
        )
        if finished.returncode != 0:
            lines = [line for line in finished.stderr.splitlines() if line.strip()]
            raise CaptureFailed(
                f"{model_name} cannot be lowered to TorchScript: {lines[-1] if lines else f'exit {finished.returncode}'}; "
                "leave torchscript out with --format"
            )
        return TorchScript((directory / _MODEL).read_bytes(), tuple(json.loads((directory / _KEPT).read_text())))


def compare_torchscript_weights(lowered: TorchScript, weights: Mapping[str, torch.Tensor]) -> int:
    """Finds every kept weight among the frozen program's constants, bit for bit; returns how many there are.

    Freezing takes the names away, so the contents are compared.

    Raises:
        ParityFailed: one is not there.
    """
    try:
        program = _load(io.BytesIO(lowered.data))
    except RuntimeError as cause:
        raise ParityFailed(f"the lowered model does not load: PyTorch {torch.__version__} refuses model.pt: {cause}") from cause
    constants = {_content(tensor) for tensor in _constants(program.graph)}
    for name in lowered.kept:
        if _content(weights[name].detach()) not in constants:
            raise ParityFailed(f"weight {name} is not in model.pt, bit for bit, though forward uses it; the lowering changed it")
    return len(lowered.kept)


def _absolute(plugin: str) -> str:
    """The process may not find a relative file, or a module of this directory."""
    return str(Path(plugin).resolve()) if plugin.endswith(".py") else plugin


def _python_path() -> str:
    """Where this process finds modules: ours, wherever they are installed, and the user's plugins."""
    own = str(Path(__file__).resolve().parent.parent)
    return os.pathsep.join([own, *(entry or str(Path.cwd()) for entry in sys.path)])


def _main(directory: Path) -> None:
    job = _Job(**json.loads((directory / _JOB).read_text()))
    for plugin in job.plugins:
        model_defs.load_plugin(plugin)
    model = build_model(job.model, job.params)
    model.load_state_dict(safetensors.torch.load_file(directory / _WEIGHTS), strict=True)
    signature = Signature.from_json(job.signature)
    example = tuple(tensors(sample_inputs(signature), signature))
    with warnings.catch_warnings(), torch.no_grad():
        # Parity judges the result over the declared range; the tracer's guesses about it are noise.
        warnings.simplefilter("ignore")
        traced: Any = torch.jit.trace(model, example, check_trace=False)
        # Weights stay as they are, so that they can be compared: batch norms are not folded into convolutions.
        frozen = torch.jit.freeze(traced, optimize_numerics=False)
        buffer = io.BytesIO()
        torch.jit.save(frozen, buffer)
    _write_without_debug_records(buffer, directory / _MODEL)
    saved = model.state_dict()  # a buffer that is not saved comes out of the constructor: there is nothing to compare it with
    (directory / _KEPT).write_text(json.dumps([name for name in _kept_weights(traced.inlined_graph) if name in saved]))


def _kept_weights(graph: Any) -> list[str]:
    """The weights that meet an input of the model in some operation; freezing folds those that meet only constants."""
    weights: dict[str, str] = {}
    constant: set[str] = set()
    kept: set[str] = set()
    for node in graph.nodes():
        inputs = [value.debugName() for value in node.inputs()]
        outputs = [value.debugName() for value in node.outputs()]
        if node.kind() == "prim::GetAttr":
            weights[outputs[0]] = f"{weights[inputs[0]]}.{node.s('name')}" if inputs[0] in weights else node.s("name")
            constant.update(outputs)
        elif all(name in constant for name in inputs):
            constant.update(outputs)
        else:
            kept.update(weights[name] for name in inputs if name in weights)
    return sorted(kept)


def _write_without_debug_records(program: io.BytesIO, path: Path) -> None:
    """Copies the archive's records but those with source paths; the writer itself adds version, byte order and alignment."""
    program.seek(0)
    reader = torch._C.PyTorchFileReader(program)  # noqa: SLF001 (no public name reads records)
    writer = torch._C.PyTorchFileWriter(str(path))  # noqa: SLF001
    own = {"version", "byteorder", ".data/serialization_id"}
    for name in reader.get_all_records():
        if name not in own and not name.endswith(".debug_pkl"):
            record = reader.get_record(name)
            writer.write_record(name, record, len(record))
    writer.write_end_of_file()


def _load(program: io.BytesIO) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.load(program, map_location="cpu")


def _constants(graph: Any) -> Iterator[torch.Tensor]:
    for node in graph.findAllNodes("prim::Constant", recurse=True):
        if node.hasAttribute("value") and node.kindOf("value") == "t":
            yield node.t("value")


def _content(tensor: torch.Tensor) -> tuple[str, tuple[int, ...], bytes]:
    return (str(tensor.dtype), tuple(tensor.shape), tensor_bytes(tensor))


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
