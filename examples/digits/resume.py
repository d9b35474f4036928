"""Train, get killed, resume, export, serve: and the numbers are those of a training that was never interrupted.

    python examples/digits/resume.py [DIRECTORY]

Trains a digits classifier twice: once without interruption, and once in a process that is ended by `kill -9` in the middle and
started again. Then exports the second one's best.pth, serves it, and asks about every held-out digit over HTTP. Ends with 0 only
if both trainings have the same weights, bit for bit, and the server tells the same digits as PyTorch. Everything lies in
DIRECTORY (a temporary one, if none is given), and no process is left behind.
"""

import contextlib
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from demo import ask, free_port, server
from torch import Tensor, nn
from train import digits

import checkpoints
import model_defs
from checkpoints import Batches, Best, EveryEpochs, Keeper, Last

CONFIG = Path(__file__).with_name("best.yaml")
EPOCHS = 10
SAVE_EVERY_STEPS = 11
TOLERANCE = 1e-5
"""How far a logit of the server may be from PyTorch's: another engine rounds otherwise (docs/export.md)."""


# ---- the training: what a person writes ----


def train(directory: Path) -> nn.Module:
    """Trains, or goes on with what was begun in `directory`, and returns the model after the last epoch."""
    torch.manual_seed(0)
    training, validation, _ = digits()
    model = model_defs.build("digits_cnn", {})
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)
    batches = Batches(len(training.labels), batch_size=64, seed=0)
    with Keeper(directory, Best("val_acc", mode="max"), EveryEpochs(5), Last(2), config=CONFIG) as keeper:
        resumed = keeper.resume(model, optimizer, scheduler, extra={"batches": batches})
        say(f"resumed from {resumed.name}: step {resumed.step}" if resumed else "nothing to resume: a new training")
        step = resumed.step if resumed else 0
        for epoch in range(batches.epoch, EPOCHS):
            model.train()
            for indices in batches:
                loss = nn.functional.cross_entropy(model(training.images[indices]), training.labels[indices])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                step += 1
                if step % SAVE_EVERY_STEPS == 0:
                    keeper.save(step, model, optimizer, scheduler, extra={"batches": batches})
            scheduler.step()
            accuracy = share(told(model, validation.images), validation.labels)
            keeper.save(step, model, optimizer, scheduler, epoch=epoch, metrics={"val_acc": accuracy}, extra={"batches": batches})
            say(f"epoch {epoch}: val_acc {accuracy:.4f}")
    return model


def told(model: nn.Module, images: Tensor) -> Tensor:
    """The model's logits (N, 10), in eval mode."""
    model.eval()
    with torch.inference_mode():
        return model(images)


def share(logits: Tensor, labels: Tensor) -> float:
    """The share of digits that are told right."""
    return (logits.argmax(1) == labels).double().mean().item()


def say(line: str) -> None:
    """Prints a line at once: another process may wait for it."""
    print(f"   {line}", flush=True)


# ---- the whole way ----


def main(directory: Path) -> int:
    """Runs the demo; the exit code says whether all numbers are equal."""
    kept = directory / "kept"
    print(f"1. train without interruption: {EPOCHS} epochs", flush=True)
    with contextlib.redirect_stdout(None):
        straight = train(directory / "straight")
    print("2. train again, in a process that is killed (-9) in the middle", flush=True)
    kill_in_the_middle(kept)
    print("3. start it again: it resumes", flush=True)
    subprocess.run([sys.executable, __file__, "--train", str(kept)], check=True)
    resumed = checkpoints.read(kept / "latest.pth").select(None).tensors
    same = all(torch.equal(tensor, resumed[name]) for name, tensor in straight.state_dict().items())
    print(f"   weights after the last epoch, beside those of step 1: {'equal, bit for bit' if same else 'NOT EQUAL'}")
    print("4. export: python -m export --ckpt kept/best.pth", flush=True)
    export(kept / "best.pth", directory / "models")
    print("5. serve, and ask about every held-out digit over HTTP", flush=True)
    return 0 if same & agrees(kept / "best.pth", directory / "models") else 1


def kill_in_the_middle(directory: Path) -> None:
    """Starts a training, and kills it at a random moment after half of its epochs, whatever it is writing."""
    process = subprocess.Popen([sys.executable, __file__, "--train", str(directory)], stdout=subprocess.PIPE, text=True)
    with process, contextlib.closing(process.stdout or sys.stdin) as lines:
        for line in lines:
            print(line, end="", flush=True)
            if line.strip().startswith(f"epoch {EPOCHS // 2}:"):
                time.sleep(random.uniform(0, 0.2))  # noqa: S311 - any moment will do
                process.kill()
                break
    if process.returncode != -signal.SIGKILL:
        raise SystemExit(f"the training ended with exit code {process.returncode} before it was killed")
    for link in ("best.pth", "latest.pth"):
        print(f"   killed; {link} -> {(directory / link).resolve().name}")


def export(checkpoint: Path, repository: Path) -> None:
    """Exports a checkpoint, with nothing but its path."""
    command = [sys.executable, "-m", "export", "--ckpt", str(checkpoint), "--repository", str(repository)]
    exported = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    print(f"   {Path(exported.stdout.splitlines()[-1]).relative_to(repository.parent)}")


def agrees(checkpoint: Path, repository: Path) -> bool:
    """Whether a server on `repository` and the checkpoint in PyTorch tell the same digits, with the same logits."""
    model = model_defs.build("digits_cnn", {})
    model.load_state_dict(checkpoints.read(checkpoint).select(None).tensors)
    _, _, test = digits()
    in_pytorch = told(model, test.images)
    port = free_port()
    with server(port, repository):
        over_http = ask(port, test.images)
    difference = (over_http - in_pytorch).abs().max().item() / max(1.0, in_pytorch.abs().max().item())
    equal = torch.equal(over_http.argmax(1), in_pytorch.argmax(1)) and difference <= TOLERANCE
    print(f"   accuracy over HTTP  {share(over_http, test.labels):.4f}")
    print(f"   accuracy in PyTorch {share(in_pytorch, test.labels):.4f}")
    print(
        f"   every digit told alike, logits within {difference:.1e}" if equal else f"   NOT EQUAL: logits within {difference:.1e}"
    )
    return equal


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["--train", place]:
            train(Path(place))
        case [place]:
            sys.exit(main(Path(place)))
        case _:
            with tempfile.TemporaryDirectory() as place:
                sys.exit(main(Path(place)))
