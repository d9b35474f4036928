"""The YAML that says what to export: its schema, and the errors that point at a line of it."""

import json
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

import model_defs
from artifact import operations
from artifact.operations import Chains
from artifact.operations.declared import INPUT_OPERATIONS, OUTPUT_OPERATIONS, nearest
from artifact.operations.errors import BadOperations
from artifact.signature import Dim, Signature, TensorSpec
from export.errors import ConfigError
from export.yaml_document import CoreDumper, Document, read_yaml
from export.yaml_document import Path as DataPath

Identifier = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")]
ArtifactName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
Dtype = Literal["bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64"]
Format = Literal["onnx", "torchscript", "pt2"]
Precision = Literal["float32", "tf32", "float16", "bfloat16"]
Size = Annotated[int, Field(ge=1)]
Finite = Annotated[float, Field(allow_inf_nan=False)]

_NOT_DECLARED = frozenset({"name", "weights", "formats", "precision"})


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelSection(_Section):
    """Which registered model, and its parameters."""

    name: str
    params: dict[str, Any] = Field(default_factory=dict)


class WeightsSection(_Section):
    """Which weight set of the checkpoint (`select`), and keys of the *file* to skip (`ignore`, globs)."""

    select: str | None = None
    ignore: tuple[str, ...] = ()


class InputSection(_Section):
    """An input tensor: dtype, shape (a name stands for a dimension of `dims`), and the range of its values."""

    dtype: Dtype
    shape: Annotated[tuple[Size | Identifier, ...], Field(min_length=1)]
    range: tuple[Finite, Finite] | None = None

    @model_validator(mode="after")
    def _range_fits(self) -> Self:
        if self.dtype == "bool":
            if self.range is not None:
                raise ValueError("a bool input has no range")
            return self
        integer = not self.dtype.startswith("float")
        if self.range is None:
            if integer:
                raise ValueError(f"{self.dtype} input needs a range, as [low, high]: token ids [0, 30521], masks [0, 1]")
            return self
        low, high = self.range
        if low > high:
            raise ValueError(f"range [{low}, {high}] is empty: low is above high")
        if integer and not (low.is_integer() and high.is_integer()):
            raise ValueError(f"range [{low}, {high}] of an {self.dtype} input must hold whole numbers")
        info = np.iinfo(self.dtype) if integer else np.finfo(self.dtype)
        least, most = (info.min, info.max) if integer else (float(info.min), float(info.max))
        if not least <= low <= high <= most:
            raise ValueError(f"range [{low:g}, {high:g}] is beyond {self.dtype}, which holds {least:g} to {most:g}")
        return self


class OutputSection(_Section):
    """An output tensor; `labels` names a text file, one label per line, for its last dimension."""

    dtype: Dtype
    shape: tuple[Size | Identifier, ...]
    labels: str | None = None


class DimSection(_Section):
    """The sizes that a named dimension may take."""

    min: Size
    max: Size
    multiple: Size = 1
    opt: Size | None = None

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"min {self.min} is above max {self.max}")
        for name in ("min", "max", "opt"):
            size = getattr(self, name)
            if size is not None and size % self.multiple:
                raise ValueError(f"{name} {size} is not a multiple of {self.multiple}")
        if self.opt is not None and not self.min <= self.opt <= self.max:
            raise ValueError(f"opt {self.opt} is not within {self.min} to {self.max}")
        return self


