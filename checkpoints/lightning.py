"""A Lightning callback: a Keeper in place of ModelCheckpoint, and a training that goes on where it was killed.

with Keeper("runs/digits", Best("val_acc", mode="max"), Last(2), config="digits.yaml") as keeper:
    trainer = Trainer(max_epochs=30, callbacks=[KeeperCallback(keeper)])
    trainer.fit(module, loader, val_loader)

Started again, the same script resumes: there is no `ckpt_path` to find. Needs pytorch-lightning, or lightning where the script
has imported that one.
"""

import logging
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from checkpoints import rng
from checkpoints.errors import KeeperError

if TYPE_CHECKING:
    from pytorch_lightning import LightningModule, Trainer
    from pytorch_lightning.callbacks import Checkpoint
    from pytorch_lightning.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy

    from checkpoints.keeping.keeper import Keeper
    from checkpoints.keeping.resumed import Resumed
elif "lightning.pytorch" in sys.modules:  # one project under two names, with classes of its own each
    from lightning.pytorch.callbacks import Checkpoint
    from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
else:
    from pytorch_lightning.callbacks import Checkpoint
    from pytorch_lightning.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy

_LOG = logging.getLogger("stateserve.checkpoints")


class KeeperCallback(Checkpoint):
    """Gives every epoch's end to a Keeper's policies, with what was logged; resumes when `fit` starts.

    Saves are also offered after a validation in the middle of an epoch, and, with `every_steps`, after each so many optimizer
    steps. A save has `trainer.callback_metrics` where a validation ran since the one before, or where there is none at all: an
    epoch without a validation is no candidate for the best.

    The weights are those of the whole LightningModule, without a strategy's wrappers. With them go optimizers, schedulers,
    precision, the loops' progress, the other callbacks' states, the datamodule's, that of dataloaders with `state_dict`, and the
    random numbers. What a module adds in `on_save_checkpoint` does not: register it as a buffer.

    `resumed` says what the last `fit` went on from. With `resume=False`, or where `fit` is given a `ckpt_path`, it does not.
    """

    def __init__(self, keeper: "Keeper", *, every_steps: int | None = None, resume: bool = True) -> None:
        super().__init__()
        if every_steps is not None and every_steps < 1:
            raise KeeperError(f"every_steps is {every_steps!r}, expected a whole number from 1 on.")
        self.keeper = keeper
        self.resumed: Resumed | None = None
        self._every_steps = every_steps
        self._wants_resume = resume
        self._rng: Any = None
        self._validated = False
        self._offered_step = 0

    def setup(self, trainer: "Trainer", pl_module: "LightningModule", stage: str) -> None:
        """Raises KeeperError where the strategy leaves each process a part of the weights only."""
        del pl_module, stage
        if isinstance(trainer.strategy, DeepSpeedStrategy | FSDPStrategy | ModelParallelStrategy):
            raise KeeperError(
                f"{type(trainer.strategy).__name__} spreads the weights over processes, and a Keeper writes those of one. "
                "Take a strategy whose processes have them all (ddp), or Lightning's own ModelCheckpoint."
            )

    def on_fit_start(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """Resume, before the loops begin and the first data iterator draws its seed."""
        self.resumed = self._rng = None
        if not self._wants_resume:
            return
        if trainer.ckpt_path is not None:
            _LOG.warning("fit was given ckpt_path=%s, so the Keeper's own checkpoints are left alone.", trainer.ckpt_path)
            return
        objects, extra = _parts(trainer)
        self.resumed = self.keeper.resume(pl_module, *objects, extra=extra)
        if self.resumed is not None:
            self._offered_step = trainer.global_step
            self._rng = rng.capture()

    def on_train_start(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """In the middle of an epoch the data iterator has drawn its seed already: the random numbers are put back again."""
        del trainer, pl_module
        if self.resumed is not None and self.resumed.epoch is None:
            rng.restore(self._rng)
        self._rng = None

    def on_train_batch_end(
        self, trainer: "Trainer", pl_module: "LightningModule", outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Offer a save after every so many optimizer steps, or where a signal asks for the end; an epoch's last one waits."""
        del outputs, batch, batch_idx
        step = trainer.global_step
        due = self.keeper.ending or (self._every_steps is not None and step % self._every_steps == 0)
        if due and step != self._offered_step and not trainer.is_last_batch:
            self._offer(trainer, pl_module)

    def on_validation_end(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """Offer a save with the new metrics, in the middle of an epoch; at its end they wait for it."""
        if trainer.sanity_checking:
            return
        self._validated = True
        if not trainer.is_last_batch:
            self._offer(trainer, pl_module)

    def on_train_epoch_end(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """Offer a save with the epoch's number; without it where the training ends within the epoch (`max_steps`)."""
        self._offer(trainer, pl_module, epoch=trainer.current_epoch if trainer.is_last_batch else None)

    def on_train_end(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """Wait until everything is on the disk."""
        del trainer, pl_module
        self.keeper.flush()

    def _offer(self, trainer: "Trainer", pl_module: "LightningModule", epoch: int | None = None) -> None:
        fresh = self._validated or not trainer.enable_validation
        metrics = {name: value.item() for name, value in trainer.callback_metrics.items()} if fresh else {}
        objects, extra = _parts(trainer)
        self.keeper.save(trainer.global_step, pl_module, *objects, epoch=epoch, metrics=metrics, extra=extra)
        self._validated = False
        self._offered_step = trainer.global_step


@dataclass(frozen=True)
class _Callbacks:
    """The states of a trainer's callbacks, by the keys that Lightning has for them."""

    trainer: Any  # a Trainer, whose attributes its types do not have all

    def state_dict(self) -> dict[str, Any]:
        return {callback.state_key: state for callback in self.trainer.callbacks if (state := callback.state_dict())}

    def load_state_dict(self, states: dict[str, Any]) -> None:
        for callback in self.trainer.callbacks:
            if callback.state_key in states:
                callback.load_state_dict(states[callback.state_key])


def _parts(trainer: Any) -> tuple[tuple[Any, Any], dict[str, Any]]:
    """The first optimizer and scheduler, and everything else that a training of Lightning goes on with, by name."""
    optimizers = list(trainer.optimizers)
    schedulers = [config.scheduler for config in trainer.lr_scheduler_configs]
    extra: dict[str, Any] = {"loops": trainer.fit_loop, "callbacks": _Callbacks(trainer)}
    extra |= {f"optimizer_{number}": other for number, other in enumerate(optimizers[1:], 1)}
    extra |= {f"scheduler_{number}": other for number, other in enumerate(schedulers[1:], 1)}
    if trainer.precision_plugin.state_dict():
        extra["precision"] = trainer.precision_plugin
    if trainer.datamodule is not None and trainer.datamodule.state_dict():
        extra["datamodule"] = trainer.datamodule
    return (next(iter(optimizers), None), next(iter(schedulers), None)), extra
