"""Folders as the real trainers leave them."""

import argparse
import json
import os

import torch
from torch import nn


def save(path, **held):
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(held, path)


def plain(folder, epochs, name="epoch_{}.pth", **facts):
    """A loop's own torch.save, one file per epoch; `facts` are functions of the epoch."""
    for epoch in epochs:
        told = {key: value(epoch) for key, value in facts.items()}
        save(folder / name.format(epoch), model_state_dict=nn.Linear(2, 2).state_dict(), **told)


def timm(folder, metrics):
    """timm's CheckpointSaver: an epoch's file each, `last` and `model_best` as hard links, a Namespace inside."""
    for epoch, metric in enumerate(metrics):
        save(
            folder / f"checkpoint-{epoch}.pth.tar",
            epoch=epoch,
            arch="resnet18",
            state_dict=nn.Linear(2, 2).state_dict(),
            optimizer={"state": {}, "param_groups": [{"lr": 0.1, "params": [0, 1]}]},
            version=2,
            args=argparse.Namespace(model="resnet18", lr=0.1),
            metric=metric,
        )
    best = max(range(len(metrics)), key=metrics.__getitem__)
    os.link(folder / f"checkpoint-{best}.pth.tar", folder / "model_best.pth.tar")
    os.link(folder / f"checkpoint-{len(metrics) - 1}.pth.tar", folder / "last.pth.tar")
    (folder / "summary.csv").write_text("epoch,eval_top1\n")
    (folder / "args.yaml").write_text("model: resnet18\n")


def trainer(folder, losses, best=None):
    """Hugging Face's Trainer: checkpoint-N folders, trainer_state.json written last, the run's own files beside."""
    history = []
    for number, loss in enumerate(losses, 1):
        step = 100 * number
        one = folder / f"checkpoint-{step}"
        save(one / "optimizer.pt", state={})
        save(one / "scheduler.pt", last_epoch=1)
        torch.save(nn.Linear(2, 2).state_dict(), one / "pytorch_model.bin")
        (one / "config.json").write_text('{"model_type": "bert"}')
        history += [{"loss": 1.0, "step": step, "epoch": number}, {"eval_loss": loss, "step": step, "epoch": number}]
        state = {"global_step": step, "epoch": float(number), "log_history": history, "best_metric": min(losses[:number])}
        state["best_model_checkpoint"] = best and str(folder / best)
        (one / "trainer_state.json").write_text(json.dumps(state))
    (folder / "runs").mkdir()
    save(folder / "training_args.bin", lr=0.1)


def tnt(folder, values):
    """torchtnt: a folder per save, the metric in its name, torchsnapshot's mark in it."""
    for number, value in enumerate(values):
        one = folder / f"epoch_{number}_step_{10 * (number + 1)}_val_loss={value}"
        (one / "0").mkdir(parents=True)
        (one / "0" / "app").write_bytes(b"1234")
        (one / ".snapshot_metadata").write_text("version: 0.1.0\n")
