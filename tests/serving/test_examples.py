"""examples/images and examples/sentences, as a person runs them; trained shortly, since the numbers must be equal, not good."""

import contextlib
import importlib
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import artifact
from artifact.operations import RawLimits

EXAMPLES = Path(__file__).parents[2] / "examples"
PLUGINS = {"images": (), "sentences": ("--plugin", "model.py")}
SHORTLY = {"images": "epochs=1, drawings=1", "sentences": "epochs=1"}
COUNT = 60

pytestmark = pytest.mark.examples
TIMEOUT_S = 120
LEARNED = {"images": 0.88, "sentences": 0.65}
"""What the whole training reaches at least on what was held out: by chance it would be 0.1, and a third."""


def run(name, *arguments, **variables):
    """What Python prints for these arguments in an example's folder, with these environment variables."""
    ran = subprocess.run(
        [sys.executable, *map(str, arguments)],
        check=False,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        cwd=EXAMPLES / name,
        env={**os.environ, **variables},
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@contextlib.contextmanager
def imported(name, *modules):
    """An example's own modules, which have no package: they are forgotten afterwards."""
    folder = EXAMPLES / name
    sys.path.insert(0, str(folder))
    try:
        yield [importlib.import_module(module) for module in modules]
    finally:
        sys.path.remove(str(folder))
        for path in folder.glob("*.py"):
            sys.modules.pop(path.stem, None)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with each example's checkpoints, and the repository `models` with what they are exported to."""
    place = tmp_path_factory.mktemp("examples")

    alone = {"OMP_NUM_THREADS": "1"}  # side by side they would take the cores from each other

    def make(name):
        kept = place / name
        run(name, "-c", f"import pathlib, train; train.train(pathlib.Path({str(kept)!r}), {SHORTLY[name]})", **alone)
        run(name, "-m", "export", "--ckpt", kept / "best.pth", "--repository", place / "models", *PLUGINS[name], **alone)

    with ThreadPoolExecutor() as pool:
        list(pool.map(make, PLUGINS))
    return place


def operations(place, name):
    declared = artifact.load(place / "models" / name / "1").operations
    assert declared is not None
    return declared


def test_pictures_become_the_tensors_that_the_training_made(place):
    """What pictures.yaml declares is `prepare` of the training, bit for bit, for pictures on their side too."""
    declared = operations(place, "pictures")

    with imported("images", "train", "pictures") as (train, pictures):
        files = pictures.pictures(drawings=0)[2].files[:COUNT]
        assert any(pictures.ORIENTATION in train.Image.open(train.io.BytesIO(file)).getexif() for file in files)
        for file in files:
            np.testing.assert_array_equal(declared.prepare({"image": file}, RawLimits())["image"][0], train.prepare(file))


def test_sentences_become_the_tokens_that_the_training_made(place):
    """What sentences.yaml declares is `encode` of the training, for one sentence and for several of different lengths."""
    declared = operations(place, "sentences")

    with imported("sentences", "train", "sentences") as (train, sentences):
        assert (EXAMPLES / "sentences" / "labels.txt").read_text().splitlines() == list(sentences.LIBRARIES)
        tokenizer = train.Tokenizer.from_file(str(place / "sentences" / "tokenizer.json"))
        texts = [" ".join(["Return the sum of all elements."] * times) for times in (1, 2, 30)]
        for given in (texts[:1], texts):
            made = declared.join([declared.prepare({"text": text}, RawLimits()) for text in given])
            tokens, mask = train.encode(tokenizer, given)
            np.testing.assert_array_equal(made["input_ids"], tokens.numpy())
            np.testing.assert_array_equal(made["attention_mask"], mask.numpy())


def test_answers_over_http_are_those_of_the_training_code(place, start_server):
    """A server tells every held-out picture and sentence what PyTorch tells of it, with the same probabilities."""
    with start_server(place / "models") as server:
        for name in PLUGINS:
            asked = f"import pathlib, sys, ask; sys.exit(ask.main(pathlib.Path({str(place / name)!r}), {server.port}, {COUNT}))"
            assert "\nequal: probabilities within" in run(name, "-c", asked)


@pytest.mark.parametrize("name", PLUGINS)
def test_the_whole_training_learns_what_it_is_for(name):
    """examples/demo.py ends with 0, and with an accuracy on what was held out that chance does not give."""
    printed = run(name, EXAMPLES / "demo.py", name)

    (accuracy,) = re.findall(r"accuracy over HTTP  (\d\.\d+)", printed)
    assert float(accuracy) >= LEARNED[name], printed
