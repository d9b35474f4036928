"""vit: torchvision's layout, and torch's own attention and encoder layer as references."""

import re

import pytest
import torch
from torch import nn

import model_defs
from model_defs import InvalidParams
from model_defs.vit import EncoderBlock, SelfAttention, ViTParams

SMALL = ViTParams(image_size=32, patch_size=8, num_layers=2, num_heads=4, hidden_dim=32, mlp_dim=64, num_classes=7)
BLOCK = {  # a block of vit_b_16
    "ln_1.weight": (768,),
    "ln_1.bias": (768,),
    "self_attention.in_proj_weight": (2304, 768),
    "self_attention.in_proj_bias": (2304,),
    "self_attention.out_proj.weight": (768, 768),
    "self_attention.out_proj.bias": (768,),
    "ln_2.weight": (768,),
    "ln_2.bias": (768,),
    "mlp.0.weight": (3072, 768),
    "mlp.0.bias": (3072,),
    "mlp.3.weight": (768, 3072),
    "mlp.3.bias": (768,),
}


def test_the_layout_is_torchvisions_vit_b_16():
    """152 entries, 86,567,656 parameters, the same keys in the same order."""
    with torch.device("meta"):
        model = model_defs.definition("vit").module(ViTParams())
    expected = {"class_token": (1, 1, 768), "conv_proj.weight": (768, 3, 16, 16), "conv_proj.bias": (768,)}
    expected["encoder.pos_embedding"] = (1, 197, 768)
    for layer in range(12):
        expected |= {f"encoder.layers.encoder_layer_{layer}.{key}": shape for key, shape in BLOCK.items()}
    expected |= {"encoder.ln.weight": (768,), "encoder.ln.bias": (768,)}
    expected |= {"heads.head.weight": (1000, 768), "heads.head.bias": (1000,)}
    found = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    assert list(found.items()) == list(expected.items())
    assert len(found) == 152
    assert sum(parameter.numel() for parameter in model.parameters()) == 86_567_656


@torch.no_grad()
def test_attention_is_that_of_torch():
    """The same weights under the same names give what nn.MultiheadAttention gives."""
    torch.manual_seed(0)
    ours = SelfAttention(32, 4)
    ours.in_proj_bias.normal_()
    theirs = nn.MultiheadAttention(32, 4, batch_first=True)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(3, 5, 32)
    torch.testing.assert_close(ours(x), theirs(x, x, x, need_weights=False)[0])


@torch.no_grad()
def test_a_block_is_torchs_encoder_layer_that_normalises_first():
    """With the exact GELU and an epsilon of 1e-6."""
    torch.manual_seed(0)
    ours = EncoderBlock(SMALL)
    for parameter in ours.parameters():
        parameter.normal_(std=0.2)
    theirs = nn.TransformerEncoderLayer(32, 4, 64, 0, "gelu", 1e-6, batch_first=True, norm_first=True)
    renamed = {"ln_1": "norm1", "ln_2": "norm2", "self_attention": "self_attn", "mlp.0": "linear1", "mlp.3": "linear2"}
    pattern = re.compile("|".join(map(re.escape, renamed)))
    theirs.load_state_dict({pattern.sub(lambda found: renamed[found[0]], key): value for key, value in ours.state_dict().items()})
    x = 1e-3 * torch.randn(3, 5, 32)  # so small that the epsilon tells
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_the_class_token_stands_first_and_the_patches_follow_row_by_row():
    """What enters the first block, less the positions, is the class token and then each patch's projection."""
    torch.manual_seed(0)
    model = model_defs.build("vit", SMALL).eval()
    seen = []
    model.get_submodule("encoder.layers").register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
    image = torch.randn(1, 3, 32, 32)
    model(image)
    tokens = seen[0] - model.get_parameter("encoder.pos_embedding")
    torch.testing.assert_close(tokens[:, 0], model.get_parameter("class_token")[0])
    patch = image[:, :, 8:16, 16:24].flatten(1)  # the second row's third: 1 + 1 * 4 + 2
    weight, bias = model.get_parameter("conv_proj.weight"), model.get_parameter("conv_proj.bias")
    torch.testing.assert_close(tokens[:, 7], patch @ weight.flatten(1).T + bias)


@torch.no_grad()
def test_the_logits_come_from_the_class_token_normalised():
    """The head sees no patch, and the last normalisation has an epsilon of 1e-6 too."""
    torch.manual_seed(0)
    model = model_defs.build("vit", SMALL).eval()
    tokens = 1e-3 * torch.randn(2, 17, 32)  # so small that the epsilon tells
    model.get_submodule("encoder.layers").register_forward_hook(lambda *_: tokens)
    expected = nn.functional.layer_norm(tokens[:, 0], (32,), eps=1e-6)
    expected = nn.functional.linear(expected, model.get_parameter("heads.head.weight"), model.get_parameter("heads.head.bias"))
    torch.testing.assert_close(model(torch.zeros(2, 3, 32, 32)), expected)


@pytest.mark.parametrize("size", [(33, 33), (32, 40), (64, 64), (16, 16)])
def test_another_size_of_image_is_refused(size):
    """33x33 would otherwise lose its last row and column in silence."""
    model = model_defs.build("vit", SMALL).eval()
    with pytest.raises(ValueError, match=rf"^image is \(2, 3, {size[0]}, {size[1]}\), expected \(batch, 3, 32, 32\)$"):
        model(torch.zeros(2, 3, *size))


def test_sizes_that_do_not_divide_are_refused():
    """Both numbers are in the message."""
    with pytest.raises(InvalidParams) as caught:
        model_defs.build("vit", {"image_size": 225})
    assert str(caught.value) == (
        "the params do not fit vit:\n  params: image_size is 225, expected a multiple of patch_size (16)"
    )
    with pytest.raises(InvalidParams) as caught:
        model_defs.build("vit", {"num_heads": 7})
    assert str(caught.value) == "the params do not fit vit:\n  params: hidden_dim is 768, expected a multiple of num_heads (7)"
