"""An artifact that was read whole, checked, and can run."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from artifact import golden, manifest
from artifact.engines import LOADERS, MODEL_FILES, Engine, EngineOptions, cuda_devices, load_engine, model_file
from artifact.errors import DamagedArtifact, EngineUnavailable
from artifact.golden import GoldenCase, Replay
from artifact.manifest import PRECISIONS, Manifest
from artifact.signature import Signature

if TYPE_CHECKING:  # a model without operations needs none of what they need
    from artifact.operations import Operations
    from artifact.raw_cases import RawCase

FLOAT32 = "float32"
AUTO = "auto"


@dataclass(frozen=True, slots=True)
class Artifact:
    """One model with one engine: `run` it, `replay` its golden cases. Made by `load`.

    `budgets` are by engine and output, those of the `precision` that the engine computes in on its `device`. `operations` are
    None where none are declared; `raw_cases` are their recorded values.
    """

    path: Path
    manifest: Manifest
    engine: Engine
    cases: tuple[GoldenCase, ...]
    budgets: Mapping[str, Mapping[str, float]]
    device: str = "cpu"
    precision: str = FLOAT32
    operations: "Operations | None" = None
    raw_cases: "tuple[RawCase, ...]" = ()

    @property
    def signature(self) -> Signature:
        """What the model takes and gives."""
        return self.manifest.signature

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The outputs, by name; inputs are checked against the signature first.

        Raises:
            InvalidInput: a request that the signature does not allow.
            EngineFailed: the engine failed on one that it does.
        """
        self.signature.validate(inputs)
        return self.engine.run(inputs)

    def replay(self) -> list[Replay]:
        """Runs every golden case, alone and tiled to the largest batch, on this engine.

        In another precision than float32 answers are compared with the float64 reference, within that precision's budgets. Where
        operations are declared, their raw cases come first.

        Raises:
            DamagedArtifact: a raw case is none of this model.
        """
        budgets = self.budgets[self.engine.name]
        found = golden.replay(self.engine, self.signature, self.cases, budgets, recorded=self.precision == FLOAT32)
        if self.operations is None:
            return found
        from artifact import raw_cases

        return [*raw_cases.replay(self.operations, self.raw_cases, self.cases, self.manifest.formats[0]), *found]


def load(  # noqa: PLR0913 - the room's door: whoever loads says what matters to him, by name
    path: Path | str,
    engine: str = AUTO,
    threads: int | None = None,
    calls: int = 1,
    device: str = "cpu",
    *,
    precision: str = AUTO,
    memory_bytes: int | None = None,
    cuda_graphs: bool = True,
) -> Artifact:
    """Reads an artifact, checks every hash, and makes its engine.

    `engine` is `onnx`, `torchscript`, `pt2`, or `auto`: the first of these that the artifact holds, and that can run on the
    device. `precision` is `float32`, `tf32`, `float16`, `bfloat16`, or `auto`: what the artifact declares on a CUDA device,
    float32 on the CPU. The others are those of `EngineOptions`.

    Raises:
        NotAnArtifact: there is no artifact.
        DamagedArtifact: a file is missing, added, linked or changed, or the evidence is not that of this model.
        EngineUnavailable: the artifact has no such format or precision, its library is not installed, or it cannot run there.
    """
    directory = Path(path)
    stated = manifest.read_manifest(directory)
    files = verified_files(directory, stated)
    computed = computed_precision(precision, stated, device)
    name = _choose(engine, stated, directory, computed, device)
    file = model_file(name, computed, device)
    if file not in files:
        raise EngineUnavailable(f"{directory} holds no {file}; export it with `precision: {computed}` in its YAML")
    cases = golden.decode(files[manifest.GOLDEN])
    golden.require_complete(cases, stated.signature)
    budgets = read_budgets(files[manifest.PARITY], stated, directory)
    if computed != FLOAT32:
        budgets = dict.fromkeys(stated.formats, read_precision_budgets(files[manifest.PARITY], computed, stated, directory))
    options = EngineOptions(threads, calls, device, computed, memory_bytes, cuda_graphs)
    declared = read_operations(stated, files, directory)
    recorded = () if declared is None else _read_raw_cases(files, declared)
    return Artifact(
        path=directory,
        manifest=stated,
        engine=load_engine(name, files[file], stated.signature, options),
        cases=cases,
        budgets=budgets,
        device=device,
        precision=computed,
        operations=declared,
        raw_cases=recorded,
    )


def read_operations(stated: Manifest, files: Mapping[str, bytes], directory: Path) -> "Operations | None":
    """The operations that a manifest declares, out of the artifact's files; None where it declares none.

    Raises:
        DamagedArtifact: they are none that this version knows, or do not fit the signature.
        OperationsUnavailable: a package that they need is not installed.
    """
    if not stated.operations:
        return None
    from artifact import operations
    from artifact.operations.errors import BadOperations

    try:
        labels = read_labels(stated, files)
        return operations.load(stated.operations, stated.signature, files, labels)
    except (BadOperations, TypeError, KeyError, UnicodeDecodeError) as cause:
        raise DamagedArtifact(
            f"{directory / manifest.MANIFEST} declares operations that this version does not run: {cause}; "
            "serve it with the version that exported it, or export again"
        ) from cause


