"""Trains ResNet-18 to tell the digit on a picture, and keeps its checkpoints in a folder.

python examples/images/train.py [FOLDER]

What is done to a picture before the model sees it is `prepare`, in plain Pillow and NumPy. pictures.yaml declares the same, so
that the server does it too.
"""

import io
import sys
from pathlib import Path

import numpy as np
import torch
from pictures import pictures
from PIL import Image, ImageOps
from torch import Tensor, nn

import model_defs
from checkpoints import Batches, Best, Keeper, Last

CONFIG = Path(__file__).with_name("pictures.yaml")
KEPT = Path(__file__).with_name("kept")
EPOCHS = 4
SHORT, SIZE = 36, 32
MEAN, STD = np.full((2, 3), 0.5, np.float32)


def prepare(file: bytes) -> np.ndarray:
    """A picture's file -> (3, 32, 32) float32: upright, the short side 36 pixels, the middle of it, normalised."""
    picture = ImageOps.exif_transpose(Image.open(io.BytesIO(file))).convert("RGB")
    width, height = picture.size
    size = (SHORT, SHORT * height // width) if width <= height else (SHORT * width // height, SHORT)
    picture = picture.resize(size, Image.Resampling.BILINEAR)
    left, top = (round((side - SIZE) / 2) for side in size)
    pixels = np.asarray(picture.crop((left, top, left + SIZE, top + SIZE)), np.float32) / 255  # (H, W, C)
    return ((pixels - MEAN) / STD).transpose(2, 0, 1)


def prepared(files: list[bytes]) -> Tensor:
    """All pictures (N, 3, 32, 32)."""
    return torch.from_numpy(np.stack([prepare(file) for file in files]))


def probabilities(model: nn.Module, images: Tensor) -> Tensor:
    """The probability of every digit (N, 10), in eval mode."""
    model.eval()
    with torch.inference_mode():
        return torch.cat([model(part).softmax(1) for part in images.split(64)])


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """The share of pictures whose digit the model tells."""
    return (probabilities(model, images).argmax(1) == labels).double().mean().item()


def train(directory: Path, epochs: int = EPOCHS, drawings: int = 3) -> None:
    """Trains, or goes on with what was begun in `directory`; best.pth is of the epoch that was best in validation."""
    torch.manual_seed(0)
    training, validation, _ = pictures(drawings)
    images, labels = prepared(training.files), torch.from_numpy(training.labels)
    judged = prepared(validation.files), torch.from_numpy(validation.labels)
    model = model_defs.build("resnet18", {"num_classes": 10})
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    batches = Batches(len(labels), batch_size=64, seed=0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=epochs * len(batches))
    with Keeper(directory, Best("val_acc", mode="max"), Last(1), config=CONFIG) as keeper:
        keeper.resume(model, optimizer, schedule, extra={"batches": batches})
        for epoch in range(batches.epoch, epochs):
            model.train()
            for indices in batches:
                loss = nn.functional.cross_entropy(model(images[indices]), labels[indices])
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
