"""Declared operations on their way through an export: the YAML, the proof, the artifact, and what is refused."""

import copy
import io
import json
import re
import shutil

import jsonschema
import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from typer.testing import CliRunner

import artifact
import model_defs
from artifact import golden, manifest, raw_cases
from artifact.artifact import served_operations
from artifact.errors import DamagedArtifact, GoldenMismatch, NotAnArtifact
from artifact.operations import RawLimits
from artifact.recorded import read_arrays
from export.config import json_schema
from export.operations import RawInputs, pick_golden
from export.rebuild import rebuild
from export.report import Silent
from foundation.environment import environment
from foundation.storage import canonical_json, sha256_bytes
from stateserve import app

PICTURE = [{"decode": {"mode": "L"}}, {"resize": {"size": [8, 8]}}, {"to_float": {"scale": 1 / 255}}]
ANSWER = [{"softmax": {"axis": -1}}, {"topk": {"k": 3}}]
DIGITS = {
    "schema": 1,
    "model": {"name": "digits_cnn"},
    "inputs": {"image": {"dtype": "float32", "shape": ["batch", 1, 8, 8], "range": [0, 1]}},
    "dims": {"batch": {"min": 1, "max": 4}},
    "outputs": {"logits": {"dtype": "float32", "shape": ["batch", 10], "labels": "digits.txt"}},
    "preprocess": PICTURE,
    "postprocess": ANSWER,
    "formats": ["onnx"],
}
TOKENS = {"dtype": "int64", "shape": ["batch", "length"]}
SENTENCES = {
    "schema": 1,
    "model": {
        "name": "bert",
        "params": {
            "vocab_size": 8,
            "hidden_size": 8,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 8,
            "max_position_embeddings": 16,
        },
    },
    "inputs": {"input_ids": {**TOKENS, "range": [0, 7]}, "attention_mask": {**TOKENS, "range": [0, 1]}},
    "dims": {"batch": {"min": 1, "max": 4}, "length": {"min": 2, "max": 16}},
    "outputs": {"embedding": {"dtype": "float32", "shape": ["batch", 8]}},
    "preprocess": [{"tokenize": {"file": "words/tokenizer.json", "max_tokens": 16, "padding": "max"}}],
    "postprocess": [{"normalize_length": {}}],
    "formats": ["onnx"],
}


def save(work, data):
    """A checkpoint of random weights for a config, with the files that it names."""
    torch.manual_seed(1)
    work.save(model_defs.build(data["model"]["name"], data["model"].get("params", {})).state_dict())
    work.write(data)
    work.write("".join(f"the digit {number}\n" for number in range(10)), "digits.txt")
    vocabulary = {word: number for number, word in enumerate(("[PAD]", "[UNK]", "the", "dog", "quick", "lazy", "fox", "is"))}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    (work.folder / "words").mkdir(exist_ok=True)
    words.save(str(work.folder / "words" / "tokenizer.json"))


def changed(data, **keys):
    return {**copy.deepcopy(data), **keys}


@pytest.fixture(scope="module")
def digits(tmp_path_factory, work_in):
    """The digits model with pictures in and labels out, exported once: the folder, and what export said. Read only."""
    work = work_in(tmp_path_factory.mktemp("digits"))
    save(work, DIGITS)
    return work, work.export()


def picture(size=(20, 30), kind="PNG", seed=1):
    file = io.BytesIO()
    levels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0]), dtype=np.uint8)
    Image.fromarray(levels).save(file, kind)
    return file.getvalue()


def test_an_artifact_has_its_operations(digits):
    """The manifest states them with every parameter, as content; raw cases are evidence; and the replay passes with them."""
    work, exported = digits
    stated = manifest.read_manifest(exported.path)
    loaded = artifact.load(exported.path)

    assert stated.content["operations"]["preprocess"][1] == {"resize": {"size": [8, 8], "interpolation": "bilinear"}}
    assert [next(iter(one)) for one in stated.operations["postprocess"]] == ["softmax", "topk"]
    assert manifest.RAW in stated.evidence
    replayed = loaded.replay()
    golden.require(replayed)
    assert {result.output for result in replayed if result.engine == raw_cases.OPERATIONS} == {"image", "answer"}
    assert work.export().created is False


