"""The Lightning callback, under the real Trainer: what is saved when, and that a resumed training gives the same weights."""

import importlib
import json
import os
import re
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from checkpoints import read
from checkpoints.errors import KeeperError, KeysDoNotMatch
from checkpoints.keeping.keeper import Keeper
from checkpoints.keeping.policies import Best, EveryEpochs, EverySteps, Last

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its own deprecations
    pl: Any = importlib.import_module("pytorch_lightning")

    from checkpoints.lightning import KeeperCallback

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),  # few batches, few workers
]

ROWS, BATCH = 48, 8
STEPS_PER_EPOCH = ROWS // BATCH
EPOCHS = 3


class Interrupted(Exception):
    """What ends a training in the middle."""


class Task(pl.LightningModule):
    """A small regression with everything that has a state: dropout, batch normalisation, momentum, a schedule."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 1))

    def training_step(self, batch, index) -> Any:
        del index
        loss = nn.functional.mse_loss(self.net(batch[0]), batch[1])
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch, index):
        del index
        self.log("val_loss", nn.functional.mse_loss(self.net(batch[0]), batch[1]))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-2)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=5e-2, total_steps=EPOCHS * STEPS_PER_EPOCH)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class TwoOptimizers(Task):
    """Two optimizers and two schedules, stepped by hand."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, index):
        loss = super().training_step(batch, index)
        for optimizer in self.optimizers():
            optimizer.zero_grad()
        self.manual_backward(loss)
        for optimizer in self.optimizers():
            optimizer.step()
        for schedule in self.lr_schedulers():
            schedule.step()

    def configure_optimizers(self):
        optimizers = [
            torch.optim.SGD(self.net[0].parameters(), lr=1e-2, momentum=0.9),
            torch.optim.AdamW(self.net[4].parameters(), lr=1e-2),
        ]
        return optimizers, [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.95) for optimizer in optimizers]


class InterruptAt(pl.Callback):
    """Ends the training before its batch number `batch`, as an error would."""

    def __init__(self, batch):
        self.batch = batch

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        del pl_module, batch, batch_idx
        if trainer.fit_loop.total_batch_idx == self.batch:
            raise Interrupted


class Rows:
    """A dataloader that can go on in the middle: shuffled rows, and how many batches of the epoch were given."""

    def __init__(self, data):
        self.data, self.order, self.given, self.goes_on = data, torch.arange(ROWS), 0, False

    def __len__(self):
        return STEPS_PER_EPOCH

    def __iter__(self):
        drawn = torch.randperm(ROWS)  # in any case, as PyTorch's own loader draws a seed
        if not self.goes_on:
            self.order, self.given = drawn, 0
        self.goes_on = False
        return self._batches()

    def _batches(self):
        while self.given < len(self):
            rows = self.order[self.given * BATCH : (self.given + 1) * BATCH]
            self.given += 1
            yield self.data[rows]

    def state_dict(self):
        return {"order": self.order, "given": self.given}

    def load_state_dict(self, state):
        self.order, self.given, self.goes_on = state["order"], state["given"], True


def data():
    generator = torch.Generator().manual_seed(7)
    inputs = torch.randn(ROWS, 4, generator=generator)
    return TensorDataset(inputs, inputs.sum(1, keepdim=True))


def shuffled():
    return DataLoader(data(), BATCH, shuffle=True)


def trainer_with(directory, *callbacks, **options):
    options = {"max_epochs": EPOCHS, "num_sanity_val_steps": 1, **options}
    return pl.Trainer(
        callbacks=list(callbacks),
        logger=False,
        accelerator="cpu",
        devices=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=directory,
        **options,
    )


def fit(directory, *callbacks, module=Task, seed=0, train=shuffled, validate=True, **options):
    """A whole training as a script has it: new objects, under a seed of its own."""
    torch.manual_seed(seed)
    trainer, task = trainer_with(directory, *callbacks, **options), module()
    trainer.fit(task, train(), DataLoader(data(), ROWS) if validate else None)
    return trainer, task


def interrupted_and_resumed(directory, at, *, every_steps=None, **options) -> tuple[Any, Any]:
    """The module after a training that ended with an error before batch `at`, and one that went on from what was kept."""
    with Keeper(directory, Last(2)) as keeper, pytest.raises(Interrupted):
        fit(directory, KeeperCallback(keeper, every_steps=every_steps), InterruptAt(at), **options)
    with Keeper(directory, Last(2)) as keeper:
        callback = KeeperCallback(keeper, every_steps=every_steps)
        _, task = fit(directory, callback, seed=999, **options)  # another seed: what is equal was restored
    return task, callback.resumed


