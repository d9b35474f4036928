"""Folders that Lightning itself wrote: order, metrics and its best file are found, and pruning keeps what it calls the best."""

import warnings

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from checkpoints.listing.keep import parse_keep
from checkpoints.listing.look import look
from checkpoints.listing.plan import Choice, make_plan
from checkpoints.listing.remove import carry_out

lightning = pytest.importorskip("pytorch_lightning")

LOSSES = [0.9, 0.3, 0.7, 0.5]  # the first two are the best when they are saved


class Net(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def training_step(self, batch, _):
        return self.layer(batch[0]).square().mean()

    def on_train_epoch_end(self):
        self.log("val_loss", torch.tensor(LOSSES[self.current_epoch], dtype=torch.float64))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.fixture
def trained(tmp_path):
    saves = lightning.callbacks.ModelCheckpoint(tmp_path, monitor="val_loss", save_top_k=-1, save_last="link")
    with warnings.catch_warnings(action="ignore"):
        trainer = lightning.Trainer(
            max_epochs=len(LOSSES), accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
            callbacks=[saves], default_root_dir=tmp_path,
        )  # fmt: skip
        trainer.fit(Net(), DataLoader(TensorDataset(torch.ones(4, 2)), batch_size=2))
    return tmp_path


def test_lightnings_files(trained):
    """Each file has its epoch, step and score; the link `last.ckpt` and the best that the callback names protect."""
    found = look(trained)

    assert [(entry.name, entry.epoch, entry.step, entry.metrics["val_loss"]) for entry in found.entries] == [
        (f"epoch={epoch}-step={2 * (epoch + 1)}.ckpt", epoch, 2 * (epoch + 1), pytest.approx(loss))
        for epoch, loss in enumerate(LOSSES)
    ]
    assert found.links == {"last.ckpt": "epoch=3-step=8.ckpt"}
    assert {entry.layout for entry in found.entries} == {"lightning"}


def test_pruning_keeps_what_lightning_calls_the_best(trained):
    """last:1 keeps the newest; the best, which the newest file names, stays with it, and the link still leads somewhere."""
    plan = make_plan(look(trained), Choice(keep=parse_keep(["last:1"])))
    carry_out(plan)

    assert "ModelCheckpoint calls it the best" in plan.stays["epoch=1-step=4.ckpt"]
    left = sorted(path.name for path in trained.iterdir())
    assert left == ["epoch=1-step=4.ckpt", "epoch=3-step=8.ckpt", "last.ckpt"]  # and not epoch 0, once the best
    assert torch.load(trained / "last.ckpt", weights_only=False)["epoch"] == 3
