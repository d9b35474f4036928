"""The export: a checkpoint becomes a proven artifact, step by step, or nothing is written."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

import model_defs
from artifact import golden, manifest, raw_cases
from artifact.artifact import read_budgets, read_operations
from artifact.engines import MODEL_FILES, load_engine
from artifact.errors import ArtifactError
from artifact.signature import Signature
from checkpoints import Checkpoint, WeightSet, read
from export.build import build_model, resolved_params
from export.capture import Captured, bind_inputs, capture, require_eval
from export.config import Config, read_labels
from export.cost import ParityLimits
from export.errors import ConfigError, ParityFailed
from export.find_config import find_config
from export.float16 import FILE as FLOAT16_ONNX
from export.float16 import compare_float16_weights, round_to_float16
from export.onnx import compare_onnx_weights, lower_onnx
from export.operations import DeclaredOperations, RawInputs, declared_operations, pick_golden, raw_inputs
from export.pack import Packed, assemble, store
from export.parity import Comparison, Given, Lowered, Proof, prove
from export.pt2 import compare_pt2_weights, lower_pt2
from export.reference import require_ranges
from export.samples import Sample, read_samples
from export.strict import Loaded, load_strictly
from export.torchscript import compare_torchscript_weights, lower_torchscript


class Progress(Protocol):
    """Who is told how far the export is."""

    def step(self, name: str) -> AbstractContextManager[None]:
        """A step begins; it ends with the context."""
        ...

    def advance(self, done: int, total: int, what: str) -> None:
        """The current step is this far."""
        ...


@dataclass(frozen=True, slots=True)
class ExportRequest:
    """What the command line says; None leaves a choice to the config. `samples` are a folder of them, or samples themselves."""

    checkpoint: Path
    config: Path | None = None
    name: str | None = None
    version: int | None = None
    repository: Path = Path("model_repository")
    formats: tuple[str, ...] = ()
    weights: str | None = None
    ignore: tuple[str, ...] = ()
    plugins: tuple[str, ...] = ()
    limits: ParityLimits = field(default_factory=ParityLimits)
    samples: Path | Sequence[Sample] | None = None


@dataclass(frozen=True, slots=True)
class Prepared:
    """Everything that is known before the model is captured."""

    request: ExportRequest
    config: Config
    config_source: str
    checkpoint: Checkpoint
    weights: WeightSet
    loaded: Loaded
    model: nn.Module
    signature: Signature
    labels: bytes | None
    operations: DeclaredOperations | None
    raw_inputs: Sequence[RawInputs]
    formats: tuple[str, ...]

    @property
    def name(self) -> str:
        """The artifact's name."""
        return self.request.name or self.config.artifact_name


@dataclass(frozen=True, slots=True)
class Exported:
    """What an export made: `created` is False where the same content was there already. Seconds are the whole export's.

    `precisions` is parity.json's: what was found in the declared precision, by its name; empty where that is float32.
    """

    path: Path
    content_id: str
    created: bool
    sizes: Mapping[str, int]
    worst: Mapping[str, tuple[Comparison, float]]
    notices: tuple[str, ...]
    left_out: int
    seconds: float
    precisions: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Built:
    """An artifact's files, in memory, and the proof that they come with."""

    packed: Packed
    proof: Proof


def prepare(request: ExportRequest, progress: Progress) -> Prepared:
    """Reads the checkpoint and the config, builds the model and loads it, strictly.

    Raises:
        StateserveError: see `export.errors` and `checkpoints.errors`.
    """
    for plugin in request.plugins:
        model_defs.load_plugin(plugin)
    with progress.step("read checkpoint"):
        checkpoint = read(request.checkpoint)
        found = find_config(request.config, checkpoint)
        labels = read_labels(found.config, found.document, found.directory)
    config = found.config
    with progress.step("build model"):
        model = build_model(config.model.name, config.model.params)
        require_eval(model)
        signature = bind_inputs(model, config)
        declared = declared_operations(found, signature, labels)
        given = raw_inputs(declared, signature, _samples(request.samples, declared))
    with progress.step("load strictly"):
        weights = checkpoint.select(request.weights or config.weights.select)
        ignore = (*config.weights.ignore, *request.ignore)
        params = resolved_params(config.model.name, config.model.params)
        loaded = load_strictly(model, weights, ignore, params, checkpoint.path.name)
    return Prepared(
        request=request,
        config=config,
        config_source=found.source,
        checkpoint=checkpoint,
        weights=weights,
        loaded=loaded,
        model=model,
        signature=signature,
        labels=labels,
        operations=declared,
        raw_inputs=given,
        formats=_formats(request.formats or config.formats),
    )