class Config(_Section):
    """The whole YAML."""

    schema_: Literal[1] = Field(alias="schema")
    name: ArtifactName | None = None
    model: ModelSection
    weights: WeightsSection = WeightsSection()
    inputs: Annotated[dict[Identifier, InputSection], Field(min_length=1)]
    dims: dict[Identifier, DimSection] = Field(default_factory=dict)
    outputs: Annotated[dict[Identifier, OutputSection], Field(min_length=1)]
    formats: Annotated[tuple[Format, ...], Field(min_length=1)] = ("onnx", "torchscript")
    precision: Precision = Field("float32", description="What CUDA computes in; the CPU always computes in float32.")
    preprocess: Any = None
    postprocess: Any = None

    @model_validator(mode="after")
    def _names_fit(self) -> Self:
        used_in = {dim for tensor in self.inputs.values() for dim in tensor.shape if isinstance(dim, str)}
        used_out = {dim for tensor in self.outputs.values() for dim in tensor.shape if isinstance(dim, str)}
        for dim in sorted((used_in | used_out) - set(self.dims)):
            raise ValueError(f"dimension {dim} stands in a shape but not under dims; add dims: {{{dim}: {{min: …, max: …}}}}")
        for dim in sorted(set(self.dims) - used_in):
            raise ValueError(f"dimension {dim} stands under dims but in no input's shape; remove it or use it")
        for name in sorted(set(self.inputs) & set(self.outputs)):
            raise ValueError(f"{name} is both an input and an output; give one of them another name")
        return self

    @property
    def artifact_name(self) -> str:
        """The name of the artifact, unless the command line says another."""
        return self.name or self.model.name

    @property
    def chains(self) -> Chains:
        """The declared operations.

        Raises:
            BadOperations: one is not as declared operations are; `parse_config` says so at the line of the YAML.
        """
        return operations.parse(self.preprocess, self.postprocess)

    def signature(self, input_order: tuple[str, ...] | None = None) -> Signature:
        """The signature that this config declares, its inputs in the given order (that of `forward`)."""
        order = tuple(self.inputs) if input_order is None else input_order
        return Signature(
            inputs=tuple(
                TensorSpec(name, self.inputs[name].dtype, self.inputs[name].shape, self.inputs[name].range) for name in order
            ),
            outputs=tuple(
                TensorSpec(name, tensor.dtype, tensor.shape, labels=None if tensor.labels is None else "labels.txt")
                for name, tensor in self.outputs.items()
            ),
            dims={name: Dim(dim.min, dim.max, dim.multiple, dim.opt) for name, dim in self.dims.items()},
        )

    def resolved(self) -> dict[str, Any]:
        """All of it as plain data, defaults filled in."""
        return self.model_dump(mode="json", by_alias=True)

    def declaration(self) -> dict[str, Any]:
        """What the model is and takes: without what says where it comes from and what to make of it."""
        chains = self.chains
        files = {name: f"file {number}" for number, name in enumerate(chains.files)}  # an artifact has names of its own for them
        declared = {**self.resolved(), **chains.renamed(files).to_json()}
        return {key: value for key, value in declared.items() if key not in _NOT_DECLARED}


def read_config(path: Path) -> Config:
    """Reads and checks a YAML file.

    Raises:
        ConfigError: it cannot be read, or is not what `Config` and the model's params declare. All problems are named at once.
    """
    return parse_config(read_document(path))


def read_document(path: Path) -> Document:
    """Reads a YAML file.

    Raises:
        ConfigError: it cannot be read, or is no YAML of ours.
    """
    try:
        text = path.read_bytes()
    except OSError as cause:
        raise ConfigError(f"config {path} cannot be read: {cause.strerror}") from cause
    return read_yaml(text, str(path))


def config_from_data(data: Mapping[str, Any], name: str) -> Config:
    """Checks a config that came as data, such as a checkpoint's own; `name` stands in the messages."""
    return parse_config(Document(name, dict(data), {}))


def parse_config(document: Document) -> Config:
    """Checks a document against the schema, and `model.params` against the registered model's own.

    Raises:
        ConfigError: with one line per problem.
    """
    if not isinstance(document.data, dict):
        raise ConfigError(f"{document.name} is not a mapping; it starts with schema: 1")
    try:
        config = Config.model_validate_json(_json(document), strict=True)
    except ValidationError as cause:
        raise ConfigError(_explain(cause, document, Config, ())) from cause
    try:
        _ = config.chains
    except BadOperations as cause:
        raise ConfigError(f"{document.at(cause.path)}: {cause}") from cause
    params = model_defs.definition(config.model.name).params
    try:
        params.model_validate_json(json.dumps(config.model.params), strict=True)
    except ValidationError as cause:
        raise ConfigError(_explain(cause, document, params, ("model", "params"))) from cause
    return config


def to_yaml(config: Config) -> bytes:
    """The config as YAML, defaults filled in; what is not set is left out, and so is float32 as the precision."""
    data = config.model_dump(mode="json", by_alias=True, exclude_none=True)
    if config.precision == "float32":  # as artifacts were written before there was a choice
        del data["precision"]
    return yaml.dump(data, Dumper=CoreDumper, sort_keys=False, allow_unicode=True, width=120, default_flow_style=None).encode()


def json_schema() -> dict[str, Any]:
    """The JSON Schema of the YAML; `model.params` has the schema of each registered model."""
    schema = Config.model_json_schema(by_alias=True)
    rules = []
    for name, definition in model_defs.registered().items():
        params = definition.params.model_json_schema(ref_template=f"#/$defs/{name}_params/$defs/{{model}}")
        schema["$defs"][f"{name}_params"] = params
        rules.append(
            {
                "if": {"properties": {"name": {"const": name}}},
                "then": {"properties": {"params": {"$ref": f"#/$defs/{name}_params"}}},
            }
        )
    for side, known in (("preprocess", INPUT_OPERATIONS), ("postprocess", OUTPUT_OPERATIONS)):
        schema["properties"][side] = _operations_schema(schema["$defs"], known)
    section = schema["$defs"]["ModelSection"]
    section["properties"]["name"]["enum"] = list(model_defs.registered())
    section["allOf"] = rules
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _operations_schema(definitions: dict[str, Any], known: Mapping[str, type[BaseModel]]) -> dict[str, Any]:
    """A list of operations, or a mapping of names to such lists; each operation's parameters join `definitions`."""
    one = []
    for name, operation in known.items():
        parameters = operation.model_json_schema(ref_template=f"#/$defs/{name}_operation/$defs/{{model}}")
        definitions[f"{name}_operation"] = parameters
        reference = {"$ref": f"#/$defs/{name}_operation"}
        stated = {"type": "object", "properties": {name: reference}, "required": [name], "additionalProperties": False}
        one += [stated, *([] if parameters.get("required") else [{"const": name}])]
    chain = {"type": "array", "minItems": 1, "items": {"anyOf": one}}
    named = {**chain, "minItems": 0} if known is OUTPUT_OPERATIONS else chain  # an output's numbers as they are
    return {"anyOf": [chain, {"type": "object", "additionalProperties": named}]}


