"""Trains `digits_cnn` on the UCI digits that come with scikit-learn, and saves best.pth as training loops do.

python examples/digits/train.py [PATH]
"""

import sys
from pathlib import Path
from typing import NamedTuple

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

import model_defs

CONFIG = {"lr": 2e-3, "batch_size": 64, "epochs": 30, "seed": 0}
BEST = Path(__file__).parent / "best.pth"


class Digits(NamedTuple):
    """Images (N, 1, 8, 8) float32 in [0, 1], and which digit each shows (N,) int64."""

    images: Tensor
    labels: Tensor


def digits() -> tuple[Digits, Digits, Digits]:
    """The 1,797 digits: for training, for choosing the best epoch, and held out for the test (60, 20, 20 %)."""
    pixels, targets = load_digits(return_X_y=True)
    images = torch.from_numpy(pixels).to(torch.float32).reshape(-1, 1, 8, 8) / 16
    labels = torch.from_numpy(targets).to(torch.int64)
    train, rest = train_test_split(range(len(labels)), test_size=0.4, random_state=0, stratify=labels)
    validation, test = train_test_split(rest, test_size=0.5, random_state=0, stratify=labels[rest])
    parts = [Digits(images[indices], labels[indices]) for indices in (train, validation, test)]
    return parts[0], parts[1], parts[2]


def accuracy(model: nn.Module, data: Digits) -> float:
    """The share of digits that the model tells, in eval mode."""
    model.eval()
    with torch.inference_mode():
        return (model(data.images).argmax(1) == data.labels).double().mean().item()


def train(path: Path) -> float:
    """Trains, keeps the epoch that is best on the validation digits at `path`, and returns its accuracy there."""
    torch.manual_seed(CONFIG["seed"])
    training, validation, _ = digits()
    model = model_defs.build("digits_cnn", {})
    optimizer = torch.optim.AdamW(model.parameters(), lr=CONFIG["lr"])
    best_acc = 0.0
    for epoch in range(CONFIG["epochs"]):
        model.train()
        for batch in torch.randperm(len(training.labels)).split(CONFIG["batch_size"]):
            loss = nn.functional.cross_entropy(model(training.images[batch]), training.labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        reached = accuracy(model, validation)
        if reached > best_acc:
            best_acc = reached
            state = {
                "epoch": epoch,
                "model_state_dict": model.state_dict(),
                "optimizer_state_dict": optimizer.state_dict(),
                "best_acc": best_acc,
                "config": CONFIG,
            }
            torch.save(state, path)
    return best_acc


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else BEST
    print(f"best validation accuracy {train(target):.4f}, saved as {target}")
