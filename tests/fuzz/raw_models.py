"""Small real models whose artifacts declare operations, made without an export: pictures, texts by two tokenizers, rows."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from artifact import golden, manifest, operations, raw_cases
from artifact.engines import MODEL_FILES, load_engine
from artifact.golden import GoldenCase
from artifact.manifest import FileEntry, Manifest
from artifact.operations import Operations, RawLimits, RawValue
from artifact.raw_cases import RawCase
from artifact.signature import Dim, Signature, TensorSpec
from foundation.storage import canonical_json, write_directory
from tests.hostile.raw import png

ROWS = Dim(1, 8)
LABELS = ("ant", "bee", "cat")
_TOKENS = Dim(1, 32)
_TYPES = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64}
_SENTENCE = "the a of to in is it that for on with as was at by this be not are from word sentence picture model"
WORDS = tuple(_SENTENCE.split())


@dataclass(frozen=True)
class RawModel:
    """What an artifact states, and one good raw row."""

    signature: Signature
    preprocess: Any
    postprocess: Any
    onnx: Callable[[Signature], ModelProto]
    sample: Mapping[str, RawValue]
    files: Mapping[str, Callable[[], bytes]] = field(default_factory=dict)

    def made(self) -> tuple[Operations, dict[str, bytes]]:
        """The operations, and the files that they name."""
        files = {name: make() for name, make in self.files.items()}
        chains = operations.parse(self.preprocess, self.postprocess)
        labels = {spec.name: LABELS for spec in self.signature.outputs if spec.labels}
        return operations.make(chains, self.signature, files, labels), files


def words_tokenizer() -> bytes:
    """WordPiece of a few words and all letters, as BERT's."""
    from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
    from tokenizers.models import WordPiece

    letters = [chr(code) for code in range(33, 127)]
    known = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS, *letters, *(f"##{letter}" for letter in letters)]
    vocabulary = {word: number for number, word in enumerate(dict.fromkeys(known))}
    made = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.BertProcessing(("[SEP]", vocabulary["[SEP]"]), ("[CLS]", vocabulary["[CLS]"]))
    return made.to_str().encode()


def pieces_tokenizer() -> bytes:
    """Byte pairs as GPT-2 has them: no text is unknown, and one giant word is joined pair by pair."""
    from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, trainers
    from tokenizers.models import BPE

    made = Tokenizer(BPE())
    made.normalizer = normalizers.NFKC()
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, special_tokens=["<pad>"], show_progress=False)
    made.train_from_iterator([" ".join(WORDS), "aaaaaaaaaaaaaaaa abababababab 1234567890 the thesis of these"] * 50, trainer)
    return made.to_str().encode()


