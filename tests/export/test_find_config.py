"""Which config an export runs under, and what is said where there is none or more than one (exit 2)."""

import pytest
import torch

import model_defs


@pytest.fixture
def own_config(work):
    """A checkpoint that carries its config; beside it there is no YAML. Gives the checkpoint's entries."""
    state = work.net("good", "small").state_dict()
    held = {"state_dict": dict(state), "config": work.data("small")}
    work.save(held)
    (work.folder / "best.yaml").unlink()
    return held


@pytest.mark.usefixtures("own_config")
def test_the_checkpoints_own_config(work):
    """An entry `config` with `schema` is enough."""
    assert work.export().path == work.repository / "small" / "1"


@pytest.mark.usefixtures("own_config")
def test_the_same_config_twice(work):
    """A YAML that says the same is no conflict, whatever its order, name, weights and formats."""
    first = work.export()
    data = work.data("small")
    work.write({**dict(reversed(data.items())), "name": "other", "weights": {"select": "state_dict"}, "formats": ["onnx"]})

    exported = work.export(name="small")

    assert (exported.path, exported.created) == (first.path, False)


@pytest.mark.usefixtures("own_config")
def test_a_yaml_that_differs(work):
    """Every difference has its line: the value in the YAML, and the checkpoint's."""
    data = work.data("small")
    data["dims"]["batch"]["max"] = 32
    data["inputs"]["x"]["range"] = [-2, 2]
    path = work.write(data)

    assert work.refuse(2) == (
        f"{path} differs from the config inside best.pth:\n"
        "  dims.batch.max: 32 in the YAML, 8 in the checkpoint\n"
        "  inputs.x.range: [-2.0, 2.0] in the YAML, [-1.0, 1.0] in the checkpoint\n"
        "Make them equal, or remove one of the two"
    )


def test_a_config_without_schema_is_provenance(work):
    """Learning rate and batch size are kept as facts, not as a config."""
    state = work.net("good", "small").state_dict()
    work.save({"state_dict": dict(state), "config": {"lr": 0.1}})

    assert work.export().created
    (work.folder / "best.yaml").unlink()
    assert work.refuse(2).startswith("no config for best.pth: write best.yaml beside it, or say --config YAML; ")


@pytest.mark.usefixtures("own_config")
def test_the_checkpoints_own_config_is_checked(work, own_config):
    """A mistake in it is told like one in a YAML."""
    own_config["config"]["inputs"]["x"]["shap"] = [1]
    work.save(own_config)

    assert "best.pth (its own config):1:1: inputs.x.shap: unknown key; nearest: shape" in work.refuse(2)


def test_no_config(work):
    """The registered models whose keys match are named, with how many of them."""
    work.net("good", "small")
    (work.folder / "best.yaml").unlink()

    assert work.refuse(2).startswith(
        "no config for best.pth: write best.yaml beside it, or say --config YAML; "
        "registered models whose keys match: small (10/10 keys), stepped_rows (4/4 keys), "
    )


def test_no_config_and_no_model(work):
    """Where no model's keys match, plugins are named."""
    work.save({"nobodys.key": torch.ones(2)})

    assert work.refuse(2) == (
        "no config for best.pth: write best.yaml beside it, or say --config YAML; "
        "no registered model's keys match: --plugin brings in yours"
    )


def test_a_known_architecture_is_found_under_a_prefix(work):
    """A wrapper's prefix does not hide what it is."""
    state = model_defs.build("digits_cnn", {}).state_dict()
    work.save({f"module.{name}": tensor for name, tensor in state.items()})

    assert f"digits_cnn ({len(state)}/{len(state)} keys)" in work.refuse(2)


def test_config_goes_before_the_yaml_beside(work):
    """--config names another."""
    work.net("good", "small")
    other = work.write({**work.data("small"), "name": "other"}, "other.yaml")

    assert work.export(config=other).path.parent.name == "other"


def test_a_config_that_is_not_there(work):
    """The path is named, with the system's reason."""
    work.net("good", "small")

    path = work.folder / "missing.yaml"
    assert work.refuse(2, config=path) == f"config {path} cannot be read: No such file or directory"


def test_the_name_of_the_artifact(work):
    """--name, else the YAML's name, else the model's."""
    work.net("good", "small")
    assert work.export().path.parent.name == "small"
    work.write({**work.data("small"), "name": "from_yaml"})
    assert work.export().path.parent.name == "from_yaml"
    assert work.export(name="from_command").path.parent.name == "from_command"


def test_an_unknown_model(work):
    """The nearest name and all names are given."""
    work.net("good", "small")
    work.write({**work.data("small"), "model": {"name": "smal"}})

    message = work.refuse(2)

    assert message.startswith("no model is called 'smal'; the nearest is small; registered are ")
    assert message.endswith(". A model of your own comes in by --plugin my_model.py")


def test_params_that_do_not_fit(work):
    """Each has its line, with its place in the YAML."""
    work.net("good", "small")
    path = work.write(
        'schema: 1\nmodel:\n  name: small\n  params: {widht: 5, classes: "3"}\n'
        "inputs: {x: {dtype: float32, shape: [2, 4]}}\noutputs: {y: {dtype: float32, shape: [2, 3]}}\n"
    )

    assert work.refuse(2).splitlines() == [
        f'{path}:4:22: model.params.classes: input should be a valid integer, got "3"',
        f"{path}:4:12: model.params.widht: unknown key; nearest: width",
    ]


def test_an_unknown_format(work):
    """Formats of the command line are those of the artifact."""
    work.net("good", "small")

    assert work.refuse(2, formats=("onnx", "tflite")) == "unknown format 'tflite'; the formats are onnx, torchscript, pt2"


def test_a_plugin_that_fails(work):
    """Its own line is named."""
    (work.folder / "broken.py").write_text("import no_such_module\n")
    work.net("good", "small")

    message = work.refuse(2, plugins=(str(work.folder / "broken.py"),))

    assert "No module named 'no_such_module'" in message
    assert "line 1" in message
