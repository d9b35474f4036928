"""The scan of .pt2 archives finds every member that torch.export.load would unpickle without restriction."""

import io
import json
import pickle
import zipfile

import pytest
import torch

from foundation.pt2 import pt2_pickles


class WithParts(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = torch.nn.Linear(3, 2)
        self.register_buffer("scale", torch.ones(2))
        self.constant = torch.ones(2)

    def forward(self, x, factor):
        return self.fc(x) * self.scale + self.constant * factor


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    path = tmp_path_factory.mktemp("pt2") / "model.pt2"
    torch.export.save(torch.export.export(WithParts(), (torch.zeros(2, 3), torch.ones(2))), path)
    return path


def changed(honest, tmp_path, name, data):
    """The honest archive with one member replaced or added."""
    path = tmp_path / "changed.pt2"
    with zipfile.ZipFile(honest) as old, zipfile.ZipFile(path, "w") as new:
        for member in old.namelist():
            if member != name:
                new.writestr(member, old.read(member))
        new.writestr(name, data)
    return path


def saved(value):
    stream = io.BytesIO()
    torch.save(value, stream)
    return stream.getvalue()


def test_what_torch_writes_for_tensors_is_clean(honest):
    """An exported program of tensors has example inputs as its only pickle, and they name only tensors."""
    with zipfile.ZipFile(honest) as archive:
        assert "model/data/sample_inputs/model.pt" in archive.namelist()

    assert pt2_pickles(honest) == ()


@pytest.mark.parametrize("use_pickle", [True, 1, "false", None])
def test_payloads_declared_as_pickles(honest, tmp_path, use_pickle):
    """A weight is raw bytes only where use_pickle is exactly false."""
    config = json.dumps({"config": {"w": {"path_name": "weight_0", "use_pickle": use_pickle}}})
    path = changed(honest, tmp_path, "model/data/weights/model_weights_config.json", config)

    assert pt2_pickles(path) == ("model/data/weights/weight_0",)


@pytest.mark.parametrize("config", ["not json", "[]", '{"config": {"w": {}}}', '{"config": {"w": 3}}', "[" * 10_000])
def test_configs_that_cannot_be_understood(honest, tmp_path, config):
    """A config that cannot be judged counts as found."""
    path = changed(honest, tmp_path, "model/data/constants/model_constants_config.json", config)

    assert pt2_pickles(path) == ("model/data/constants/model_constants_config.json",)


@pytest.mark.parametrize(
    "name",
    [
        "model/data/constants/custom_obj_0",
        "model/data/constants/opaque_obj_3",
        "model/data/weights/model.pt",
        "model/data/constants/model.pt",
        "serialized_state_dict.pt",
        "serialized_constants.json",
        "serialized_example_inputs.pt",
    ],
)
def test_members_that_are_pickles(honest, tmp_path, name):
    """Objects and the older layouts' whole files are found by name."""
    assert pt2_pickles(changed(honest, tmp_path, name, b"")) == (name,)


@pytest.mark.parametrize(
    "data",
    [
        pickle.dumps(print),
        saved({"a": print}),
        saved(torch.nn.Linear(1, 1)),
        b"\0",
        pytest.param(saved(print).replace(b"data.pkl", b"DATA.PKL"), id="other case"),
    ],
)
def test_example_inputs_that_name_more_than_tensors(honest, tmp_path, data):
    """Example inputs may name nothing but what rebuilds tensors, and must be a torch.save zip."""
    name = "model/data/sample_inputs/model.pt"

    assert pt2_pickles(changed(honest, tmp_path, name, data)) == (name,)


def test_no_example_inputs(honest, tmp_path):
    """A program that was exported without example inputs has an empty member, which nothing unpickles."""
    assert pt2_pickles(changed(honest, tmp_path, "model/data/sample_inputs/model.pt", b"")) == ()


def test_compressed_members(tmp_path):
    """torch compresses no member; one that is compressed is not unpacked, and counts as found."""
    path = tmp_path / "model.pt2"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model/data/weights/model_weights_config.json", '{"config": {}}')

    assert pt2_pickles(path) == ("model/data/weights/model_weights_config.json",)


def test_a_name_that_stands_twice(honest, tmp_path):
    """Of two members of one name it is not known which is read: both count as found."""
    path = changed(honest, tmp_path, "model/MODELS/model.json", b"{}")

    assert pt2_pickles(path) == ("model/MODELS/model.json", "model/models/model.json")