def test_what_training_code_computes_is_what_the_artifact_computes(digits):
    """A picture by Pillow and NumPy, as a user writes it, and by the artifact's operations: the same tensor and classes."""
    _, exported = digits
    loaded = artifact.load(exported.path)
    data = picture()
    by_hand = np.asarray(Image.open(io.BytesIO(data)).convert("L").resize((8, 8), Image.Resampling.BILINEAR), np.float32)

    assert loaded.operations is not None
    prepared = loaded.operations.prepare({"image": data}, RawLimits())
    answer = loaded.operations.finish(loaded.run(prepared))[0]

    np.testing.assert_allclose(prepared["image"], by_hand[None, None] / 255, rtol=0, atol=1e-6)
    logits = loaded.run(prepared)["logits"][0].astype(np.float64)
    powers = np.exp(logits - logits.max())
    assert [entry["index"] for entry in answer] == np.argsort(-logits)[:3].tolist()
    assert [entry["label"] for entry in answer] == [f"the digit {entry['index']}" for entry in answer]
    assert [entry["probability"] for entry in answer] == pytest.approx(sorted(powers / powers.sum(), reverse=True)[:3])


def test_content_is_the_same_without_operations(work):
    """An artifact that declares none has the content that it always had: nothing of operations stands in it."""
    plain = {key: value for key, value in DIGITS.items() if key not in {"preprocess", "postprocess"}}
    save(work, plain)

    stated = manifest.read_manifest(work.export().path)

    assert set(stated.content) == {"config", "files", "signature", "weights"}
    assert manifest.RAW not in stated.evidence
    assert "preprocess" not in (work.repository / "digits_cnn" / "1" / "config.yaml").read_text()


def test_a_tokenizer_travels_in_the_artifact(work):
    """tokenizer.json is a hashed file of the content; what the artifact says of itself exports the same bytes again."""
    save(work, SENTENCES)
    exported = work.export()
    stated = manifest.read_manifest(exported.path)
    operations = artifact.load(exported.path).operations
    assert operations is not None
    text = operations.prepare({"text": "the quick cat"}, RawLimits())

    assert "tokenizer.json" in stated.files
    assert stated.operations["preprocess"][0]["tokenize"]["file"] == "tokenizer.json"
    assert text["input_ids"].tolist() == [[2, 4, 1, *[0] * 13]]
    assert text["attention_mask"].tolist() == [[1, 1, 1, *[0] * 13]]
    again = work.export(config=exported.path / "config.yaml", repository=work.folder / "again")
    assert again.content_id == exported.content_id


def test_samples_are_proven_and_recorded(work):
    """Real pictures are further cases of the proof, and the first of them the raw golden cases, byte for byte."""
    save(work, DIGITS)
    samples = work.folder / "samples"
    samples.mkdir()
    for number in range(6):
        (samples / f"{number}.png").write_bytes(picture(seed=number))

    exported = work.export(samples=samples)

    report = json.loads((exported.path / manifest.PARITY).read_bytes())
    assert {f"golden raw-{number:02}" for number in range(6)} <= {entry["case"] for entry in report["comparisons"]}
    recorded = read_arrays((exported.path / manifest.RAW).read_bytes())
    assert recorded["raw-00/raw/image"].tobytes() == picture(seed=0)
    assert sum(key.endswith("/answer") for key in recorded) == 4


def test_a_sample_that_does_not_pass_is_named(work):
    """Nothing is written; the message names the file and says what is wrong with it."""
    save(work, DIGITS)
    samples = work.folder / "samples"
    samples.mkdir()
    (samples / "cut.png").write_bytes(picture()[:-30])

    message = work.refuse(2, samples=samples)

    assert message.startswith(f"sample {samples / 'cut.png'} does not pass the declared operations: ")
    assert not work.repository.exists()