def _mean(signature: Signature) -> ModelProto:
    """The mean over all but the first two axes, or over the last one of two: float32."""
    (first, *_), (output,) = signature.inputs, signature.outputs
    axes = [2, 3] if len(first.shape) == 4 else [1]
    keep = int(len(first.shape) == 2)
    nodes = [
        helper.make_node("Cast", [first.name], ["cast"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["cast", "axes"], [output.name], keepdims=keep),
    ]
    return _graph(signature, nodes, [numpy_helper.from_array(np.array(axes, np.int64), "axes")])


def _same(signature: Signature) -> ModelProto:
    """The first three features."""
    constants = [
        numpy_helper.from_array(np.array([value], np.int64), name) for name, value in (("from", 0), ("to", 3), ("axis", 1))
    ]
    nodes = [helper.make_node("Slice", [signature.inputs[0].name, "from", "to", "axis"], [signature.outputs[0].name])]
    return _graph(signature, nodes, constants)


def _graph(signature: Signature, nodes: list[Any], constants: list[Any]) -> ModelProto:
    def info(spec: TensorSpec) -> Any:
        return helper.make_tensor_value_info(spec.name, _TYPES[spec.dtype], list(spec.shape))

    graph = helper.make_graph(
        nodes, "raw", [info(spec) for spec in signature.inputs], [info(spec) for spec in signature.outputs], constants
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def _of_pictures(side: int) -> RawModel:
    return RawModel(
        Signature(
            (TensorSpec("image", "float32", ("batch", 3, side, side), (0, 1)),),
            (TensorSpec("scores", "float32", ("batch", 3), labels="labels.txt"),),
            {"batch": ROWS},
        ),
        [{"decode": {"mode": "RGB"}}, {"resize": {"size": [side, side]}}, {"to_float": {"scale": 1 / 255}}],
        [{"softmax": {"axis": -1}}, {"topk": {"k": 2}}],
        _mean,
        {"image": png.many_colours()},
    )


def _of_text(tokenizer: Callable[[], bytes], sample: RawValue = "a sentence of the model") -> RawModel:
    ids = TensorSpec("input_ids", "int64", ("batch", "length"), (0, 9999))
    mask = TensorSpec("attention_mask", "int64", ("batch", "length"), (0, 1))
    return RawModel(
        Signature((ids, mask), (TensorSpec("score", "float32", ("batch", 1)),), {"batch": ROWS, "length": _TOKENS}),
        [{"tokenize": {"file": "tokenizer.json", "max_tokens": _TOKENS.max, "pair": isinstance(sample, tuple)}}],
        [{"sigmoid": {}}],
        _mean,
        {"text": sample},
        {"tokenizer.json": tokenizer},
    )


MODELS: Mapping[str, RawModel] = {
    "pictures": _of_pictures(16),
    "large": _of_pictures(224),
    "words": _of_text(words_tokenizer),
    "pieces": _of_text(pieces_tokenizer),
    "pairs": _of_text(words_tokenizer, ("a sentence", "is it not")),
    "rows": RawModel(
        Signature(
            (TensorSpec("features", "float32", ("batch", 4)),),
            (TensorSpec("scores", "float32", ("batch", 3), labels="labels.txt"),),
            {"batch": ROWS},
        ),
        [
            {
                "table": {
                    "columns": [
                        {"name": "age", "kind": "number", "missing": 0},
                        {"name": "colour", "kind": "category", "values": ["red", "green", "blue"], "missing": "red"},
                    ]
                }
            }
        ],
        [{"argmax": {}}],
        _same,
        {"features": {"age": 7, "colour": "red"}},
    ),
}


def write_artifact(directory: Path, model: RawModel) -> Path:
    """A whole artifact, hashed, whose golden cases are the operations' and the engine's own answers."""
    made, named = model.made()
    signature, data = model.signature, model.onnx(model.signature).SerializeToString()
    inputs = made.join([made.prepare(model.sample, RawLimits())])
    outputs = load_engine("onnx", data, signature).run(inputs)
    reference = {name: array.astype(np.float64) for name, array in outputs.items()}
    answer = made.finish(outputs)[0] if made.predicts else None
    budgets = {spec.name: {"budget": 1e-6} for spec in signature.outputs}
    labels = {"labels.txt": "\n".join(LABELS).encode()} if any(spec.labels for spec in signature.outputs) else {}
    files = {MODEL_FILES["onnx"]: data, **named, **labels}
    evidence = {
        manifest.GOLDEN: golden.encode([GoldenCase("00-made", inputs, {"onnx": outputs}, reference)]),
        manifest.PARITY: canonical_json({"engines": {"onnx": {"outputs": budgets}}}),
        manifest.RAW: raw_cases.encode([RawCase("00-made", model.sample, answer)]),
    }
    stated = Manifest(
        signature=signature,
        config={},
        weights_sha256="0" * 64,
        files={name: FileEntry.of(each) for name, each in files.items()},
        evidence={name: FileEntry.of(each) for name, each in evidence.items()},
        operations=made.chains.to_json(),
    )
    write_directory(directory, {manifest.MANIFEST: stated.encode(), **files, **evidence})
    return directory


def write_repository(root: Path, names: tuple[str, ...] = tuple(MODELS)) -> Path:
    """A model repository of these models."""
    for name in names:
        write_artifact(root / name / "1", MODELS[name])
    return root


def sample_json(name: str) -> bytes:
    """A good request of a model whose raw value JSON can hold."""
    return json.dumps({"inputs": dict(MODELS[name].sample)}).encode()