def assert_same_weights(one, other):
    assert one.state_dict().keys() == other.state_dict().keys()
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in one.state_dict().items())


@pytest.mark.parametrize("module", [Task, pytest.param(TwoOptimizers, marks=pytest.mark.durability)])
def test_resumed_after_an_epoch_is_bit_equal(tmp_path, module):
    """A training that went on from an epoch's end gives the weights of one that was never interrupted."""
    _, straight = fit(tmp_path, module=module, enable_checkpointing=False)

    task, resumed = interrupted_and_resumed(tmp_path / "kept", 2 * STEPS_PER_EPOCH + 3, module=module)

    assert resumed.epoch == 1
    assert_same_weights(task, straight)


def test_resumed_within_an_epoch_is_bit_equal(tmp_path):
    """So does one that went on in the middle of an epoch, where the dataloader can."""
    _, straight = fit(tmp_path, train=lambda: Rows(data()), enable_checkpointing=False)

    task, resumed = interrupted_and_resumed(tmp_path / "kept", 2 * STEPS_PER_EPOCH + 3, every_steps=2, train=lambda: Rows(data()))

    assert (resumed.step, resumed.epoch) == (2 * STEPS_PER_EPOCH + 2, None)
    assert_same_weights(task, straight)


@pytest.mark.durability
def test_resumed_at_a_validation_within_an_epoch_is_bit_equal(tmp_path):
    """A save at a validation in the middle of an epoch is one to go on from, too; the validation is not run again."""
    _, straight = fit(tmp_path, train=lambda: Rows(data()), val_check_interval=3, enable_checkpointing=False)

    task, resumed = interrupted_and_resumed(
        tmp_path / "kept", 2 * STEPS_PER_EPOCH + 4, train=lambda: Rows(data()), val_check_interval=3
    )

    assert (resumed.step, resumed.epoch) == (2 * STEPS_PER_EPOCH + 3, None)
    assert "val_loss" in resumed.metrics
    assert_same_weights(task, straight)