@pytest.mark.parametrize(
    ("names", "data", "expected"),
    [
        ((), DIGITS, "holds nothing for the raw inputs; put *.jpg, *.png, *.webp there"),
        (("a.txt",), DIGITS, "holds nothing for the raw inputs"),
        ((), {**DIGITS, "preprocess": None, "postprocess": None}, "--samples is for models whose YAML declares preprocess"),
    ],
)
def test_samples_that_are_none(work, names, data, expected):
    """An empty folder, files of another kind, a model that takes tensors."""
    save(work, data)
    samples = work.folder / "samples"
    samples.mkdir()
    for name in names:
        (samples / name).write_text("a line\n")

    assert expected in work.refuse(2, samples=samples)


@pytest.mark.parametrize(
    ("side", "chain", "where", "what"),
    [
        ("preprocess", [{"decod": {"mode": "L"}}], "preprocess.0", "nearest: decode"),
        ("preprocess", [{"decode": {"mode": "CMYK"}}], "preprocess.0.decode.mode", "'RGB', 'L'"),
        ("preprocess", [PICTURE[0], {"resize": {"size": [8, 9]}}, PICTURE[2]], "preprocess.1", "[1, 8, 9]"),
        ("preprocess", PICTURE[:2], "preprocess.1", "add to_float"),
        ("preprocess", [*PICTURE, {"normalize": {"mean": [0.5], "std": [0.1]}}], "preprocess.3", "declares the range [0, 1]"),
        ("preprocess", PICTURE[1:], "preprocess.0", "begins with decode"),
        ("postprocess", [{"topk": {"k": 11}}], "postprocess.0", "the row has 10 values"),
        ("postprocess", {"logit": ANSWER}, "postprocess.logit", "they are logits"),
        ("postprocess", [ANSWER[1], ANSWER[0]], "postprocess.1", "softmax: it takes floating-point numbers"),
    ],
)
def test_a_chain_that_does_not_fit(work, side, chain, where, what):
    """Refused when it is declared, with line and column, what was found and what to do."""
    save(work, DIGITS)
    path = work.write(changed(DIGITS, **{side: chain}))

    message = work.refuse(2)

    assert re.match(rf"{re.escape(str(path))}:\d+:\d+: ", message)
    assert where in message
    assert what in message


def test_the_line_of_the_yaml_is_named(work):
    """Line and column are those of the parameter."""
    save(work, DIGITS)
    head = json.dumps({key: value for key, value in DIGITS.items() if key != "preprocess"})[1:-1]
    path = work.write(f"{{{head},\n preprocess: [\n  {{decode: {{mode: L}}}},\n  {{resize: {{size: [8, 0]}}}}]\n}}")

    assert work.refuse(2).startswith(f"{path}:4:")


def test_a_tokenizer_that_is_not_there(work):
    """The place in the YAML, and the path."""
    save(work, SENTENCES)
    (work.folder / "words" / "tokenizer.json").unlink()

    message = work.refuse(2)

    assert "preprocess.0.tokenize.file" in message
    assert message.endswith("tokenizer.json cannot be read: No such file or directory")


def test_a_tokenizer_that_is_broken(work):
    """The place that names it, and the name that stands there."""
    save(work, SENTENCES)
    head = json.dumps({key: value for key, value in SENTENCES.items() if key != "preprocess"})[1:-1]
    path = work.write(f"{{{head},\n preprocess: [{{tokenize: {{\n  max_tokens: 16,\n  file: words/tokenizer.json}}}}]}}")
    (work.folder / "words" / "tokenizer.json").write_text("{")

    assert work.refuse(2).startswith(
        f"{path}:4:3: preprocess.0.tokenize.file: words/tokenizer.json is no tokenizer.json that the tokenizers package reads: "
    )


@pytest.mark.parametrize("content", [None, b"one\n", b"\xff\n" * 10])
def test_labels_that_do_not_fit(work, content):
    """The line and column that name the file, whatever is wrong with it."""
    save(work, DIGITS)
    head = json.dumps({key: value for key, value in DIGITS.items() if key != "outputs"})[1:-1]
    path = work.write(f"{{{head},\n outputs: {{\n  logits: {{dtype: float32, shape: [batch, 10], labels: digits.txt}}}}}}")
    if content is None:
        (work.folder / "digits.txt").unlink()
    else:
        (work.folder / "digits.txt").write_bytes(content)

    assert work.refuse(2).startswith(f"{path}:3:48: outputs.logits.labels: {work.folder / 'digits.txt'} ")


