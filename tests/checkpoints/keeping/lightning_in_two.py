"""A Lightning training in two processes, as a person's script: python lightning_in_two.py DIRECTORY EPOCHS.

Rank 0 prints what was resumed, and all weights to the last bit. Lightning starts the second process itself, from this very
script: its Keeper is made before the processes know each other.
"""

import importlib
import sys
import warnings
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

warnings.simplefilter("ignore")  # its own deprecations, in every process
pl: Any = importlib.import_module("pytorch_lightning")


class Task(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))

    def training_step(self, batch, index):
        del index
        loss = nn.functional.mse_loss(self.net(batch[0]), batch[1])
        self.log("train_loss", loss, on_step=False, on_epoch=True, sync_dist=True)
        return loss

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


def main(directory, epochs):
    from checkpoints.keeping.keeper import Keeper
    from checkpoints.keeping.policies import Best, Last
    from checkpoints.lightning import KeeperCallback

    torch.manual_seed(0)
    inputs = torch.randn(64, 4)
    loader = DataLoader(TensorDataset(inputs, inputs.sum(1, keepdim=True)), 8, shuffle=True)
    task = Task()
    with Keeper(directory, Best("train_loss"), Last(2)) as keeper:
        callback = KeeperCallback(keeper)
        trainer = pl.Trainer(
            max_epochs=epochs,
            callbacks=[callback],
            accelerator="cpu",
            devices=2,
            strategy="ddp",
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=directory,
        )
        trainer.fit(task, loader)
    if trainer.is_global_zero:
        resumed = callback.resumed.epoch if callback.resumed else None
        bits = torch.cat([parameter.detach().flatten() for parameter in task.parameters()]).numpy().tobytes().hex()
        print(f"resumed {resumed} weights {bits}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