def build(prepared: Prepared, progress: Progress) -> Built:
    """Captures, lowers, proves and packs; nothing touches the disk.

    Raises:
        CaptureFailed: the model cannot be captured or lowered as declared.
        ParityFailed: the numbers disagree.
    """
    with progress.step("capture"):
        captured = capture(prepared.model, prepared.signature)
        require_ranges(prepared.model, captured.signature)
    models, compared = {}, {}
    for name in prepared.formats:
        with progress.step(f"lower to {name}"):
            models[name], compared[name] = _LOWERINGS[name](prepared, captured)
    rounded, rounded_weights = _round(prepared, captured, models, progress)
    with progress.step("prove parity"):
        lowered = Lowered(models, prepared.config.precision, rounded)
        given = Given(
            {one.name: one.inputs for one in prepared.raw_inputs}, [one.name for one in pick_golden(prepared.raw_inputs)]
        )
        proof = prove(prepared.model, captured, lowered, prepared.request.limits, progress.advance, given)
    for name, count in compared.items():
        proof.report["engines"][name]["weights_bit_equal"] = count
    for file, count in rounded_weights.items():
        proof.report["precisions"]["float16"]["files"][file]["weights_rounded"] = count
    packed = assemble(prepared, models, rounded, proof)
    with progress.step("replay"):
        _require_replay(packed, prepared.formats)
    return Built(packed, proof)


def _round(
    prepared: Prepared, captured: Captured, models: Mapping[str, bytes], progress: Progress
) -> tuple[dict[str, bytes], dict[str, int]]:
    """The files that the declared precision needs beside the models', and how many weights of each were compared.

    CUDA computes in float16 from a model.onnx that says so; the other formats, and TF32, take the float32 file as it is.
    """
    if prepared.config.precision != "float16" or "onnx" not in models:
        return {}, {}
    with progress.step("round onnx to float16"):
        data = round_to_float16(models["onnx"], captured)
        return {FLOAT16_ONNX: data}, {FLOAT16_ONNX: compare_float16_weights(data, captured, _weights(prepared))}


def _require_replay(packed: Packed, formats: tuple[str, ...]) -> None:
    """Raises ParityFailed unless the very bytes that will be written pass what a server asks of them before it says "ready"."""
    signature, cases = packed.manifest.signature, golden.decode(packed.files[manifest.GOLDEN])
    budgets = read_budgets(packed.files[manifest.PARITY], packed.manifest, Path())
    try:
        golden.require_complete(cases, signature)
        for name in formats:
            engine = load_engine(name, packed.files[MODEL_FILES[name]], signature)
            golden.require(golden.replay(engine, signature, cases, budgets[name]))
        made = read_operations(packed.manifest, packed.files, Path())
        if made is not None:
            raw = raw_cases.decode(packed.files[manifest.RAW], made)
            golden.require(raw_cases.replay(made, raw, cases, packed.manifest.formats[0]))
    except ArtifactError as cause:
        raise ParityFailed(f"the artifact does not pass its own replay, so it was not written: {cause}") from cause


def export(request: ExportRequest, progress: Progress) -> Exported:
    """The whole way: see `prepare` and `build`; then the artifact is written, whole or not at all.

    Raises:
        WriteFailed: the version holds other content, or the disk refuses.
    """
    started = time.perf_counter()
    prepared = prepare(request, progress)
    built = build(prepared, progress)
    with progress.step("write"):
        path, created = store(built.packed, request.repository / prepared.name, request.version)
    model_files = {*MODEL_FILES.values(), FLOAT16_ONNX}
    return Exported(
        path=path,
        content_id=built.packed.manifest.content_id,
        created=created,
        sizes={name: len(data) for name, data in built.packed.files.items() if name in model_files},
        worst=built.proof.worst,
        notices=(*prepared.checkpoint.notices, *prepared.loaded.notices),
        left_out=len(built.proof.report["left_out"]),
        seconds=time.perf_counter() - started,
        precisions=built.proof.report.get("precisions", {}),
    )


def _samples(given: Path | Sequence[Sample] | None, declared: DeclaredOperations | None) -> Sequence[Sample]:
    if not isinstance(given, Path):
        return given or ()
    if declared is None or not declared.operations.raw_inputs:
        raise ConfigError("--samples is for models whose YAML declares preprocess: this one takes tensors")
    return read_samples(given, declared.operations.raw_inputs)


def _formats(wanted: tuple[str, ...]) -> tuple[str, ...]:
    unknown = [name for name in wanted if name not in MODEL_FILES]
    if unknown:
        raise ConfigError(f"unknown format {unknown[0]!r}; the formats are {', '.join(MODEL_FILES)}")
    return tuple(name for name in MODEL_FILES if name in wanted)


def _weights(prepared: Prepared) -> dict[str, torch.Tensor]:
    return {name: tensor.detach() for name, tensor in prepared.model.state_dict().items()}


def _to_onnx(prepared: Prepared, captured: Captured) -> tuple[bytes, int]:
    data = lower_onnx(captured)
    return data, compare_onnx_weights(data, captured, _weights(prepared))


def _to_torchscript(prepared: Prepared, captured: Captured) -> tuple[bytes, int]:
    section, weights = prepared.config.model, _weights(prepared)
    lowered = lower_torchscript(section.name, section.params, prepared.request.plugins, captured.signature, weights)
    return lowered.data, compare_torchscript_weights(lowered, weights)


def _to_pt2(prepared: Prepared, captured: Captured) -> tuple[bytes, int]:
    data = lower_pt2(captured)
    return data, compare_pt2_weights(data, captured, _weights(prepared))


_LOWERINGS: Mapping[str, Callable[[Prepared, Captured], tuple[bytes, int]]] = {
    "onnx": _to_onnx,
    "torchscript": _to_torchscript,
    "pt2": _to_pt2,
}
"""Format -> its lowering: the file's bytes, and how many weights in it were compared bit for bit."""
