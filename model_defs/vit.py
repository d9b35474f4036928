"""Vision Transformer for images of one size.

Dosovitskiy et al., "An image is worth 16x16 words" (2020). The keys are torchvision's (`vit_b_16` and its kin), so its weights
load as they are; the defaults are those of `vit_b_16`. There is no dropout, which torchvision's networks have at zero.

Attention is written out instead of taken from `nn.MultiheadAttention`, whose fast path in eval mode changes what a capture sees;
its parameters keep that module's names.

Shapes: B batch, S image_size, P patch_size, N = (S / P)² patches, T = N + 1 tokens, D hidden_dim, A num_heads, K classes.
"""

from collections import OrderedDict
from typing import Self

import torch
from pydantic import BaseModel, PositiveInt, model_validator
from torch import Tensor, nn
from torch.nn.functional import linear, scaled_dot_product_attention

from model_defs.registry import register_model

NORM_EPS = 1e-6
"""Epsilon of every LayerNorm, as in the paper's own code and in torchvision (torch's default is 1e-5)."""


class ViTParams(BaseModel, frozen=True, extra="forbid", strict=True):
    """Sizes of a Vision Transformer; the names are torchvision's."""

    image_size: PositiveInt = 224
    patch_size: PositiveInt = 16
    num_layers: PositiveInt = 12
    num_heads: PositiveInt = 12
    hidden_dim: PositiveInt = 768
    mlp_dim: PositiveInt = 3072
    num_classes: PositiveInt = 1000

    @model_validator(mode="after")
    def _sizes_divide(self) -> Self:
        if self.image_size % self.patch_size:
            raise ValueError(f"image_size is {self.image_size}, expected a multiple of patch_size ({self.patch_size})")
        if self.hidden_dim % self.num_heads:
            raise ValueError(f"hidden_dim is {self.hidden_dim}, expected a multiple of num_heads ({self.num_heads})")
        return self


class SelfAttention(nn.Module):
    """Every token attends to every token; query, key and value are one matrix, stacked in this order."""

    def __init__(self, hidden_dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * hidden_dim, hidden_dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * hidden_dim))
        self.out_proj = nn.Linear(hidden_dim, hidden_dim)
        nn.init.xavier_uniform_(self.in_proj_weight)

    def forward(self, x: Tensor) -> Tensor:  # (B, T, D)
        """Tokens, (B, T, D)."""
        heads = linear(x, self.in_proj_weight, self.in_proj_bias).unflatten(2, (3, self.num_heads, -1))  # (B, T, 3, A, D / A)
        query, key, value = heads.permute(2, 0, 3, 1, 4).unbind(0)  # (B, A, T, D / A) each
        mixed = scaled_dot_product_attention(query, key, value)  # (B, A, T, D / A)
        return self.out_proj(mixed.transpose(1, 2).flatten(2))


class EncoderBlock(nn.Module):
    """Attention, then a two-layer perceptron, each normalised before and added to its input."""

    def __init__(self, params: ViTParams) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(params.hidden_dim, eps=NORM_EPS)
        self.self_attention = SelfAttention(params.hidden_dim, params.num_heads)
        self.ln_2 = nn.LayerNorm(params.hidden_dim, eps=NORM_EPS)
        self.mlp = nn.Sequential(
            OrderedDict(  # the names are torchvision's, where 2 and 4 are dropouts
                [
                    ("0", nn.Linear(params.hidden_dim, params.mlp_dim)),
                    ("1", nn.GELU()),
                    ("3", nn.Linear(params.mlp_dim, params.hidden_dim)),
                ]
            )
        )

    def forward(self, x: Tensor) -> Tensor:  # (B, T, D)
        """Tokens, (B, T, D)."""
        x = x + self.self_attention(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class Encoder(nn.Module):
    """Learned positions, the blocks, and a last normalisation."""

    def __init__(self, params: ViTParams) -> None:
        super().__init__()
        tokens = (params.image_size // params.patch_size) ** 2 + 1
        self.pos_embedding = nn.Parameter(torch.empty(1, tokens, params.hidden_dim).normal_(std=0.02))
        blocks = ((f"encoder_layer_{index}", EncoderBlock(params)) for index in range(params.num_layers))
        self.layers = nn.Sequential(OrderedDict(blocks))
        self.ln = nn.LayerNorm(params.hidden_dim, eps=NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:  # (B, T, D)
        """Tokens, (B, T, D)."""
        return self.ln(self.layers(x + self.pos_embedding))


@register_model("vit", params=ViTParams)
class ViT(nn.Module):
    """Classifies an image by the class token that its patches were encoded with."""

    def __init__(self, params: ViTParams) -> None:
        super().__init__()
        self.image_size = params.image_size
        self.class_token = nn.Parameter(torch.zeros(1, 1, params.hidden_dim))
        self.conv_proj = nn.Conv2d(3, params.hidden_dim, params.patch_size, stride=params.patch_size)
        self.encoder = Encoder(params)
        self.heads = nn.Sequential(OrderedDict(head=nn.Linear(params.hidden_dim, params.num_classes)))

    def forward(self, image: Tensor) -> Tensor:  # (B, 3, S, S)
        """The logits, (B, K).

        Raises:
            ValueError: the image is not of the size that the positions were made for (a traced model does not ask).
        """
        tracing = torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]  documented, and missing from torch.jit's __all__
        if not tracing and image.shape[2:] != (self.image_size, self.image_size):
            raise ValueError(f"image is {tuple(image.shape)}, expected (batch, 3, {self.image_size}, {self.image_size})")
        patches = self.conv_proj(image).flatten(2).transpose(1, 2)  # (B, N, D)
        class_token = self.class_token.expand(patches.shape[0], -1, -1)  # (B, 1, D)
        tokens = self.encoder(torch.cat([class_token, patches], dim=1))  # (B, T, D)
        return self.heads(tokens[:, 0])
