"""A callback for Hugging Face's Trainer: a Keeper in place of its checkpoint-N folders, and a training that goes on.

with Keeper("runs/bert", Best("eval_accuracy", mode="max"), Last(2)) as keeper:
    keeping = KeeperCallback(keeper)
    trainer = Trainer(model, TrainingArguments("out", save_strategy="no", ...), callbacks=[keeping], ...)
    trainer.train(resume_from_checkpoint=keeping.resume(trainer))

Started again, the same script resumes. Needs transformers.
"""

import dataclasses
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from checkpoints.errors import KeeperError

if TYPE_CHECKING:
    from transformers import Trainer, TrainerControl, TrainerState, TrainingArguments

    from checkpoints.keeping.keeper import Keeper
    from checkpoints.keeping.resumed import Resumed

_STATE = "trainer_state"
"""The entry of `extra` with the Trainer's own state, as it writes it to trainer_state.json."""


class KeeperCallback(TrainerCallback):
    """Gives every epoch's end and every evaluation to a Keeper's policies, with the metrics (`eval_loss` and so on).

    With `every_steps` a save is also offered after each so many steps. The weights are the model's, without wrappers; with them
    go the optimizer, the scheduler, the scaler, the Trainer's state and the random numbers. `resume(trainer)` belongs to every
    call of `train`: it gives what `resume_from_checkpoint` takes.

    `resumed` says what the last `train` went on from.
    """

    def __init__(self, keeper: "Keeper", *, every_steps: int | None = None) -> None:
        if every_steps is not None and every_steps < 1:
            raise KeeperError(f"every_steps is {every_steps!r}, expected a whole number from 1 on.")
        self.keeper = keeper
        self.resumed: Resumed | None = None
        self._every_steps = every_steps
        self._trainer: Trainer | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._waits = False
        self._offered_step = 0

    def resume(self, trainer: "Trainer") -> str | None:
        """What `train(resume_from_checkpoint=...)` takes: None where nothing was saved.

        The Trainer reads how far it was, and the weights, from a folder of its own kind: one is made for it, and removed when it
        has begun. Everything else is restored by the callback, at the point where it was saved.

        Raises KeeperError where the Trainer spreads its weights over processes, or where another loop saved the checkpoint; what
        `Keeper.resume` raises.
        """
        import torch

        if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
            raise KeeperError(
                "FSDP and DeepSpeed spread the weights over processes, and a Keeper writes those of one. "
                "Take a strategy whose processes have them all (ddp), or the Trainer's own checkpoints."
            )
        self._trainer = trainer
        if trainer.model is None:
            raise KeeperError("The Trainer has no model yet: give it one, or a model_init.")
        self.resumed = self.keeper.resume(trainer.model)
        if self.resumed is None:
            return None
        state = self.resumed.extra.get(_STATE)
        if not isinstance(state, str):
            raise KeeperError(
                f"{self.resumed.name} was not saved by this callback: it does not say where a Trainer was. "
                "Resume it in the loop that saved it, or keep in another directory."
            )
        self._folder = tempfile.TemporaryDirectory(prefix="stateserve-resume-")
        folder = Path(self._folder.name)
        (folder / "trainer_state.json").write_text(state, encoding="utf-8")
        torch.save(trainer.model.state_dict(), folder / "pytorch_model.bin")
        return str(folder)

    def on_train_begin(self, args: "TrainingArguments", state: "TrainerState", control: "TrainerControl", **kwargs: Any) -> None:
        """Raises KeeperError where `train` was not given what `resume` said: it would begin anew beside older checkpoints."""
        del args, control, kwargs
        step = self.resumed.step if self.resumed is not None else 0
        if self._trainer is None or state.global_step != step:
            raise KeeperError(
                f"The Trainer begins at step {state.global_step}, the Keeper at {step}. "
                "Write trainer.train(resume_from_checkpoint=keeping.resume(trainer)), where keeping is this callback."
            )
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None
        self._waits = self.resumed is not None
        self._offered_step = step

    def on_epoch_begin(self, args: "TrainingArguments", state: "TrainerState", control: "TrainerControl", **kwargs: Any) -> None:
        """Restore what was saved at an epoch's end, before the next one draws a seed for its data."""
        del args, state, control
        if self.resumed is not None and self.resumed.epoch is not None:
            self._restore(kwargs)

    def on_step_begin(self, args: "TrainingArguments", state: "TrainerState", control: "TrainerControl", **kwargs: Any) -> None:
        """Restore what was saved within an epoch, after the Trainer has passed over the batches before it."""
        del args, state, control
        self._restore(kwargs)

    def on_step_end(self, args: "TrainingArguments", state: "TrainerState", control: "TrainerControl", **kwargs: Any) -> None:
        """Offer a save after every so many steps, or where a signal asks for the end; an evaluation that follows offers it."""
        del args
        due = self.keeper.ending or (self._every_steps is not None and state.global_step % self._every_steps == 0)
        if due and not control.should_evaluate and not _at_epoch_end(state):
            self._offer(state, kwargs)

    def on_evaluate(self, args: "TrainingArguments", state: "TrainerState", control: "TrainerControl", **kwargs: Any) -> None:
        """Offer a save with the metrics; not for an evaluation before the first step, nor outside of `train`."""
        del args, control
        if state.global_step != self._offered_step and not self._waits:
            self._offer(state, kwargs, kwargs.get("metrics"))

    def on_epoch_end(self, args: "TrainingArguments", state: "TrainerState", control: "TrainerControl", **kwargs: Any) -> None:
        """Offer a save, unless an evaluation follows or was there at this step: that one has the metrics."""
        del args
        if not control.should_evaluate and state.global_step != self._offered_step:
            self._offer(state, kwargs)

    def on_train_end(self, args: "TrainingArguments", state: "TrainerState", control: "TrainerControl", **kwargs: Any) -> None:
        """Wait until everything is on the disk."""
        del args, control, kwargs
        self._offered_step = state.global_step
        self.keeper.flush()

    def _restore(self, objects: dict[str, Any]) -> None:
        if self._waits:
            self._waits = False
            self.resumed = self.keeper.resume(objects["model"], objects["optimizer"], objects["lr_scheduler"], self._scaler())

    def _offer(self, state: "TrainerState", objects: dict[str, Any], metrics: dict[str, Any] | None = None) -> None:
        self._offered_step = state.global_step
        self.keeper.save(
            state.global_step,
            objects["model"],
            objects["optimizer"],
            objects["lr_scheduler"],
            self._scaler(),
            epoch=round(state.epoch) - 1 if _at_epoch_end(state) else None,
            metrics={name: value for name, value in (metrics or {}).items() if isinstance(value, int | float)},
            extra={_STATE: json.dumps({**dataclasses.asdict(state), "stateful_callbacks": self._stateful()})},
        )

    def _scaler(self) -> Any:
        return self._trainer.accelerator.scaler if self._trainer is not None else None

    def _stateful(self) -> dict[str, Any]:
        """What the Trainer writes of its callbacks (early stopping counts, say); several of one class as a list."""
        found: dict[str, Any] = {}
        if self._trainer is not None:
            for callback in (*self._trainer.callback_handler.callbacks, self._trainer.control):
                if isinstance(callback, ExportableState):
                    found.setdefault(type(callback).__name__, []).append(callback.state())
        return {name: states[0] if len(states) == 1 else states for name, states in found.items()}


def _at_epoch_end(state: "TrainerState") -> bool:
    return float(state.epoch).is_integer()
