"""Raw values of a load test: made up, read from files, written in every protocol, and answered as the artifact answers."""

import io
import json
from typing import Any

import numpy as np
import pytest
from PIL import Image

import artifact
from artifact.operations.raw import RawSpec
from bench import decoding, payloads, raw, raw_answers, raw_bodies, target
from bench.body import Body, Raws
from bench.errors import NotAsked, WrongAnswer
from bench.images import BODIES
from bench.models import PICTURES, RESNET18
from bench.processes import started
from tests.fuzz import raw_models

IMAGE = RawSpec("image", "image", ("image",), {})
TEXT = RawSpec("text", "text", ("input_ids",), {})
PAIR = RawSpec("text", "pair", ("input_ids",), {})
COLUMNS = [{"name": "age", "kind": "number"}, {"name": "colour", "kind": "category", "values": ["red", "green"]}]
ROW = RawSpec("features", "row", ("features",), {"columns": COLUMNS})
ONE_EACH = {"pictures": "predictions-image", "words": "predictions-text"}


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    return raw_models.write_repository(tmp_path_factory.mktemp("raw") / "repository", ("pictures", "words", "pairs", "rows"))


@pytest.fixture(scope="module")
def served(repository):
    with started("serving", "--repository", str(repository), folder=repository.parent, ready="/v2/health/ready") as running:
        yield running


def refused(*asked):
    """Why values are not read."""
    with pytest.raises(NotAsked) as caught:
        raw.from_files(*asked)
    return str(caught.value)


def test_values_are_made_up_for_every_kind():
    """Pictures are JPEG files, texts are words, rows hold every column; the same seed gives the same, and no two are equal."""
    made: Any = raw.made_up([IMAGE], rows=2, different=3)
    picture = Image.open(io.BytesIO(made[0].by_name["image"][0]))
    values: Any = {spec.kind: raw.made_up([spec])[0].by_name[spec.name][0] for spec in (TEXT, PAIR, ROW)}

    assert (picture.format, picture.size) == ("JPEG", raw.PICTURE[::-1])
    assert made == raw.made_up([IMAGE], rows=2, different=3)
    assert len({value for one in made for value in one.by_name["image"]}) == 6
    assert [one.rows for one in made] == [2, 2, 2]
    assert len(values["text"].split()) == len(values["pair"][1].split()) == 16
    assert values["row"].keys() == {"age", "colour"}
    assert values["row"]["colour"] in {"red", "green"}


def test_values_are_read_from_files(tmp_path):
    """Every image, every line that is not blank, every line under a header; requests of several rows begin again at their end."""
    (tmp_path / "b.PNG").write_bytes(b"two")
    (tmp_path / "a.jpg").write_bytes(b"one")
    (tmp_path / "some.txt").write_text("first\n\n  \nsecond: ü\n", encoding="utf-8")
    (tmp_path / "rows.csv").write_text("age,colour\n7,red\n1.5,\n,green\n")

    assert [one.by_name["image"] for one in raw.from_files([tmp_path], [IMAGE])] == [[b"one"], [b"two"]]
    assert [one.by_name["text"] for one in raw.from_files([tmp_path], [TEXT], 3)] == [["first", "second: ü", "first"]]
    rows = [one.by_name["features"][0] for one in raw.from_files([tmp_path], [ROW])]
    assert rows == [{"age": 7, "colour": "red"}, {"age": 1.5}, {"colour": "green"}]


def test_files_that_hold_no_values(tmp_path):
    """What cannot be sent is said before anything is measured."""
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe")
    (tmp_path / "b.txt").write_text("\n\n")
    (tmp_path / "c.csv").write_text("age\n1,2,3\n")

    assert "a.txt is no UTF-8" in refused([tmp_path / "a.txt"], [TEXT])
    assert refused([tmp_path / "b.txt"], [TEXT]) == f"--input {tmp_path / 'b.txt'} holds no text"
    assert "c.csv is no table" in refused([tmp_path / "c.csv"], [ROW])
    assert "is none of .txt" in refused([tmp_path / "c.csv"], [TEXT])
    assert refused([tmp_path], [PAIR]).startswith("--input cannot hold the raw input text, which is a pair")
    assert refused([tmp_path], [IMAGE, TEXT]).startswith("--input has a place for one raw input, the model takes image, text")