@pytest.mark.parametrize(("range_", "bound"), [([0, 7], 7), ([-2, 5], -2)])
def test_ids_that_the_model_does_not_have(work, range_, bound):
    """The input, its range and the model's own words, before any lowering fails of it; here of a vocabulary of six."""
    few = changed(SENTENCES, formats=["onnx", "torchscript"])
    few["model"]["params"]["vocab_size"] = 6
    few["inputs"]["input_ids"]["range"] = range_
    if bound < 0:
        del few["preprocess"]
    save(work, few)

    assert work.refuse(8) == (
        f"input input_ids declares the range {range_}, but the model itself fails with {bound}: IndexError: index out of range "
        "in self. Declare only what it takes; of token ids, check the size of its vocabulary"
    )


def test_a_config_inside_a_checkpoint_names_files_beside_it_only(work):
    """It comes from anywhere: no other file of this machine gets into the artifact."""
    save(work, SENTENCES)
    state = torch.load(work.checkpoint)
    torch.save({"state_dict": state, "config": SENTENCES}, work.checkpoint)
    (work.folder / "best.yaml").unlink()

    assert "a config inside a checkpoint may name a file beside it only" in work.refuse(2)


def test_changed_raw_cases_are_found(digits, rehash, tmp_path):
    """A raw case whose picture, answer or tensor is another's: the replay fails and says which; without cases it is damaged."""
    _, exported = digits
    arrays = read_arrays((exported.path / manifest.RAW).read_bytes())
    other = {
        key: arrays[key.replace("raw-00", "raw-02")] if key.startswith("raw-00/raw") else each for key, each in arrays.items()
    }
    answer = json.loads(arrays["raw-00/answer"].tobytes())
    answer[0]["label"] = "the digit 11"
    wrong = {**arrays, "raw-00/answer": np.frombuffer(json.dumps(answer).encode(), np.uint8)}

    for what, changed_arrays in (("image", other), ("answer", wrong)):
        loaded = artifact.load(written(exported.path, tmp_path / what, changed_arrays, rehash))
        with pytest.raises(GoldenMismatch, match=f"golden case raw-00 disagrees on engine operations: output {what}"):
            golden.require(loaded.replay())
    with pytest.raises(DamagedArtifact, match="there are no raw golden cases"):
        artifact.load(written(exported.path, tmp_path / "none", {}, rehash)).replay()


def written(source, target, arrays, rehash):
    import safetensors.numpy

    shutil.copytree(source, target)
    (target / manifest.RAW).write_bytes(safetensors.numpy.save(arrays))
    rehash(target)
    return target


def test_the_schema_knows_the_operations():
    """An editor that checks the YAML by the JSON Schema takes what export takes, and refuses what it refuses."""
    schema = json_schema()

    jsonschema.validate(json.loads(json.dumps({**DIGITS, "postprocess": ["argmax"]})), schema)
    jsonschema.validate(json.loads(json.dumps(SENTENCES)), schema)
    for wrong in ([{"decod": {}}], [{"resize": {"shorter": 3}}], [], [{"decode": {"mode": "L"}, "resize": {"short": 3}}]):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(json.loads(json.dumps({**DIGITS, "preprocess": wrong})), schema)


def test_a_rebuild_takes_the_raw_cases_of_the_artifact(digits, monkeypatch):
    """Made-up samples may not pass the operations of an artifact that was exported with real ones: none are made."""
    work, exported = digits
    monkeypatch.setattr("export.operations.made_samples", lambda *_: iter(()))
    assert rebuild(exported.path, work.checkpoint, (), Silent()) == exported.content_id


