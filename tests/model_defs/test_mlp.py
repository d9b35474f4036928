"""mlp: its keys, and its numbers written out as matrix products."""

import torch

import model_defs


def test_the_keys_are_those_of_a_sequential_under_layers():
    """The ReLUs stand at the odd places and have no keys."""
    model = model_defs.build("mlp", {"in_features": 5, "hidden": [7, 6], "out_features": 3})
    assert {key: tuple(value.shape) for key, value in model.state_dict().items()} == {
        "layers.0.weight": (7, 5),
        "layers.0.bias": (7,),
        "layers.2.weight": (6, 7),
        "layers.2.bias": (6,),
        "layers.4.weight": (3, 6),
        "layers.4.bias": (3,),
    }


def test_the_numbers_are_matrix_products_with_relu_between():
    """The last layer has no activation."""
    model = model_defs.build("mlp", {"in_features": 5, "hidden": [7], "out_features": 3})
    first, first_bias, last, last_bias = model.parameters()
    x = torch.randn(4, 5)
    expected = torch.clamp(x @ first.T + first_bias, min=0) @ last.T + last_bias
    torch.testing.assert_close(model(x), expected)


def test_without_hidden_layers_it_is_linear():
    """An empty list, which is also the default, leaves one layer."""
    model = model_defs.build("mlp", {"in_features": 5, "out_features": 3})
    assert list(model.state_dict()) == ["layers.0.weight", "layers.0.bias"]
