"""bert: Hugging Face's layout, torch's own encoder layer as a reference, and what masks and positions do."""

import pytest
import torch
from torch import nn

import model_defs
from model_defs import InvalidParams
from model_defs.bert import BertParams, Layer

SMALL = BertParams(
    vocab_size=50,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=64,
    max_position_embeddings=12,
)
LAYER = {  # a layer of bert-base-uncased
    "attention.self.query": (768, 768),
    "attention.self.key": (768, 768),
    "attention.self.value": (768, 768),
    "attention.output.dense": (768, 768),
    "attention.output.LayerNorm": (768,),
    "intermediate.dense": (3072, 768),
    "output.dense": (768, 3072),
    "output.LayerNorm": (768,),
}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return model_defs.build("bert", SMALL).eval()


def test_the_layout_is_hugging_faces_without_the_pooler():
    """bert-base-uncased has 199 tensors with its pooler's weight and bias, so 197 here; positions are no buffer."""
    with torch.device("meta"):
        model = model_defs.definition("bert").module(BertParams())
    expected: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (30522, 768),
        "embeddings.position_embeddings.weight": (512, 768),
        "embeddings.token_type_embeddings.weight": (2, 768),
        "embeddings.LayerNorm.weight": (768,),
        "embeddings.LayerNorm.bias": (768,),
    }
    for layer in range(12):
        for name, shape in LAYER.items():
            expected[f"encoder.layer.{layer}.{name}.weight"] = shape
            expected[f"encoder.layer.{layer}.{name}.bias"] = shape[:1]
    found = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    assert list(found.items()) == list(expected.items())
    assert len(found) == 197
    assert list(model.buffers()) == []


@torch.no_grad()
def test_a_layer_is_torchs_encoder_layer_that_normalises_last():
    """With the exact GELU, an epsilon of 1e-12, and padding that no token attends to."""
    torch.manual_seed(0)
    ours = Layer(SMALL)
    for parameter in ours.parameters():
        parameter.normal_(std=0.2)
    weights = ours.state_dict()
    theirs = nn.TransformerEncoderLayer(32, 4, 64, 0, "gelu", 1e-12, batch_first=True)
    mapped = {}
    for kind in ("weight", "bias"):
        qkv = [weights[f"attention.self.{name}.{kind}"] for name in ("query", "key", "value")]
        mapped[f"self_attn.in_proj_{kind}"] = torch.cat(qkv)
        mapped[f"self_attn.out_proj.{kind}"] = weights[f"attention.output.dense.{kind}"]
        mapped[f"norm1.{kind}"] = weights[f"attention.output.LayerNorm.{kind}"]
        mapped[f"linear1.{kind}"] = weights[f"intermediate.dense.{kind}"]
        mapped[f"linear2.{kind}"] = weights[f"output.dense.{kind}"]
        mapped[f"norm2.{kind}"] = weights[f"output.LayerNorm.{kind}"]
    theirs.load_state_dict(mapped)
    x = torch.randn(3, 5, 32)
    padding = torch.tensor([[False] * 5, [False] * 3 + [True] * 2, [False] + [True] * 4])
    bias = torch.zeros(3, 1, 1, 5).masked_fill(padding[:, None, None, :], torch.finfo(torch.float32).min)
    torch.testing.assert_close(ours(x, bias), theirs(x, src_key_padding_mask=padding), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_embeddings_are_word_plus_position_plus_type_zero(model):
    """Then normalised; positions count from 0 in every row."""
    ids = torch.tensor([[4, 9, 4], [1, 1, 1]])
    word, position, kind = (
        model.embeddings.get_parameter(f"{name}_embeddings.weight") for name in ("word", "position", "token_type")
    )
    expected = nn.functional.layer_norm(word[ids] + position[:3] + kind[0], (32,), eps=1e-12)
    torch.testing.assert_close(model.embeddings(ids), expected)


@torch.no_grad()
def test_the_embedding_is_the_mean_of_the_tokens_that_the_mask_keeps(model):
    """Taken over the encoder's last tokens."""
    seen = []
    model.encoder.register_forward_hook(lambda _module, _args, output: seen.append(output))
    found = model(torch.tensor([[4, 9, 7, 2]]), torch.tensor([[1, 1, 0, 1]]))
    torch.testing.assert_close(found, seen[0][:, [0, 1, 3]].mean(1))


@torch.no_grad()
def test_padding_changes_nothing(model):
    """A text alone and the same text padded with any tokens have the same embedding."""
    ids = torch.tensor([[4, 9, 7]])
    padded = torch.tensor([[4, 9, 7, 33, 0, 21]])
    alone = model(ids, torch.ones_like(ids))
    torch.testing.assert_close(model(padded, torch.tensor([[1, 1, 1, 0, 0, 0]])), alone)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_text_without_tokens_is_zero_and_harms_no_neighbour(model, dtype):
    """An all-zero row of the mask gives zeros, not NaN."""
    ids = torch.randint(0, 50, (2, 5))
    mask = torch.tensor([[0] * 5, [1] * 5])
    found = model.to(dtype)(ids, mask)
    assert torch.equal(found[0], torch.zeros(32, dtype=dtype))
    torch.testing.assert_close(found[1:], model(ids[1:], mask[1:]))


def test_a_sequence_longer_than_the_positions_is_refused(model):
    """It is neither clamped nor wrapped; the longest that fits is accepted."""
    ids = torch.zeros(2, 13, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"^input_ids is \(2, 13\), expected \(batch, sequence\) with a sequence of at most 12$"):
        model(ids, torch.ones_like(ids))
    assert model(ids[:, :12], torch.ones_like(ids[:, :12])).shape == (2, 32)


def test_a_token_outside_the_vocabulary_is_refused(model):
    """It is neither clamped nor wrapped."""
    ids = torch.tensor([[50]])
    with pytest.raises(IndexError):
        model(ids, torch.ones_like(ids))


def test_heads_that_do_not_divide_are_refused():
    """Both numbers are in the message."""
    with pytest.raises(InvalidParams) as caught:
        model_defs.build("bert", {"num_attention_heads": 7})
    assert str(caught.value) == (
        "the params do not fit bert:\n  params: hidden_size is 768, expected a multiple of num_attention_heads (7)"
    )


def test_an_epsilon_that_yaml_took_for_a_text_is_refused():
    """YAML 1.1 reads 1e-12, without a point, as a string."""
    with pytest.raises(InvalidParams) as caught:
        model_defs.build("bert", {"layer_norm_eps": "1e-12"})
    assert str(caught.value) == "the params do not fit bert:\n  params.layer_norm_eps is '1e-12', expected a valid number"
