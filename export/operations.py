"""The declared operations of an export: checked against the signature, their files read, and raw cases that prove them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from artifact import operations, raw_cases
from artifact.errors import ArtifactError
from artifact.golden import GoldenCase
from artifact.operations import Chains, Operations, RawLimits, RawValue
from artifact.operations.errors import BadOperations
from artifact.raw_cases import RawCase
from artifact.signature import Signature
from export.config import Config
from export.errors import ConfigError
from export.find_config import FoundConfig
from export.samples import Sample, made_samples

MAX_RAW_CASES = 4
"""Raw golden cases in an artifact: each has its tensors beside it."""
MAX_RAW_BYTES = 2 << 20
"""Bytes of a raw golden case's values; larger samples are used for parity alone."""
MAX_ALL_RAW_BYTES = 4_000_000
"""Bytes of all raw golden cases' values, and likewise of the tensors made of them; one case at least is kept."""


@dataclass(frozen=True, slots=True)
class DeclaredOperations:
    """Operations at work, and the bytes of the files that they name, by the artifact's own names."""

    operations: Operations
    files: Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class RawInputs:
    """A sample, and what the model is given for it: a row, as the operations made it."""

    name: str
    raw: Mapping[str, RawValue]
    inputs: Mapping[str, np.ndarray]


def declared_operations(found: FoundConfig, signature: Signature, labels: bytes | None) -> DeclaredOperations | None:
    """What the config declares, or None.

    Raises:
        ConfigError: a chain does not fit the model, or a file that it names cannot be read; with the place in the YAML.
    """
    chains = found.config.chains
    if not chains.to_json():
        return None
    files = _read_files(chains, found)
    texts = () if labels is None else tuple(labels.decode("utf-8").splitlines())
    by_output = {spec.name: texts for spec in signature.outputs if spec.labels is not None}
    try:
        made = operations.make(chains, signature, files, by_output)
    except BadOperations as cause:
        raise ConfigError(f"{found.document.at(cause.path)}: {cause}") from cause
    names = {named: "tokenizer.json" if number == 1 else f"tokenizer-{number}.json" for number, named in enumerate(files, 1)}
    return DeclaredOperations(replace(made, chains=chains.renamed(names)), {names[named]: data for named, data in files.items()})


def _read_files(chains: Chains, found: FoundConfig) -> dict[str, bytes]:
    """The files that the chains name, by the names that they give them."""
    files: dict[str, bytes] = {}
    for named, path in chains.files.items():
        place = found.directory / named
        try:
            files[named] = place.read_bytes()
        except (OSError, ValueError) as cause:  # ValueError: a name that no file can have
            reason = cause.strerror if isinstance(cause, OSError) else cause
            raise ConfigError(found.document.wrong(path, f"{place} cannot be read: {reason}")) from cause
    return files


def with_artifact_names(config: Config, declared: DeclaredOperations | None) -> Config:
    """The config with the artifact's names of files, and every parameter of its operations."""
    if declared is None:
        return config
    return config.model_copy(update=declared.operations.chains.to_json())


def raw_inputs(declared: DeclaredOperations | None, signature: Signature, samples: Sequence[Sample]) -> list[RawInputs]:
    """What the model is given for every sample; without samples, for some that are made. Empty where nothing is raw.

    Raises:
        ConfigError: a sample cannot be prepared, none is small enough for the artifact, or none can be made that the operations
            take.
    """
    if declared is None or not declared.operations.raw_inputs:
        return []
    if samples:
        given = [_prepared(declared.operations, signature, sample, number) for number, sample in enumerate(samples)]
        if not pick_golden(given):
            raise ConfigError(
                f"every sample has more than {MAX_RAW_BYTES} bytes, and at least one must travel in the artifact; "
                "add a smaller one"
            )
        return given
    made: list[RawInputs] = []
    refused: list[ConfigError] = []
    for sample in made_samples(declared.operations.raw_inputs, signature):
        try:
            made.append(_prepared(declared.operations, signature, sample, len(made)))
        except ConfigError as cause:  # a picture too small for a crop, say: the next one may do
            refused.append(cause)
    if not made:
        raise ConfigError(
            f"no made-up picture, text or row will do: {refused[0]}; give real ones with --samples DIR"
        ) from refused[0]
    return made


def _prepared(made: Operations, signature: Signature, sample: Sample, number: int) -> RawInputs:
    """The sample as the fewest rows that the signature allows: one, nearly always."""
    rows = 1 if signature.batch_dim is None else signature.dims[signature.batch_dim].min
    try:
        inputs = made.join([made.prepare(sample.raw, RawLimits())] * rows)
        signature.validate(inputs)
    except ArtifactError as cause:
        raise ConfigError(f"sample {sample.name} does not pass the declared operations: {cause}") from cause
    return RawInputs(f"raw-{number:02}", sample.raw, inputs)


def pick_golden(given: Sequence[RawInputs]) -> list[RawInputs]:
    """Those that travel in the artifact: the first few whose values, and whose tensors, are small enough together."""
    kept: list[RawInputs] = []
    values_bytes = tensors_bytes = 0
    for one in given:
        values = sum(len(value) if isinstance(value, bytes) else len(str(value)) for value in one.raw.values())
        tensors = sum(array.nbytes for array in one.inputs.values())
        too_many = max(values_bytes + values, tensors_bytes + tensors) > MAX_ALL_RAW_BYTES
        if values > MAX_RAW_BYTES or (kept and too_many):
            continue
        kept.append(one)
        values_bytes, tensors_bytes = values_bytes + values, tensors_bytes + tensors
        if len(kept) == MAX_RAW_CASES:
            break
    return kept


def encode_raw_cases(
    declared: DeclaredOperations, given: Sequence[RawInputs], kept: Sequence[GoldenCase], recorded_engine: str
) -> bytes:
    """The bytes of raw.safetensors: of every golden case that has a raw value, or of all, where only outputs have operations."""
    raw = {one.name: one.raw for one in given}
    made = declared.operations
    chosen = [case for case in kept if case.name in raw] if made.raw_inputs else list(kept)[:MAX_RAW_CASES]
    return raw_cases.encode(
        RawCase(
            case.name,
            raw.get(case.name, {}),
            made.finish(case.outputs[recorded_engine])[0] if made.predicts else None,
        )
        for case in chosen
    )
