"""The registry: what may be registered, what a name finds, and what building refuses."""

import re
from dataclasses import FrozenInstanceError
from typing import Annotated

import pytest
import torch
from pydantic import BaseModel, Field, field_validator
from torch import nn

import model_defs
from foundation.errors import StateserveError
from model_defs import InvalidDefinition, InvalidParams, ModelDefinitionError, PluginFailed, UnknownModel, registry
from model_defs.mlp import MLP, MLPParams

BUILT_IN = ["bert", "digits_cnn", "mlp", "resnet18", "resnet34", "resnet50", "vit"]


class Inner(BaseModel, frozen=True, extra="forbid"):
    size: int


class NetParams(BaseModel, frozen=True, extra="forbid", strict=True):
    width: Annotated[int, Field(gt=0)] = 4
    inner: Inner = Inner(size=1)

    @field_validator("width")
    @classmethod
    def _is_even(cls, width: int) -> int:
        if width % 2:
            raise ValueError("expected an even number")
        return width


class Net(nn.Module):
    def __init__(self, params: NetParams) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(params.width))


def test_the_public_names_are_pinned():
    """What the room offers is a decision, not an accident."""
    assert model_defs.__all__ == [
        "InvalidDefinition",
        "InvalidParams",
        "ModelDefinition",
        "ModelDefinitionError",
        "PluginFailed",
        "UnknownModel",
        "build",
        "definition",
        "load_plugin",
        "register_model",
        "registered",
    ]


def test_every_error_ends_a_command_with_2():
    """All four leaves are faults of a config or of a command line."""
    for error in (InvalidDefinition, UnknownModel, InvalidParams, PluginFailed):
        assert issubclass(error, ModelDefinitionError)
        assert issubclass(error, StateserveError)
        assert error.exit_code == 2


def test_importing_the_package_registers_its_architectures_in_sorted_order():
    """A YAML can name them without a plugin."""
    assert list(model_defs.registered()) == BUILT_IN


def test_registered_answers_with_a_snapshot_that_cannot_be_changed():
    """What is registered later is not in it, and nobody can write to it."""
    before = model_defs.registered()
    model_defs.register_model("net", params=NetParams)(Net)
    assert "net" not in before
    assert "net" in model_defs.registered()
    with pytest.raises(TypeError):
        before["other"] = before["mlp"]  # pyright: ignore[reportIndexIssue]


def test_a_definition_holds_the_name_the_params_and_the_class():
    """It is frozen, and decorating gives back the class itself."""
    assert model_defs.register_model("net", params=NetParams)(Net) is Net
    found = model_defs.definition("net")
    assert (found.name, found.params, found.module) == ("net", NetParams, Net)
    with pytest.raises(FrozenInstanceError):
        found.name = "other"  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("name", ["", "Net", "3d", "_net", "res-net", "net ", "net\n", "größe"])
def test_a_name_that_is_not_plain_is_refused(name):
    """It stands in paths and URLs: a-z, 0-9 and _ only, a letter first."""
    expected = f"cannot register {__name__}.Net as {name!r}: expected a name of a-z, 0-9 and _ that starts with a letter"
    with pytest.raises(InvalidDefinition, match=f"^{re.escape(expected)}$"):
        model_defs.register_model(name, params=NetParams)(Net)


def test_only_modules_can_be_registered():
    """A function that makes a module is not a class of modules."""
    with pytest.raises(InvalidDefinition) as caught:
        model_defs.register_model("net", params=NetParams)(Inner)  # pyright: ignore[reportArgumentType]
    assert str(caught.value) == f"cannot register {__name__}.Inner as 'net': expected a class that derives from torch.nn.Module"


def test_params_must_be_a_pydantic_model():
    """A dictionary or a dataclass would not be validated."""
    with pytest.raises(InvalidDefinition) as caught:
        model_defs.register_model("net", params=dict)(Net)  # pyright: ignore[reportArgumentType]
    assert str(caught.value) == (
        f"cannot register {__name__}.Net as 'net': "
        "its params are <class 'dict'>, expected a class that derives from pydantic.BaseModel"
    )