def test_a_rebuild_of_other_operations(digits, rehash, tmp_path):
    """The message says that it is the operations that differ."""
    work, exported = digits
    shutil.copytree(exported.path, tmp_path / "1")
    config = tmp_path / "1" / manifest.CONFIG
    config.write_text(config.read_text().replace("k: 3", "k: 2"))
    rehash(tmp_path / "1")
    with pytest.raises(DamagedArtifact, match=r"best\.pth does not rebuild .*/1: operations differ; content id "):
        rebuild(tmp_path / "1", work.checkpoint, (), Silent())


def test_samples_that_are_too_large(work):
    """Refused before anything is proven: one at least must travel in the artifact."""
    save(work, DIGITS)
    samples = work.folder / "samples"
    samples.mkdir()
    (samples / "large.png").write_bytes(picture((1500, 1500)))
    assert work.refuse(2, samples=samples) == (
        "every sample has more than 2097152 bytes, and at least one must travel in the artifact; add a smaller one"
    )


def test_no_made_up_sample_passes(work):
    """The message says what is wrong with the first of them, and what to do."""
    save(work, DIGITS)
    work.write(changed(DIGITS, preprocess=[PICTURE[0], {"crop": {"top": 2000, "left": 0, "height": 8, "width": 8}}, PICTURE[2]]))
    message = work.refuse(2)
    assert message.startswith("no made-up picture, text or row will do: sample made-0 does not pass the declared operations: ")
    assert "the picture has 320 x 240 pixels where 8 x 8 are cut out; send a larger one" in message
    assert message.endswith("; give real ones with --samples DIR")


def test_names_that_no_file_can_have(work):
    """A tokenizer's and labels': refused like every file that is not there."""
    save(work, SENTENCES)
    work.write(changed(SENTENCES, preprocess=[{"tokenize": {"file": "a\0b", "max_tokens": 16}}]))
    assert "preprocess.0.tokenize.file: " in (message := work.refuse(2))
    assert message.endswith("cannot be read: embedded null byte")
    work.write(changed(DIGITS, outputs={"logits": {**DIGITS["outputs"]["logits"], "labels": "a\0b"}}))
    assert work.refuse(2).endswith("cannot be read: embedded null byte")


@pytest.mark.parametrize(
    "content",
    [
        {"operations": 5},
        {"operations": ["ab"]},
        {"operations": []},
        {"operations": {"midprocess": []}},
        {"operations": {"preprocess": 5}},
        {"operations": {"preprocess": {"": PICTURE}}},
        {"operations": {"preprocess": [{"tokenize": {"file": "../../secret", "max_tokens": 5}}]}},
        {"operations": {"postprocess": [{"softmax": {"axis": 10**30}}]}},
        {"files": {"a\0b": {"sha256": "", "size": 1}}},
        {"files": {"../labels.txt": {"sha256": "", "size": 1}}},
    ],
)
def test_hostile_manifests(digits, tmp_path, content):
    """Operations of another kind, and files of strange names: no artifact, or a damaged one, for every reader."""
    _, exported = digits
    path = tmp_path / "1"
    shutil.copytree(exported.path, path)
    stated = json.loads((path / manifest.MANIFEST).read_bytes())
    for key, value in content.items():
        stated["content"][key] = {**stated["content"]["files"], **value} if key == "files" else value
    stated["content_id"] = sha256_bytes(canonical_json(stated["content"]))
    (path / manifest.MANIFEST).write_bytes(canonical_json(stated))

    for read in (artifact.load, lambda path: served_operations(path, manifest.read_manifest(path))):
        with pytest.raises((DamagedArtifact, NotAnArtifact)):
            read(path)


@pytest.mark.parametrize(
    ("labels", "message"),
    [(b"\xff\n" * 10, "'utf-8' codec can't decode"), (b"one\n", "does not run: postprocess: output logits has 1 labels")],
)
def test_hostile_labels(digits, rehash, tmp_path, labels, message):
    """No text, or too few of them: found when the artifact is loaded, and not by the first answer."""
    _, exported = digits
    shutil.copytree(exported.path, tmp_path / "1")
    (tmp_path / "1" / "labels.txt").write_bytes(labels)
    rehash(tmp_path / "1")
    with pytest.raises(DamagedArtifact, match=message):
        artifact.load(tmp_path / "1")


def command(*words):
    return CliRunner().invoke(app, [*map(str, words)])