def test_one_value_alone():
    """A picture or a text alone has its content type, and no place for anything else."""
    png, webp = b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WEBP"

    assert raw_bodies.file_alone(Raws({"image": [png]})) == Body(png, {"Content-Type": "image/png"})
    assert raw_bodies.file_alone(Raws({"image": [webp]})).headers["Content-Type"] == "image/webp"
    assert raw_bodies.text_alone(Raws({"text": ["ü"]})).content == "ü".encode()
    for write, values in ((raw_bodies.file_alone, [png, png]), (raw_bodies.file_alone, ["a"]), (raw_bodies.text_alone, [png])):
        with pytest.raises(NotAsked, match="use predictions-values, which has a place for everything"):
            write(Raws({"image": values}))


@pytest.mark.parametrize("model", ["pictures", "words", "pairs", "rows"])
@pytest.mark.parametrize("protocol", payloads.RAW_PROTOCOLS)
def test_our_server_takes_it(served, repository, protocol, model):
    """Made-up values in every protocol that has a place for them get the predictions that the artifact itself makes of them."""
    found = target.look(f"http://127.0.0.1:{served.port}", model)
    alone = protocol in ONE_EACH.values()
    given = raw.made_up(found.raw_inputs, 1 if alone else 3, different=1)
    if alone and ONE_EACH.get(model) != protocol:
        return
    (sent,) = payloads.build(protocol, found, given)
    status, headers, content = target.ask(found.host, found.port, sent)

    assert (status, sent.rows) == (200, 1 if alone else 3)
    loaded = artifact.load(repository / model / "1", threads=1)
    if protocol == "oip-bytes":
        outputs = payloads.read_answer(protocol, headers, content, loaded.signature.outputs)
        for name, array in raw_answers.outputs(loaded, given[0]).items():
            assert np.allclose(outputs[name], array.ravel(), atol=1e-6)
    else:
        raw_answers.require(content, given[0], loaded)


def test_another_answer_is_found_out(repository):
    """An answer with other labels, other numbers or no predictions ends the test: its speed would mean nothing."""
    loaded = artifact.load(repository / "rows" / "1", threads=1)
    raws = Raws({"features": [{"age": 0, "colour": "green"}]})
    assert loaded.operations is not None
    good = loaded.operations.finish(raw_answers.outputs(loaded, raws))

    raw_answers.require(json.dumps({"predictions": good}).encode(), raws, loaded)
    for content, why in (
        (b'{"predictions":[7]}', "other predictions"),
        (b'{"outputs":{}}', "no predictions"),
        (b"<", "no predictions"),
    ):
        with pytest.raises(WrongAnswer, match=why):
            raw_answers.require(content, raws, loaded)
    with pytest.raises(NotAsked, match="refuses what was to be sent: column 'age'"):
        raw_answers.outputs(loaded, Raws({"features": [{"age": "x"}]}))


def test_raw_values_go_where_they_belong():
    """A protocol of tensors refuses raw values, and says which one takes them."""
    with pytest.raises(NotAsked, match="--protocol oip-json sends tensors, not raw values: predictions-image, predictions-text"):
        payloads.build("oip-json", target.any_url("http://here/"), [Raws({"text": ["a"]})])


def test_decoding_alone(repository, tmp_path):
    """The operations run by themselves, in a process of their own, on files; how fast is not looked at."""
    picture = tmp_path / "picture.jpg"
    picture.write_bytes(raw.picture(np.random.default_rng(0), 40, 60))

    assert decoding.measure(repository / "pictures" / "1", [picture], 2, 0.05) > 0


def test_what_the_page_measures():
    """The model is ResNet-18 with the usual operations, and every protocol is one that the load test has."""
    assert PICTURES.config["model"] == RESNET18.config["model"]
    assert [next(iter(one)) for one in PICTURES.config["preprocess"]] == [
        "decode",
        "resize",
        "center_crop",
        "to_float",
        "normalize",
    ]
    assert all(payloads.PROTOCOLS[protocol].write_raw for protocol in BODIES)