@pytest.mark.durability
def test_a_signal_is_answered_at_the_next_step(tmp_path):
    """With `save_on_signals` SIGTERM ends the training within an epoch, after a save; it goes on from there, bit-equal."""

    class Terminate(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            del pl_module, batch, batch_idx
            if trainer.fit_loop.total_batch_idx == STEPS_PER_EPOCH + 2:
                signal.raise_signal(signal.SIGTERM)

    _, straight = fit(tmp_path, train=lambda: Rows(data()), enable_checkpointing=False)
    kept = tmp_path / "kept"
    with pytest.raises(SystemExit) as ended, Keeper(kept, Last(2), save_on_signals=True) as keeper:
        fit(tmp_path, KeeperCallback(keeper), Terminate(), train=lambda: Rows(data()))
    with Keeper(kept, Last(2)) as keeper:
        callback = KeeperCallback(keeper)
        _, task = fit(tmp_path, callback, seed=999, train=lambda: Rows(data()))

    assert ended.value.code == 128 + signal.SIGTERM
    resumed: Any = callback.resumed
    assert (resumed.step, resumed.epoch) == (STEPS_PER_EPOCH + 3, None)
    assert_same_weights(task, straight)


@pytest.mark.durability
def test_gradients_that_accumulate_are_counted_by_optimizer_steps(tmp_path):
    """`every_steps` counts what the optimizer did, and saves each step once."""
    with Keeper(tmp_path, EverySteps(1)) as keeper:
        fit(tmp_path, KeeperCallback(keeper, every_steps=1), accumulate_grad_batches=2, max_epochs=1)

    assert sorted(path.stem for path in tmp_path.glob("step-*.json")) == ["step-00000001", "step-00000002", "step-00000003"]


def test_the_best_epoch_is_kept_and_read(tmp_path):
    """best.pth is the epoch with the best logged metric, and holds the module's weights under its own names."""
    with Keeper(tmp_path, Best("val_loss"), EveryEpochs(2)) as keeper:
        trainer, task = fit(tmp_path, KeeperCallback(keeper))

    assert not isinstance(trainer.checkpoint_callback, pl.callbacks.ModelCheckpoint)  # it took its place
    assert not list(tmp_path.rglob("*.ckpt"))
    assert read(tmp_path / "best.pth").select(None).tensors.keys() == task.state_dict().keys()


def test_an_epoch_without_validation_is_no_candidate(tmp_path):
    """Lightning keeps a metric until the next validation: a save does not get one that is older than its weights."""
    with Keeper(tmp_path, Best("val_loss", top=EPOCHS), Last(1)) as keeper:
        fit(tmp_path, KeeperCallback(keeper), check_val_every_n_epoch=2)
    found = [json.loads(path.read_bytes()) for path in tmp_path.glob("step-*.json")]
    assert {sidecar["epoch"] for sidecar in found if sidecar["metrics"]} == {1}


@pytest.mark.durability
def test_without_validation_the_training_metrics_count(tmp_path):
    """Where there is no validation at all, what the training logged is there at the epoch's end."""
    with Keeper(tmp_path, Best("train_loss"), Last(1)) as keeper:
        fit(tmp_path, KeeperCallback(keeper), validate=False)

    assert (tmp_path / "best.pth").exists()


@pytest.mark.durability
def test_early_stopping_goes_on_counting(tmp_path):
    """The other callbacks' states are kept: one that had no patience left has none after the resume either."""

    def stopping():
        return pl.callbacks.EarlyStopping("val_loss", patience=2, min_delta=1e9, check_on_train_epoch_end=True)

    with Keeper(tmp_path, Last(1)) as keeper:
        fit(tmp_path, KeeperCallback(keeper), stopping(), max_epochs=2)
    with Keeper(tmp_path, Last(1)) as keeper:
        trainer, _ = fit(tmp_path, KeeperCallback(keeper), stopping(), max_epochs=20)

    assert trainer.current_epoch == 3  # the second epoch without progress was the first after the resume


@pytest.mark.durability
def test_a_finished_training_does_nothing_more(tmp_path):
    """A script that is started again after its last epoch leaves the weights as they are."""
    with Keeper(tmp_path, Last(1)) as keeper:
        _, task = fit(tmp_path, KeeperCallback(keeper))
    with Keeper(tmp_path, Last(1)) as keeper:
        _, again = fit(tmp_path, KeeperCallback(keeper), seed=5)

    assert_same_weights(again, task)


@pytest.mark.durability
def test_resume_false_begins_anew(tmp_path):
    """With `resume=False` nothing is restored."""
    with Keeper(tmp_path, Last(1)) as keeper:
        fit(tmp_path, KeeperCallback(keeper))
    with Keeper(tmp_path, Last(1)) as keeper:
        callback = KeeperCallback(keeper, resume=False)
        fit(tmp_path, callback, max_epochs=1)

    assert callback.resumed is None


def test_another_module_is_refused(tmp_path):
    """Keys that are not the module's end the fit before its first step."""

    class Wider(Task):
        def __init__(self):
            super().__init__()
            self.net[4] = nn.Linear(8, 2)

    with Keeper(tmp_path, Last(1)) as keeper:
        fit(tmp_path, KeeperCallback(keeper), max_epochs=1)
    with Keeper(tmp_path, Last(1)) as keeper, pytest.raises(KeysDoNotMatch):
        fit(tmp_path, KeeperCallback(keeper), module=Wider)


def test_a_strategy_that_spreads_weights_is_refused(tmp_path):
    """FSDP leaves each process a part: the callback says so before anything is trained."""
    with Keeper(tmp_path, Last(1)) as keeper:
        trainer = trainer_with(tmp_path)
        trainer._accelerator_connector.strategy = pl.strategies.FSDPStrategy()
        with pytest.raises(
            KeeperError, match=r"^FSDPStrategy spreads the weights over processes, and a Keeper writes those of one\."
        ):
            KeeperCallback(keeper).setup(trainer, Task(), "fit")


def test_every_steps_is_a_whole_number(tmp_path):
    """`every_steps=0` is refused."""
    with Keeper(tmp_path, Last(1)) as keeper, pytest.raises(KeeperError, match=r"^every_steps is 0, expected a whole number"):
        KeeperCallback(keeper, every_steps=0)


def in_two_processes(directory, epochs) -> Any:
    """What `lightning_in_two.py` says at its end."""
    script = Path(__file__).with_name("lightning_in_two.py")
    ran = subprocess.run(
        [sys.executable, script, directory, str(epochs)],
        check=False,
        capture_output=True,
        text=True,
        timeout=100,
        cwd=script.parents[3],
        env={**os.environ, "PYTHONPATH": str(script.parents[3])},
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return re.search(r"^resumed (\w+) weights (\w+)$", ran.stdout, re.MULTILINE)


@pytest.mark.durability
def test_two_processes_keep_once_and_resume_both(tmp_path):
    """Under ddp one process writes and both go on: with the weights of a training in two that was not interrupted."""
    straight = in_two_processes(tmp_path / "straight", 4)
    begun = in_two_processes(tmp_path / "kept", 2)
    resumed = in_two_processes(tmp_path / "kept", 4)

    assert (begun[1], resumed[1]) == ("None", "1")
    assert resumed[2] == straight[2]