def test_check_tells_operations_apart(digits, tmp_path):
    """Operations have a line of their own, with what was allowed of the worst comparison, and what differs concerns them."""
    _, exported = digits
    path = shutil.copytree(exported.path, tmp_path / "1")
    there = environment()
    (path / "environment.json").write_text(json.dumps({**there, "packages": {**there["packages"], "pillow": "9.0"}}))

    lines = command("check", path, "--replay").stdout.splitlines()
    told = json.loads(command("check", path, "--replay", "--json").stdout)

    assert [line.split(":")[0] for line in lines[1:3]] == ["onnx", "operations"]
    assert lines[2].startswith(f"operations: {told['operations']['comparisons']} comparisons hold, worst scaled error 0.0e+00, ")
    assert told["operations"]["comparisons"] == 8
    assert told["replay"].keys() == {"onnx"}
    assert lines[3] == "differs from the machine of the export, worst first:"
    assert lines[4].startswith(f"  1. pillow: 9.0 there, {there['packages']['pillow']} here; the same file, decoded, resized or ")
    assert lines[4].endswith(" (operations)")


def test_the_worst_comparison_is_shown_with_what_it_was_allowed(work):
    """Token ids must be equal, answers need not: a line never shows an error beyond the bound beside it."""
    save(work, SENTENCES)
    told = json.loads(command("check", work.export().path, "--replay", "--json").stdout)

    for entry in (told["replay"]["onnx"], told["operations"]):
        assert entry["worst_scaled"] <= entry["tolerance"]
    assert told["replay"]["onnx"]["tolerance"] == 1e-6


def test_inspect_tells_of_operations(digits):
    """What may be sent raw and what is answered, by the names of the operations."""
    work, _ = digits

    lines = command("inspect", work.checkpoint).stdout.splitlines()
    told = json.loads(command("inspect", work.checkpoint, "--json").stdout)["would_load"]["operations"]

    assert lines[-2:] == ["would take image (image) raw, by decode, resize, to_float", "would answer by softmax, topk"]
    assert told == {
        "raw_inputs": {"image": "image"},
        "preprocess": ["decode", "resize", "to_float"],
        "postprocess": ["softmax", "topk"],
    }


@pytest.mark.parametrize(
    ("data", "missing", "expected"),
    [
        (changed(DIGITS, preprocess=[PICTURE[0], {"resize": {"size": [9, 9]}}, PICTURE[2]]), None, "the chain makes [1, 9, 9]"),
        (SENTENCES, "words/tokenizer.json", "tokenizer.json cannot be read"),
        (DIGITS, "digits.txt", "digits.txt cannot be read"),
    ],
)
def test_inspect_refuses_what_export_refuses(work, data, missing, expected):
    """A chain that does not fit, a file that is not there: the same message and the same exit code."""
    save(work, data)
    if missing:
        (work.folder / missing).unlink()

    result = command("inspect", work.checkpoint)

    assert result.exit_code == 2
    assert expected in result.stdout
    assert result.stdout.splitlines()[-1] == f"would not load: {work.refuse(2)}"


def given(number, values, tensors):
    return RawInputs(f"raw-{number:02}", {"image": bytes(values)}, {"image": np.zeros(tensors, np.uint8)})


@pytest.mark.parametrize(
    ("sizes", "kept"),
    [
        ([(10, 10)] * 6, [0, 1, 2, 3]),
        ([(1_900_000, 10), (1_900_000, 10), (1_900_000, 10), (9, 9)], [0, 1, 3]),
        ([(10, 3_000_000), (10, 3_000_000), (10, 1_000_000)], [0, 2]),
        ([(10, 9_000_000), (10, 1)], [0]),
        ([(3_000_000, 10), (10, 10)], [1]),
    ],
)
def test_raw_cases_are_few_and_small(sizes, kept):
    """Four at most; 4 MB of values and 4 MB of tensors together, one case at least; none of more than 2 MiB."""
    chosen = pick_golden([given(number, *size) for number, size in enumerate(sizes)])

    assert [one.name for one in chosen] == [f"raw-{number:02}" for number in kept]
