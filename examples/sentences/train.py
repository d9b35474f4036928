"""Trains a tokenizer and a small BERT to tell which library a sentence documents, and keeps the checkpoints in a folder.

python examples/sentences/train.py [FOLDER]

What is done to a sentence before the model sees it is `encode`, with the tokenizers package. sentences.yaml declares the same, so
that the server does it too. It names tokenizer.json, which is learned first and lies beside it; the Keeper carries both.
"""

import sys
from pathlib import Path

import torch
import yaml
from sentences import sentences
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor, nn

import model_defs
from checkpoints import Batches, Best, Keeper, Last

CONFIG = Path(__file__).with_name("sentences.yaml")
PLUGIN = Path(__file__).with_name("model.py")
KEPT = Path(__file__).with_name("kept")
TOKENIZER = Path(__file__).with_name("tokenizer.json")
EPOCHS = 6
MAX_TOKENS = 64
VOCABULARY = 4000
FORGOTTEN = 0.2
"""The share of a training sentence's tokens that is replaced by [UNK]: so no single rare word decides."""


def build() -> nn.Module:
    """The model, as sentences.yaml describes it."""
    model_defs.load_plugin(str(PLUGIN))
    model = yaml.safe_load(CONFIG.read_text("utf-8"))["model"]
    return model_defs.build(model["name"], model["params"])


def train_tokenizer(texts: list[str]) -> Tokenizer:
    """A lower-case WordPiece tokenizer of 4,000 pieces, as BERT's, learned from the training sentences."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))  # noqa: S106 - no password
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    trainer = trainers.WordPieceTrainer(vocab_size=VOCABULARY, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer


def encode(tokenizer: Tokenizer, texts: list[str]) -> tuple[Tensor, Tensor]:
    """Tokens and mask, (N, S) int64 each: at most 64 tokens, the shorter sentences filled up to the longest."""
    tokenizer.enable_truncation(MAX_TOKENS)
    tokenizer.enable_padding(pad_id=0, pad_token="[PAD]")  # noqa: S106 - no password
    encoded = tokenizer.encode_batch(texts)
    return torch.tensor([one.ids for one in encoded]), torch.tensor([one.attention_mask for one in encoded])


def probabilities(model: nn.Module, tokens: tuple[Tensor, Tensor]) -> Tensor:
    """The probability of every library (N, 3), in eval mode."""
    model.eval()
    with torch.inference_mode():
        return torch.cat([model(*part).softmax(1) for part in zip(*(tensor.split(200) for tensor in tokens), strict=True)])


def accuracy(model: nn.Module, tokens: tuple[Tensor, Tensor], labels: Tensor) -> float:
    """The share of sentences whose library the model tells."""
    return (probabilities(model, tokens).argmax(1) == labels).double().mean().item()


def train(directory: Path, epochs: int = EPOCHS) -> None:
    """Trains, or goes on with what was begun in `directory`; best.pth is of the epoch that was best in validation."""
    torch.manual_seed(0)
    training, validation, _ = sentences()
    begun = directory / TOKENIZER.name  # a training that goes on needs the tokenizer that it began with
    tokenizer = Tokenizer.from_file(str(begun)) if begun.is_file() else train_tokenizer(training.texts)
    tokenizer.save(str(TOKENIZER))
    (tokens, mask), labels = encode(tokenizer, training.texts), torch.from_numpy(training.labels)
    judged = encode(tokenizer, validation.texts), torch.from_numpy(validation.labels)
    model = build()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    batches = Batches(len(labels), batch_size=32, seed=0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=epochs * len(batches))
    with Keeper(directory, Best("val_acc", mode="max"), Last(1), config=CONFIG) as keeper:
        keeper.resume(model, optimizer, schedule, extra={"batches": batches})
        for epoch in range(batches.epoch, epochs):
            model.train()
            for indices in batches:
                length = int(mask[indices].sum(1).max())
                given, kept = tokens[indices, :length], mask[indices, :length]
                given = torch.where(torch.rand(given.shape) < FORGOTTEN, 1, given)
                loss = nn.functional.cross_entropy(model(given, kept), labels[indices])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
            reached = accuracy(model, *judged)
            step = (epoch + 1) * len(batches)
            keeper.save(step, model, optimizer, schedule, epoch=epoch, metrics={"val_acc": reached}, extra={"batches": batches})
            print(f"epoch {epoch}: validation accuracy {reached:.4f}", flush=True)


if __name__ == "__main__":
    train(Path(sys.argv[1]) if len(sys.argv) > 1 else KEPT)