def _read_raw_cases(files: Mapping[str, bytes], declared: "Operations") -> "tuple[RawCase, ...]":
    from artifact import raw_cases

    return raw_cases.decode(files[manifest.RAW], declared)


def served_operations(directory: Path, stated: Manifest) -> "Operations | None":
    """As `read_operations`, of an artifact on disk: of its files, those alone are read that the operations name.

    Raises:
        DamagedArtifact, OperationsUnavailable: as `read_operations`; or such a file is not the one that the manifest states.
    """
    if not stated.operations:
        return None
    wanted = {name: entry for name, entry in stated.files.items() if name not in MODEL_FILES.values()}
    files = {name: manifest.read_listed(directory, name, entry) for name, entry in wanted.items() if not name.endswith(".onnx")}
    return read_operations(stated, files, directory)


def read_labels(stated: Manifest, files: Mapping[str, bytes]) -> dict[str, tuple[str, ...]]:
    """Output name -> its classes' labels, one a line of the file that the output names."""
    named = {spec.name: spec.labels for spec in stated.signature.outputs if spec.labels is not None}
    return {name: tuple(files[file].decode("utf-8").splitlines()) for name, file in named.items()}


def served_labels(directory: Path, stated: Manifest) -> dict[str, tuple[str, ...]]:
    """As `read_labels`, of an artifact on disk.

    Raises:
        DamagedArtifact: a file of labels is not the one that the manifest states, or holds no text.
    """
    named = {spec.labels for spec in stated.signature.outputs if spec.labels is not None}
    try:
        return read_labels(stated, {name: manifest.read_listed(directory, name, stated.listed[name]) for name in named})
    except (KeyError, UnicodeDecodeError) as cause:
        raise DamagedArtifact(f"{directory} has no labels that can be read: {cause}; export again") from cause


def verified_files(directory: Path, stated: Manifest) -> dict[str, bytes]:
    """Every listed file's bytes, all of which are those that the manifest states.

    Raises:
        DamagedArtifact: a file is missing, added, linked or changed.
    """
    manifest.check_listing(directory, stated)
    return {name: manifest.read_listed(directory, name, entry) for name, entry in stated.listed.items()}


def computed_precision(asked: str, stated: Manifest, device: str) -> str:
    """What an engine computes in where a precision is asked for, or `auto`.

    Raises:
        EngineUnavailable: there is no such precision.
    """
    if asked == AUTO:
        return FLOAT32 if device == "cpu" else stated.precision
    if asked not in PRECISIONS:
        raise EngineUnavailable(f"there is no precision {asked!r}; they are {', '.join(PRECISIONS)}")
    return asked


def _choose(engine: str, stated: Manifest, directory: Path, precision: str, device: str) -> str:
    if engine == AUTO:
        return first_format(stated, precision, device)
    if engine not in LOADERS:
        raise EngineUnavailable(f"there is no engine {engine!r}; the engines are {', '.join(LOADERS)}")
    if engine not in stated.formats:
        raise EngineUnavailable(f"{directory} holds {', '.join(stated.formats)}, not {engine}; export it with --format {engine}")
    return engine


def first_format(stated: Manifest, precision: str, device: str) -> str:
    """The format that `auto` means: the first; on a CUDA device the first that runs there in the precision.

    Where none does, the first all the same, which then says why it does not.
    """
    if device == "cpu":
        return stated.formats[0]
    able = (name for name in stated.formats if (name, precision) != ("onnx", "bfloat16") and cuda_devices(name))
    return next(able, stated.formats[0])


def read_budgets(parity: bytes, stated: Manifest, directory: Path) -> dict[str, dict[str, float]]:
    """Every engine's budget for every output, from the bytes of parity.json; `directory` is for messages.

    Raises:
        DamagedArtifact: one is not there.
    """
    outputs = [spec.name for spec in stated.signature.outputs]
    try:
        engines = json.loads(parity)["engines"]
        return {name: {out: float(engines[name]["outputs"][out]["budget"]) for out in outputs} for name in stated.formats}
    except (ValueError, KeyError, TypeError, RecursionError) as cause:
        raise DamagedArtifact(f"{directory / manifest.PARITY} states no budgets: {cause!r}") from cause


def read_precision_budgets(parity: bytes, precision: str, stated: Manifest, directory: Path) -> dict[str, float]:
    """Every output's budget against the float64 reference in a precision other than float32, from the bytes of parity.json.

    Raises:
        EngineUnavailable: the artifact was not exported for it: nothing says what its answers may differ by.
        DamagedArtifact: a budget is not there, or no number.
    """
    try:
        precisions = json.loads(parity).get("precisions", {})
        if precision not in precisions:
            raise EngineUnavailable(
                f"{directory} was not proven in {precision}, and nothing says how exact it has to be: export it again with "
                f"`precision: {precision}` in its YAML, or run it with precision {FLOAT32}"
            )
        outputs = precisions[precision]["outputs"]
        return {spec.name: float(outputs[spec.name]["budget"]) for spec in stated.signature.outputs}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as cause:
        raise DamagedArtifact(f"{directory / manifest.PARITY} states no budgets for {precision}: {cause!r}") from cause
