"""Small real models whose signatures differ in all that a decoder looks at, as bytes and as artifacts on disk."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
from onnx import ModelProto, TensorProto, ValueInfoProto, helper

from artifact import golden, manifest
from artifact.engines import MODEL_FILES, load_engine
from artifact.golden import GoldenCase
from artifact.manifest import FileEntry, Manifest
from artifact.signature import DTYPES, Dim, Signature, TensorSpec
from foundation.storage import canonical_json, write_directory

_TYPES = {
    "bool": TensorProto.BOOL,
    "uint8": TensorProto.UINT8,
    "int8": TensorProto.INT8,
    "int16": TensorProto.INT16,
    "int32": TensorProto.INT32,
    "int64": TensorProto.INT64,
    "float16": TensorProto.FLOAT16,
    "float32": TensorProto.FLOAT,
    "float64": TensorProto.DOUBLE,
}

ROWS = Dim(1, 8)


@dataclass(frozen=True)
class Model:
    """A signature, and the ONNX model that keeps it: each output is an input, cast."""

    signature: Signature
    casts: Mapping[str, str]

    def onnx(self) -> bytes:
        """The model's bytes."""
        return _graph(self).SerializeToString()


def _model(inputs: list[TensorSpec], outputs: Mapping[str, tuple[str, str]], **dims: Dim) -> Model:
    """`outputs`: name -> the input that it is, and the dtype that it is cast to."""
    by_name = {spec.name: spec for spec in inputs}
    specs = tuple(TensorSpec(name, dtype, by_name[source].shape) for name, (source, dtype) in outputs.items())
    return Model(Signature(tuple(inputs), specs, dims), {name: source for name, (source, _) in outputs.items()})


def _spec(name: str, dtype: str, *shape: int | str, within: tuple[float, float] | None = None) -> TensorSpec:
    return TensorSpec(name, dtype, shape, within)


MODELS: Mapping[str, Model] = {
    "mlp": _model([_spec("x", "float32", "batch", 4, within=(-4, 4))], {"logits": ("x", "float32")}, batch=ROWS),
    "tokens": _model(
        [_spec("ids", "int64", "batch", "length", within=(0, 99)), _spec("mask", "int64", "batch", "length", within=(0, 1))],
        {"seen": ("ids", "int32"), "embedding": ("mask", "float32")},
        batch=ROWS,
        length=Dim(2, 16, multiple=2),
    ),
    "flags": _model([_spec("flags", "bool", "batch", 3)], {"any": ("flags", "bool")}, batch=ROWS),
    "pixels": _model([_spec("image", "uint8", "batch", 2, "side")], {"mean": ("image", "float16")}, batch=ROWS, side=Dim(1, 6)),
    "half": _model([_spec("h", "float16", "batch", 2, within=(-1e6, 1e6))], {"y": ("h", "float64")}, batch=ROWS),
    "pairs": _model([_spec("p", "float32", "batch", 2)], {"y": ("p", "float32")}, batch=Dim(2, 8, multiple=2)),
    "vector": _model([_spec("v", "float32", 4)], {"y": ("v", "float32")}),
    "scalar": _model([_spec("s", "float64", within=(-1e300, 1e300))], {"t": ("s", "float64")}),
    "grid": _model([_spec("g", "int8", "rows", "columns")], {"y": ("g", "int64")}, rows=Dim(1, 4), columns=Dim(1, 4)),
    "several": _model(
        [
            _spec("a", "int16", "batch"),
            _spec("b", "int32", "batch", 1, within=(-5, 5)),
            _spec("c", "float64", "batch", 2),
            _spec("d", "uint8", "batch"),
        ],
        {"w": ("a", "int16"), "x": ("b", "int32"), "y": ("c", "float32"), "z": ("d", "bool")},
        batch=ROWS,
    ),
    "odd name": _model([_spec('it\'s "x"|ü', "int32", 3, within=(-1, 5))], {"y": ('it\'s "x"|ü', "int32")}),
}


def write_repository(root: Path, names: tuple[str, ...] = tuple(MODELS), versions: tuple[int, ...] = (1,)) -> Path:
    """A model repository of these models."""
    for name in names:
        for version in versions:
            write_artifact(root / name / str(version), MODELS[name])
    return root


def make_repository(folder: Path) -> Path:
    """A new repository of every model, and of `spare`, in two versions, which is for loading and unloading."""
    root = Path(mkdtemp(prefix="models-", dir=folder))
    write_repository(root)
    more = write_repository(Path(mkdtemp(prefix="spare-", dir=folder)), names=("mlp",), versions=(1, 2))
    (more / "mlp").rename(root / "spare")
    return root


def write_artifact(directory: Path, model: Model) -> None:
    """A whole artifact, hashed, whose golden outputs are the engine's own answers."""
    signature, data = model.signature, model.onnx()
    inputs = valid_inputs(signature, np.random.default_rng(0))
    answers = {"onnx": load_engine("onnx", data, signature).run(inputs)}
    reference = {name: array.astype(np.float64) for name, array in answers["onnx"].items()}
    evidence = {
        manifest.GOLDEN: golden.encode([GoldenCase("00-made", inputs, answers, reference)]),
        manifest.PARITY: canonical_json(
            {"engines": {"onnx": {"outputs": {spec.name: {"budget": 1e-6} for spec in signature.outputs}}}}
        ),
    }
    files = {MODEL_FILES["onnx"]: data}
    made = Manifest(
        signature=signature,
        config={},
        weights_sha256="0" * 64,
        files={name: FileEntry.of(each) for name, each in files.items()},
        evidence={name: FileEntry.of(each) for name, each in evidence.items()},
    )
    write_directory(directory, {manifest.MANIFEST: made.encode(), **files, **evidence})


def valid_inputs(signature: Signature, generator: np.random.Generator, rows: int | None = None) -> dict[str, np.ndarray]:
    """Arrays that the signature allows, of sizes that `generator` chooses."""
    sizes = {}
    for name, dim in signature.dims.items():
        allowed = [size for size in range(dim.min, dim.max + 1) if dim.allows(size)]
        sizes[name] = int(generator.choice(allowed))
    if rows is not None and signature.batch_dim is not None:
        sizes[signature.batch_dim] = rows
    return {spec.name: _values(spec, spec.concrete(sizes), generator) for spec in signature.inputs}


def _values(spec: TensorSpec, shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
    dtype = DTYPES[spec.dtype]
    if dtype.kind == "b":
        return generator.integers(0, 2, shape).astype(bool)
    if dtype.kind == "f":
        low, high = spec.range or (-1.0, 1.0)
        return np.asarray(generator.uniform(max(low, -1000.0), min(high, 1000.0), shape), dtype)
    low, high = spec.range or (np.iinfo(dtype).min, np.iinfo(dtype).max)
    return np.asarray(generator.integers(int(low), int(high), shape, endpoint=True), dtype)


def _graph(model: Model) -> ModelProto:
    def info(spec: TensorSpec) -> ValueInfoProto:
        return helper.make_tensor_value_info(spec.name, _TYPES[spec.dtype], list(spec.shape))

    outputs = model.signature.outputs
    nodes = [helper.make_node("Cast", [model.casts[spec.name]], [spec.name], to=_TYPES[spec.dtype]) for spec in outputs]
    graph = helper.make_graph(nodes, "fuzz", [info(spec) for spec in model.signature.inputs], [info(spec) for spec in outputs])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
