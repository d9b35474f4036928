"""The callback of Hugging Face's Trainer, under the real one: what is saved when, and that a resumed training is bit-equal."""

import importlib
import json
import signal
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from checkpoints import read
from checkpoints.errors import KeeperError
from checkpoints.keeping.keeper import Keeper
from checkpoints.keeping.policies import Best, EveryEpochs, EverySteps, Last

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its own deprecations
    transformers: Any = importlib.import_module("transformers")

    from checkpoints.transformers import KeeperCallback

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),  # pinned memory without an accelerator
]

ROWS, BATCH = 48, 8
STEPS_PER_EPOCH = ROWS // BATCH
EPOCHS = 3
SLOW = pytest.mark.durability


class Interrupted(Exception):
    """What ends a training in the middle."""


class Tiny(transformers.PreTrainedModel):
    """A small classifier with dropout, and with the one tensor under two names that language models have."""

    config_class = transformers.PretrainedConfig
    _tied_weights_keys = {"decoder.weight": "encoder.weight"}  # noqa: RUF012 - as its own models have it

    def __init__(self, config):
        super().__init__(config)
        self.encoder = nn.Linear(6, 6)
        self.dropout = nn.Dropout(0.3)
        self.decoder = nn.Linear(6, 6)
        self.post_init()
        self.decoder.weight = self.encoder.weight

    def forward(self, rows, labels):
        logits = self.decoder(self.dropout(torch.relu(self.encoder(rows))))
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


class InterruptAt(transformers.TrainerCallback):
    """Ends the training before step `step`, as an error would."""

    def __init__(self, step):
        self.step = step

    def on_step_begin(self, args, state, control, **kwargs):
        del args, control, kwargs
        if state.global_step == self.step:
            raise Interrupted


def data():
    generator = torch.Generator().manual_seed(7)
    rows = torch.randn(ROWS, 6, generator=generator)
    return [{"rows": row, "labels": row.argmax()} for row in rows]


def accuracy(predicted):
    return {"accuracy": float((np.argmax(predicted.predictions, -1) == predicted.label_ids).mean())}


def train(
    directory, keeper=None, *, interrupt=None, every_steps=None, seed=0, resume=True, others=(), **options
) -> tuple[Any, Any]:
    """A whole training as a script has it: new objects. Gives the model, and the callback."""
    torch.manual_seed(seed)
    options = {"num_train_epochs": EPOCHS, "eval_strategy": "epoch", "save_strategy": "no", **options}
    args = transformers.TrainingArguments(
        str(directory / "trainer"),
        per_device_train_batch_size=BATCH,
        per_device_eval_batch_size=ROWS,
        learning_rate=1e-2,
        lr_scheduler_type="cosine",
        warmup_steps=3,
        report_to=[],
        disable_tqdm=True,
        logging_strategy="no",
        use_cpu=True,
        seed=42,
        **options,
    )
    callback = KeeperCallback(keeper, every_steps=every_steps) if keeper else None
    trainer = transformers.Trainer(
        Tiny(transformers.PretrainedConfig()),
        args,
        train_dataset=data(),
        eval_dataset=data(),
        compute_metrics=accuracy,
        callbacks=[*others, *([callback] if callback else []), *([InterruptAt(interrupt)] if interrupt else [])],
    )
    if callback and resume:
        trainer.train(resume_from_checkpoint=callback.resume(trainer))
    else:
        trainer.train()
    return trainer.model, callback


def assert_same_weights(one, other):
    assert one.state_dict().keys() == other.state_dict().keys()
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in one.state_dict().items())


@pytest.mark.parametrize(
    ("every_steps", "options", "at", "resumed_at"),
    [
        (None, {}, 2 * STEPS_PER_EPOCH + 3, (2 * STEPS_PER_EPOCH, 1)),
        pytest.param(None, {"eval_strategy": "no"}, 2 * STEPS_PER_EPOCH + 3, (2 * STEPS_PER_EPOCH, 1), marks=SLOW),
        (2, {}, 2 * STEPS_PER_EPOCH + 3, (2 * STEPS_PER_EPOCH + 2, None)),
        pytest.param(
            None,
            {"eval_strategy": "steps", "eval_steps": 4},
            2 * STEPS_PER_EPOCH + 5,
            (2 * STEPS_PER_EPOCH + 4, None),
            marks=SLOW,
        ),
        pytest.param(1, {"gradient_accumulation_steps": 2}, 5, (5, None), marks=SLOW),
    ],
    ids=["epoch", "epoch-without-evaluation", "within", "evaluation-within", "accumulated"],
)
def test_resumed_is_bit_equal(tmp_path, every_steps, options, at, resumed_at):
    """A training that was interrupted and went on gives the weights of one that never was."""
    straight, _ = train(tmp_path, **options)

    with Keeper(tmp_path / "kept", Last(2)) as keeper, pytest.raises(Interrupted):
        train(tmp_path, keeper, interrupt=at, every_steps=every_steps, **options)
    with Keeper(tmp_path / "kept", Last(2)) as keeper:
        model, callback = train(tmp_path, keeper, every_steps=every_steps, seed=999, **options)

    assert (callback.resumed.step, callback.resumed.epoch) == resumed_at
    assert_same_weights(model, straight)