@pytest.mark.parametrize("config", [{}, {"frozen": True}, {"extra": "forbid"}, {"frozen": True, "extra": "allow"}])
def test_params_must_be_frozen_and_forbid_unknown_keys(config):
    """Otherwise a misspelt key would be dropped in silence."""
    loose = type("Loose", (BaseModel,), {"model_config": config, "__module__": __name__})
    with pytest.raises(InvalidDefinition) as caught:
        model_defs.register_model("net", params=loose)(Net)
    assert str(caught.value) == (
        f"cannot register {__name__}.Net as 'net': write class Loose(BaseModel, frozen=True, extra=\"forbid\"), "
        "so that params cannot change and an unknown key is an error"
    )


def test_a_name_is_registered_once():
    """The message names both classes, and the first one stays."""
    with pytest.raises(InvalidDefinition) as caught:
        model_defs.register_model("mlp", params=NetParams)(Net)
    assert str(caught.value) == (
        f"cannot register {__name__}.Net as 'mlp': the name is taken by model_defs.mlp.MLP; choose another name"
    )
    assert model_defs.definition("mlp").module is MLP


def test_an_unknown_name_is_answered_with_the_nearest_and_with_all():
    """The person sees the typing error and the choice."""
    with pytest.raises(UnknownModel) as caught:
        model_defs.definition("resnet19")
    assert str(caught.value) == (
        f"no model is called 'resnet19'; the nearest is resnet18; registered are {', '.join(BUILT_IN)}. "
        "A model of your own comes in by --plugin my_model.py"
    )


def test_an_unknown_name_that_is_near_none_is_answered_with_all():
    """No far-fetched guess is made."""
    with pytest.raises(UnknownModel) as caught:
        model_defs.build("gpt", {})
    assert str(caught.value) == (
        f"no model is called 'gpt'; registered are {', '.join(BUILT_IN)}. A model of your own comes in by --plugin my_model.py"
    )


def test_a_model_is_built_from_a_mapping_or_from_its_params():
    """Both give the same weights under the same seed."""
    torch.manual_seed(3)
    first = model_defs.build("mlp", {"in_features": 3, "hidden": [5], "out_features": 2})
    torch.manual_seed(3)
    second = model_defs.build("mlp", MLPParams(in_features=3, hidden=(5,), out_features=2))
    assert isinstance(first, MLP)
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_model_is_built_on_the_cpu_whatever_the_default_device():
    """A default device of the caller's does not leak into the model."""
    with torch.device("meta"):
        model = model_defs.build("mlp", {"in_features": 3, "out_features": 2})
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}


def test_every_wrong_param_has_its_line():
    """Path, value and what was expected; all at once, with pydantic's error as the cause."""
    with pytest.raises(InvalidParams) as caught:
        model_defs.build("mlp", {"hidden": [8, "16", 0], "out_features": True, "in_feature": 4})
    assert str(caught.value) == (
        "the params do not fit mlp:\n"
        "  params.in_features is missing, expected a value, since it has no default\n"
        "  params.hidden.1 is '16', expected a valid integer\n"
        "  params.hidden.2 is 0, expected greater than 0\n"
        "  params.out_features is True, expected a valid integer\n"
        "  params.in_feature is 4, expected no such key; the nearest is in_features; known are in_features, hidden, out_features"
    )
    assert caught.value.__cause__ is not None


def test_a_validator_speaks_in_its_own_words():
    """What a params model refuses by itself is shown with path and value; an unknown key inside a param has no hint."""
    model_defs.register_model("net", params=NetParams)(Net)
    with pytest.raises(InvalidParams) as caught:
        model_defs.build("net", {"width": 3, "inner": {"size": 1, "depth": 2}})
    assert str(caught.value) == (
        "the params do not fit net:\n"
        "  params.width is 3: expected an even number\n"
        "  params.inner.depth is 2, expected no such key"
    )


def test_params_of_another_model_are_refused():
    """Sharing field names is not enough."""
    with pytest.raises(InvalidParams, match=r"^the params do not fit mlp:\n  params is Inner\(size=1\), expected "):
        model_defs.build("mlp", Inner(size=1))


def test_restore_brings_back_what_registered_answered():
    """Nothing more, nothing less."""
    before = model_defs.registered()
    model_defs.register_model("net", params=NetParams)(Net)
    registry.restore(before)
    assert model_defs.registered() == before