def read_labels(config: Config, document: Document, directory: Path) -> bytes | None:
    """The labels file that an output names (at most one does), checked against the output's last dimension.

    Raises:
        ConfigError: more than one output has labels, the file cannot be read, or the count differs; with the place in the YAML.
    """
    named = {name: output for name, output in config.outputs.items() if output.labels is not None}
    if not named:
        return None
    name, output = list(named.items())[-1]
    place = ("outputs", name, "labels")
    if len(named) > 1:
        raise ConfigError(document.wrong(place, f"outputs {', '.join(named)} each name labels; one output may"))
    path = directory / str(output.labels)
    try:
        data = path.read_bytes()
        labels = data.decode("utf-8").splitlines()
    except OSError as cause:
        raise ConfigError(document.wrong(place, f"{path} cannot be read: {cause.strerror}")) from cause
    except UnicodeDecodeError as cause:
        problem = f"{path} is not UTF-8 text: {cause.reason} at byte {cause.start}"
        raise ConfigError(document.wrong(place, problem)) from cause
    except ValueError as cause:  # a name that no file can have
        raise ConfigError(document.wrong(place, f"{path} cannot be read: {cause}")) from cause
    size = output.shape[-1] if output.shape else None
    if len(labels) != size:
        problem = f"{path} has {len(labels)} lines; the output's last dimension is {size}, and each place needs one"
        raise ConfigError(document.wrong(place, problem))
    return "".join(f"{label}\n" for label in labels).encode()


def _json(document: Document) -> str:
    try:
        return json.dumps(document.data)
    except (TypeError, ValueError) as cause:  # only a config that came as data can hold more than JSON does
        raise ConfigError(f"{document.name} holds more than plain data: {cause}") from cause


def _explain(error: ValidationError, document: Document, model: type[BaseModel], prefix: DataPath) -> str:
    return "\n".join(_line(problem, document, model, prefix) for problem in error.errors(include_url=False))


def _line(problem: Any, document: Document, model: type[BaseModel], prefix: DataPath) -> str:
    # Pydantic names the branch of a union in the path ("int", "constrained-str"): those are not in the document.
    location = tuple(part for part in problem["loc"] if isinstance(part, int) or not _is_branch(part))
    path = (*prefix, *location)
    where = f"{document.at(path)}: {'.'.join(str(part) for part in path) or 'the config'}"
    if problem["type"] == "extra_forbidden":
        return f"{where}: unknown key{nearest(str(location[-1]), _keys_at(model, location[:-1]))}"
    if problem["type"] == "missing":
        return f"{where}: required, but not there"
    message = problem["msg"].removeprefix("Value error, ")
    value = problem["input"]
    shown = "" if isinstance(value, (dict, list)) or problem["type"] == "value_error" else f", got {json.dumps(value)}"
    return f"{where}: {message[:1].lower()}{message[1:]}{shown}"


def _is_branch(part: str) -> bool:
    return part in {"int", "str", "float"} or part.startswith(("constrained-", "function-"))


def _keys_at(model: type[BaseModel], location: DataPath) -> list[str]:
    """The keys that the schema allows at a place."""
    current: Any = model
    for part in location:
        current = _step(current, part)
    if isinstance(current, type) and issubclass(current, BaseModel):
        return [field.alias or name for name, field in current.model_fields.items()]
    return []


def _step(annotation: Any, part: str | int) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        fields = {field.alias or name: field.annotation for name, field in annotation.model_fields.items()}
        return _plain(fields.get(str(part)))
    arguments = typing.get_args(annotation)
    return _plain(arguments[-1 if typing.get_origin(annotation) is dict else 0]) if arguments else None


def _plain(annotation: Any) -> Any:
    """The annotation without Annotated and without None."""
    if typing.get_origin(annotation) is Annotated:
        return _plain(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in {typing.Union, types.UnionType}:
        options = [option for option in typing.get_args(annotation) if option is not type(None)]
        return _plain(options[0])
    return annotation