def test_the_best_is_kept_and_read(tmp_path):
    """best.pth is the step with the best evaluation, under the model's own names; the Trainer writes nothing beside it."""
    with Keeper(tmp_path / "kept", Best("eval_accuracy", mode="max"), EveryEpochs(2)) as keeper:
        model, _ = train(tmp_path, keeper)

    names = read(tmp_path / "kept" / "best.pth").select(None).tensors.keys()
    assert names <= model.state_dict().keys()
    assert len(names) >= len(model.state_dict()) - 1  # the tied one may be there once
    assert not list((tmp_path / "trainer").glob("checkpoint-*"))


@pytest.mark.durability
def test_a_signal_is_answered_at_the_next_step(tmp_path):
    """With `save_on_signals` SIGTERM ends the training within an epoch, after a save; it goes on from there, bit-equal."""

    class Terminate(transformers.TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            del args, control, kwargs
            if state.global_step == STEPS_PER_EPOCH + 2:
                signal.raise_signal(signal.SIGTERM)

    straight, _ = train(tmp_path)
    kept = tmp_path / "kept"
    with pytest.raises(SystemExit) as ended, Keeper(kept, Last(2), save_on_signals=True) as keeper:
        train(tmp_path, keeper, others=[Terminate()])
    with Keeper(kept, Last(2)) as keeper:
        model, callback = train(tmp_path, keeper, seed=999)

    assert ended.value.code == 128 + signal.SIGTERM
    assert (callback.resumed.step, callback.resumed.epoch) == (STEPS_PER_EPOCH + 3, None)
    assert_same_weights(model, straight)


@pytest.mark.durability
def test_each_step_is_saved_once(tmp_path):
    """Where a step is due, an epoch's end and an evaluation, it is one save; it has the epoch and the metrics."""
    with Keeper(tmp_path / "kept", EverySteps(1)) as keeper:
        train(tmp_path, keeper, every_steps=2, num_train_epochs=1)

    sidecars = [json.loads(path.read_bytes()) for path in sorted((tmp_path / "kept").glob("step-*.json"))]
    assert [(found["step"], found["epoch"]) for found in sidecars] == [(2, None), (4, None), (6, 0)]
    assert ["eval_accuracy" in found["metrics"] for found in sidecars] == [False, False, True]


@pytest.mark.durability
def test_early_stopping_goes_on_counting(tmp_path):
    """Callbacks with a state that the Trainer itself would keep are kept, where the Trainer is told to restore them."""

    def options():
        stopping = transformers.EarlyStoppingCallback(early_stopping_patience=2, early_stopping_threshold=1e9)
        return {
            "others": [stopping],
            "metric_for_best_model": "accuracy",
            "greater_is_better": True,
            "restore_callback_states_from_checkpoint": True,
        }

    with Keeper(tmp_path / "kept", Last(1)) as keeper, pytest.raises(Interrupted):
        train(tmp_path, keeper, interrupt=2 * STEPS_PER_EPOCH + 1, num_train_epochs=20, **options())
    with Keeper(tmp_path / "kept", Last(1)) as keeper:
        train(tmp_path, keeper, num_train_epochs=20, **options())

    newest = max(json.loads(path.read_bytes())["epoch"] for path in (tmp_path / "kept").glob("step-*.json"))
    assert newest == 2


def test_train_without_resume_is_refused(tmp_path):
    """A training that would begin anew beside older checkpoints, or without the Trainer's word, says what to write."""
    message = (
        "The Trainer begins at step 0, the Keeper at {}. Write trainer.train(resume_from_checkpoint=keeping.resume(trainer)), "
        "where keeping is this callback."
    )
    with Keeper(tmp_path / "kept", Last(1)) as keeper:
        with pytest.raises(KeeperError) as caught:
            train(tmp_path, keeper, resume=False)
        assert str(caught.value) == message.format(0)


def test_what_another_loop_saved_is_refused(tmp_path):
    """A checkpoint of a plain loop does not say where a Trainer was."""
    with Keeper(tmp_path / "kept", Last(1)) as keeper:
        keeper.save(3, Tiny(transformers.PretrainedConfig()))
        keeper.flush()
        with pytest.raises(KeeperError, match=r"was not saved by this callback: it does not say where a Trainer was\."):
            train(tmp_path, keeper)


@pytest.mark.durability
def test_no_folder_is_left(tmp_path, monkeypatch):
    """The folder that the Trainer reads its position from is gone once it has begun."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with Keeper(tmp_path / "kept", Last(1)) as keeper:
        train(tmp_path, keeper, num_train_epochs=1)
        train(tmp_path, keeper, num_train_epochs=2)

    assert not list(tmp_path.glob("stateserve-resume-*"))
