"""The example YAMLs are complete, and true to the models that they name."""

import inspect
from pathlib import Path

import pytest
import torch
import yaml

import model_defs

FOLDER = Path(model_defs.__file__).parent / "configs"
CONFIGS = sorted(FOLDER.glob("*.yaml"))
FOR_CUDA = ["bert_float16", "resnet50_uint8"]


@pytest.fixture(params=CONFIGS, ids=lambda path: path.stem)
def config(request):
    return yaml.safe_load(request.param.read_text(encoding="utf-8"))


def tensor(declared, sizes):
    """A tensor without memory, of the declared type, with each dim at its size."""
    shape = [sizes.get(dim, dim) for dim in declared["shape"]]
    return torch.empty(shape, dtype=getattr(torch, declared["dtype"]), device="meta")


def test_there_is_one_for_each_architecture():
    """resnet34 differs from resnet18 in its name alone; two have a second one, for CUDA."""
    names = ["bert", "bert_float16", "digits_cnn", "mlp", "resnet18", "resnet50", "resnet50_uint8", "vit"]
    assert [path.stem for path in CONFIGS] == names
    assert {path.stem.partition("_")[0] if path.stem in FOR_CUDA else path.stem for path in CONFIGS} == set(
        model_defs.registered()
    ) - {"resnet34"}


def test_the_keys_are_the_schemas(config):
    """Only bert says something of weights, which are otherwise loaded as they are, and only those for CUDA of precision."""
    known = {"schema", "model", "weights", "inputs", "dims", "outputs", "formats", "precision"}
    left_out = {"weights"} - ({"weights"} if config["model"]["name"] == "bert" else set())
    left_out |= set() if config.get("precision") else {"precision"}
    assert config.keys() == known - left_out
    assert config["schema"] == 1


@pytest.mark.parametrize("name", FOR_CUDA)
def test_those_for_cuda_compute_in_float16(name):
    """And are otherwise their namesakes: the same model, the same outputs."""
    own, plain = (
        yaml.safe_load((FOLDER / f"{stem}.yaml").read_text(encoding="utf-8")) for stem in (name, name.partition("_")[0])
    )
    assert own["precision"] == "float16"
    assert own["outputs"] == plain["outputs"]
    assert own["model"]["params"].items() >= plain["model"]["params"].items()


def test_the_inputs_are_the_parameters_of_forward(config):
    """In this order, each with a range of two numbers, the lower one first."""
    module = model_defs.definition(config["model"]["name"]).module
    assert list(config["inputs"]) == list(inspect.signature(module.forward).parameters)[1:]
    for declared in config["inputs"].values():
        low, high = declared["range"]
        assert low < high


def test_every_dim_that_is_named_is_declared(config):
    """And none is declared that nothing names; opt lies in the range, bounds are multiples."""
    tensors = [*config["inputs"].values(), *config["outputs"].values()]
    assert {dim for declared in tensors for dim in declared["shape"] if isinstance(dim, str)} == config["dims"].keys()
    for dim in config["dims"].values():
        assert 1 <= dim["min"] <= dim["opt"] <= dim["max"]
        assert not any(dim[bound] % dim.get("multiple", 1) for bound in ("min", "opt", "max"))


@pytest.mark.parametrize("bound", ["min", "opt", "max"])
def test_the_model_gives_the_declared_outputs(config, bound):
    """At the smallest, the usual and the largest size of every dim, in shape and type."""
    found = model_defs.definition(config["model"]["name"])
    params = found.params.model_validate(config["model"]["params"])
    with torch.device("meta"):
        model = found.module(params).eval()
    sizes = {name: dim[bound] for name, dim in config["dims"].items()}
    output = model(**{name: tensor(declared, sizes) for name, declared in config["inputs"].items()})
    (declared,) = config["outputs"].values()
    expected = tensor(declared, sizes)
    assert (output.shape, output.dtype) == (expected.shape, expected.dtype)


def test_berts_tokens_and_sequence_fit_its_tables():
    """The range ends at the vocabulary's last token, and the sequence within the positions."""
    config = yaml.safe_load((FOLDER / "bert.yaml").read_text(encoding="utf-8"))
    params = config["model"]["params"]
    assert config["inputs"]["input_ids"]["range"] == [0, params["vocab_size"] - 1]
    assert config["dims"]["sequence"]["max"] <= params["max_position_embeddings"]
