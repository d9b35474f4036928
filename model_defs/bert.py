"""BERT's encoder with mean pooling: a text's embedding.

Devlin et al., "BERT: Pre-training of deep bidirectional transformers" (2018); the mean over the tokens that the mask keeps is
from Reimers and Gurevych, "Sentence-BERT" (2019). The keys are those of Hugging Face's `BertModel`, without its pooler (skip
`pooler.*` of a file that has one). There is no dropout: it belongs to training.

Shapes: B batch, S sequence, D hidden_size, A num_attention_heads.
"""

from typing import Annotated, Self

import torch
from pydantic import BaseModel, Field, PositiveInt, model_validator
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

from model_defs.registry import register_model


class BertParams(BaseModel, frozen=True, extra="forbid", strict=True):
    """Sizes of a BERT; names and defaults are those of Hugging Face's `BertConfig` (bert-base-uncased)."""

    vocab_size: PositiveInt = 30522
    hidden_size: PositiveInt = 768
    num_hidden_layers: PositiveInt = 12
    num_attention_heads: PositiveInt = 12
    intermediate_size: PositiveInt = 3072
    max_position_embeddings: PositiveInt = 512
    type_vocab_size: PositiveInt = 2
    layer_norm_eps: Annotated[float, Field(gt=0, lt=1)] = 1e-12

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.hidden_size % self.num_attention_heads:
            expected = f"expected a multiple of num_attention_heads ({self.num_attention_heads})"
            raise ValueError(f"hidden_size is {self.hidden_size}, {expected}")
        return self


class Embeddings(nn.Module):
    """What a token is, where it stands, and its type, which is always 0 here."""

    def __init__(self, params: BertParams) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(params.vocab_size, params.hidden_size)
        self.position_embeddings = nn.Embedding(params.max_position_embeddings, params.hidden_size)
        self.token_type_embeddings = nn.Embedding(params.type_vocab_size, params.hidden_size)
        self.LayerNorm = nn.LayerNorm(params.hidden_size, eps=params.layer_norm_eps)

    def forward(self, input_ids: Tensor) -> Tensor:  # (B, S)
        """Tokens, (B, S, D)."""
        positions = torch.ones_like(input_ids[0]).cumsum(0) - 1  # (S,); an arange would fix the device in a traced model
        x = self.word_embeddings(input_ids) + self.token_type_embeddings.weight[0]  # (B, S, D)
        return self.LayerNorm(x + self.position_embeddings(positions))


class Attention(nn.Module):
    """Every token attends to every token that the mask keeps."""

    def __init__(self, params: BertParams) -> None:
        super().__init__()
        self.num_heads = params.num_attention_heads
        self.query = nn.Linear(params.hidden_size, params.hidden_size)
        self.key = nn.Linear(params.hidden_size, params.hidden_size)
        self.value = nn.Linear(params.hidden_size, params.hidden_size)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:  # (B, S, D), (B, 1, 1, S)
        """Tokens, (B, S, D); the bias is added to every head's scores."""
        query, key, value = self._heads(self.query(x)), self._heads(self.key(x)), self._heads(self.value(x))
        mixed = scaled_dot_product_attention(query, key, value, attn_mask=bias)  # (B, A, S, D / A)
        return mixed.transpose(1, 2).flatten(2)

    def _heads(self, x: Tensor) -> Tensor:  # (B, S, D)
        return x.unflatten(2, (self.num_heads, -1)).transpose(1, 2)  # (B, A, S, D / A)


class AddAndNorm(nn.Module):
    """A linear layer whose result is added to what the sublayer was given, then normalised."""

    def __init__(self, inputs: int, params: BertParams) -> None:
        super().__init__()
        self.dense = nn.Linear(inputs, params.hidden_size)
        self.LayerNorm = nn.LayerNorm(params.hidden_size, eps=params.layer_norm_eps)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:  # (B, S, inputs), (B, S, D)
        """Tokens, (B, S, D)."""
        return self.LayerNorm(self.dense(x) + residual)


class Layer(nn.Module):
    """Attention, then a two-layer perceptron, each added to its input and normalised after."""

    def __init__(self, params: BertParams) -> None:
        super().__init__()
        self.attention = nn.ModuleDict({"self": Attention(params), "output": AddAndNorm(params.hidden_size, params)})
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(params.hidden_size, params.intermediate_size)})
        self.output = AddAndNorm(params.intermediate_size, params)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:  # (B, S, D), (B, 1, 1, S)
        """Tokens, (B, S, D)."""
        x = self.attention["output"](self.attention["self"](x, bias), x)
        return self.output(gelu(self.intermediate["dense"](x)), x)


class Encoder(nn.Module):
    """The layers, one after another."""

    def __init__(self, params: BertParams) -> None:
        super().__init__()
        self.layer = nn.ModuleList(Layer(params) for _ in range(params.num_hidden_layers))

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:  # (B, S, D), (B, 1, 1, S)
        """Tokens, (B, S, D)."""
        for layer in self.layer:
            x = layer(x, bias)
        return x


@register_model("bert", params=BertParams)
class Bert(nn.Module):
    """Embeds a text: the mean of its encoded tokens."""

    def __init__(self, params: BertParams) -> None:
        super().__init__()
        self.max_sequence = params.max_position_embeddings
        self.embeddings = Embeddings(params)
        self.encoder = Encoder(params)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:  # (B, S) int64, (B, S) int64: 1 keeps, 0 masks
        """The embedding, (B, D), of unpadded and padded texts alike; zero for a text whose mask keeps no token.

        Raises:
            ValueError: the sequence is longer than the table of positions (a traced model raises IndexError instead).
            IndexError: a token is outside the vocabulary.
        """
        tracing = torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]  documented, and missing from torch.jit's __all__
        if not tracing and input_ids.shape[1] > self.max_sequence:
            shape = tuple(input_ids.shape)
            raise ValueError(f"input_ids is {shape}, expected (batch, sequence) with a sequence of at most {self.max_sequence}")
        x = self.embeddings(input_ids)  # (B, S, D)
        keep = attention_mask.to(x.dtype)  # (B, S)
        # The lowest finite number rather than -inf: where all tokens are masked, the weights are then equal instead of NaN.
        bias = (1 - keep)[:, None, None, :] * torch.finfo(x.dtype).min  # (B, 1, 1, S)
        x = self.encoder(x, bias)  # (B, S, D)
        total = (x * keep[:, :, None]).sum(1)  # (B, D)
        return total / keep.sum(1, keepdim=True).clamp(min=1)
