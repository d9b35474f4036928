"""Training that was interrupted and resumed gives the bits of training that was not: the digits, on the CPU."""

import copy
import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from checkpoints.batches import Batches
from checkpoints.keeping.keeper import Keeper
from model_defs.digits_cnn import DigitsCNN, DigitsCNNParams

pytestmark = pytest.mark.usefixtures("one_thread")

ROWS, BATCH, STEPS = 320, 32, 26
"""2.6 epochs of 10 batches."""


@pytest.fixture(scope="module")
def digits():
    """(images, labels) of the first digits."""
    pixels, labels = load_digits(return_X_y=True)
    return torch.tensor(pixels[:ROWS] / 16, dtype=torch.float32).reshape(-1, 1, 8, 8), torch.tensor(labels[:ROWS])


def sgd(model):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-4)
    return optimizer, torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=7)


def adamw(model):
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, amsgrad=True)
    return optimizer, torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-2, total_steps=STEPS)


def plateau(model):
    optimizer = torch.optim.RMSprop(model.parameters(), lr=1e-3, momentum=0.5)
    return optimizer, torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=1)


def chained(model):
    optimizer = torch.optim.Adam([{"params": model.features.parameters()}, {"params": model.classifier.parameters(), "lr": 1e-2}])
    warm = torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=5)
    return optimizer, torch.optim.lr_scheduler.SequentialLR(
        optimizer, [warm, torch.optim.lr_scheduler.MultiStepLR(optimizer, [4, 9, 9])], milestones=[5]
    )


class Training:
    """A digits network in training: dropout, noise from NumPy and Python's random, a scheduler, an average beside it."""

    def __init__(self, make, seed):
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        random.seed(seed)
        self.model = DigitsCNN(DigitsCNNParams(channels=4, dropout=0.3))
        self.optimizer, self.scheduler = make(self.model)
        self.average = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
        self.batches = Batches(ROWS, BATCH, seed=3)
        self.step = 0

    @property
    def extra(self):
        return {"batches": self.batches, "average": self.average}

    def run(self, digits, until, keeper=None):
        """Train to a step, and save it and every other one before it."""
        while self.step < until:
            for rows in self.batches:
                self.learn(digits[0][rows], digits[1][rows])
                self.step += 1
                if keeper is not None and self.step % 2 == until % 2:
                    keeper.save(self.step, self.model, self.optimizer, self.scheduler, extra=self.extra)
                if self.step == until:
                    return

    def learn(self, images, labels):
        noise = torch.from_numpy(np.random.normal(0, 0.01, images.shape)).float() * random.random()  # noqa: NPY002
        self.optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(self.model(images + noise), labels)
        loss.backward()
        self.optimizer.step()
        self.scheduler.step(*([loss.item()] if isinstance(self.scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau) else []))
        self.average.update_parameters(self.model)

    def everything(self):
        return copy.deepcopy(
            [one.state_dict() for one in (self.model, self.optimizer, self.scheduler, self.average, self.batches)]
        )


def assert_same(one, other, where=""):
    """The same structure, and the same bits in every tensor."""
    assert type(one) is type(other), where
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype, where
        assert torch.equal(one.reshape(-1).view(torch.uint8), other.reshape(-1).view(torch.uint8)), where
    elif isinstance(one, dict):
        assert list(one) == list(other), where
        for key in one:
            assert_same(one[key], other[key], f"{where}[{key!r}]")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for index, (left, right) in enumerate(zip(one, other, strict=True)):
            assert_same(left, right, f"{where}[{index}]")
    else:
        assert one == other, where


@pytest.mark.parametrize(
    ("make", "form"), [(sgd, "safetensors"), (sgd, "pth"), (adamw, "safetensors"), (plateau, "pth"), (chained, "safetensors")]
)
def test_resumed_training_gives_the_same_bits(tmp_path, digits, make, form):
    """Interrupted in the middle of an epoch, and again at an epoch's last batch: nothing in it differs."""
    whole = Training(make, seed=0)
    whole.run(digits, STEPS)
    with Keeper(tmp_path, format=form) as keeper:
        Training(make, seed=0).run(digits, 13, keeper)
    for until in (20, STEPS):
        resumed = Training(make, seed=99)  # other weights, other random numbers
        with Keeper(tmp_path, format=form) as keeper:
            found = keeper.resume(resumed.model, resumed.optimizer, resumed.scheduler, extra=resumed.extra)
            assert found is not None
            assert (found.notes, found.skipped) == ((), ())
            resumed.step = found.step
            resumed.run(digits, until, keeper)
    assert_same(whole.everything(), resumed.everything())
    assert torch.equal(whole.model.eval()(digits[0]), resumed.model.eval()(digits[0]))


OPTIMIZERS: list[Callable[..., torch.optim.Optimizer]] = [
    one
    for one in vars(torch.optim).values()
    if isinstance(one, type)
    and issubclass(one, torch.optim.Optimizer)
    and one not in (torch.optim.Optimizer, torch.optim.SparseAdam)
]


def steps(model, optimizer, count):
    for number in range(count):
        x = torch.randn(4, 6, generator=torch.Generator().manual_seed(number))

        def loss(x=x):
            optimizer.zero_grad()
            loss = model(x).square().mean()
            loss.backward()
            return loss

        optimizer.step(loss)


def test_every_optimizer_of_torch_goes_on_with_the_same_bits(tmp_path):
    """Whatever it keeps: averages, counters, histories, nothing."""
    assert len(OPTIMIZERS) > 12
    with Keeper(tmp_path) as keeper:
        for number, make in enumerate(OPTIMIZERS):
            name = make.__name__
            model = torch.nn.Linear(6, 6, bias=False)
            optimizer = make(model.parameters(), lr=0.01)
            steps(model, optimizer, 3)
            keeper.save(number, model, optimizer)
            other = torch.nn.Linear(6, 6, bias=False)
            again = make(other.parameters(), lr=0.5)
            keeper.resume(other, again)
            assert_same(optimizer.state_dict(), again.state_dict(), name)
            steps(model, optimizer, 2)
            steps(other, again, 2)
            assert torch.equal(model.weight, other.weight), name


def test_saving_changes_nothing_in_a_training(tmp_path, digits):
    """Training that saves after every step gives the bits of training that never saves."""
    alone, saving = Training(adamw, seed=0), None
    alone.run(digits, 12)
    with Keeper(tmp_path) as keeper:
        saving = Training(adamw, seed=0)
        saving.run(digits, 12, keeper)
    assert_same(alone.everything(), saving.everything())
