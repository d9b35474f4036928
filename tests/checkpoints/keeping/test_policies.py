"""Policies: what is written, and what stays."""

import math
from dataclasses import dataclass, field, replace
from typing import Any, cast

import pytest

from checkpoints.errors import KeeperError
from checkpoints.keeping.policies import (
    Best,
    EveryEpochs,
    EverySeconds,
    EverySteps,
    Last,
    Moment,
    check_policies,
    kept,
    wanted_by,
)


@dataclass(frozen=True)
class Saved:
    sequence: int
    metrics: dict = field(default_factory=dict)
    kept_by: tuple = ()


def moment(step=1, epoch=None, seconds=0.0, **metrics):
    return Moment(step=step, epoch=epoch, metrics=metrics, seconds=seconds, seconds_before={"every-60-seconds": 0.0})


def losses(*values):
    return [Saved(sequence, {"loss": value}) for sequence, value in enumerate(values, 1)]


@pytest.mark.parametrize(
    ("policy", "values", "stay"),
    [
        (Best("loss"), (3, 1, 2), {2}),
        (Best("loss", "max"), (3, 1, 2), {1}),
        (Best("loss", top=2), (3, 1, 2), {2, 3}),
        (Best("loss"), (1, 1, 1), {1}),
        (Best("loss", top=2), (2, 1, 2, 1), {2, 4}),
        (Best("loss"), (math.nan, 5, math.nan), {2}),
        (Best("loss"), (math.nan,), set()),
        (Best("loss", "max"), (math.inf, 5), {1}),
    ],
)
def test_the_best_stay_of_equal_ones_the_earlier_and_nan_never(policy, values, stay):
    """Best keeps the top k, of equal ones the earlier; NaN is never among them."""
    assert policy.keeps(losses(*values)) == stay


@pytest.mark.parametrize(
    ("policy", "value", "wanted"),
    [
        (Best("loss"), 0.5, True),
        (Best("loss"), 1, False),
        (Best("loss", top=2), 1, True),
        (Best("loss", top=2), 2, False),
        (Best("loss", top=4), 9, True),
        (Best("loss", "max"), 3.5, True),
        (Best("loss", top=9), math.nan, False),
    ],
)
def test_a_save_is_wanted_if_it_were_among_the_best(policy, value, wanted):
    """Only a strictly better one takes a place; NaN takes none."""
    assert policy.wants(moment(loss=value), losses(3, 1, 2)) is wanted


def test_a_save_without_metrics_is_no_candidate():
    """A save in the middle of an epoch has no metrics: Best does not want it, and does not complain."""
    assert not Best("loss").wants(moment(), losses(1))
    assert Best("loss").keeps([Saved(1), Saved(2, {"loss": 2.0})]) == {2}


def test_a_metric_that_is_not_there_is_an_error_with_the_nearest():
    """A misspelt metric is found at the first save that has metrics."""
    with pytest.raises(KeeperError) as error:
        Best("val_acc").wants(moment(val_accuracy=1, loss=2), [])
    assert str(error.value) == (
        "Best asks for the metric 'val_acc'; this save has 'loss', 'val_accuracy'. Did you mean 'val_accuracy'?"
    )


def test_every_steps_wants_the_first_save_at_or_after_each_multiple():
    """Whatever the distance of the saves, each multiple has one."""
    wanted, before = [], moment(0)
    for step in (0, 1, 99, 100, 101, 199, 250, 251, 300, 1000, 1001):
        now = replace(before, step=step)
        if EverySteps(100).wants(now, []):
            wanted.append(step)
        before = replace(now, step_before=step)
    assert wanted == [100, 250, 300, 1000]


def test_every_epochs_counts_from_zero():
    """EveryEpochs(5) wants the fifth epoch, which is number 4; a skipped one is made up for."""
    wanted, before = [], moment(epoch=0)
    for epoch in (0, 3, 4, 4, 5, 8, 10, 11, 14):
        now = replace(before, epoch=epoch)
        if EveryEpochs(5).wants(now, []):
            wanted.append(epoch)
        before = replace(now, epoch_before=epoch)
    assert wanted == [4, 10, 14]
    assert not EveryEpochs(1).wants(moment(epoch=None), [])


def test_every_seconds_counts_the_seconds_of_the_process():
    """The policy knows no clock but the one that it is given."""
    assert not EverySeconds(60).wants(moment(seconds=59.9), [])
    assert EverySeconds(60).wants(moment(seconds=60), [])


def test_the_union_stays_with_every_milestone_and_the_newest():
    """What any policy keeps stays; milestones of a training with other policies too, and the newest in any case."""
    candidates = [
        Saved(1, {"loss": 1.0}, ("best-loss-min-1",)),
        Saved(2, {"loss": 2.0}, ("every-100-steps",)),
        Saved(3, {"loss": 3.0}, ("every-2-epochs", "last-3")),
        Saved(4, {"loss": 4.0}, ("every-0.5-seconds",)),
        Saved(5, {"loss": 5.0}, ("last-3", "every-thing")),
        Saved(6, {"loss": 6.0}),
    ]
    assert kept([Best("loss")], candidates) == {1, 2, 3, 4, 6}
    assert kept([Last(2)], candidates) == {2, 3, 4, 5, 6}
    assert kept([Best("loss"), Last(1)], [*candidates[:1], *candidates[4:]]) == {1, 6}


def test_the_labels_say_who_wanted_it():
    """The labels go to the sidecar, and hold across trainings."""
    policies = [Best("loss", top=2), EverySteps(10), EveryEpochs(3), EverySeconds(60), Last(3)]
    assert wanted_by(policies, moment(10, 2, 60.0, loss=1), []) == (
        "best-loss-min-2",
        "every-10-steps",
        "every-3-epochs",
        "every-60-seconds",
        "last-3",
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Best("loss", mode=cast("Any", "least")), 'Best: mode is \'least\', expected "min" or "max".'),
        (lambda: Best(""), "Best: metric is '', expected the name of a metric."),
        (lambda: Best("loss", top=0), "Best: top is 0, expected a whole number from 1 on."),
        (lambda: EverySteps(0), "EverySteps: steps is 0, expected a whole number from 1 on."),
        (lambda: EveryEpochs(cast("Any", 1.5)), "EveryEpochs: epochs is 1.5, expected a whole number from 1 on."),
        (lambda: EverySeconds(math.nan), "EverySeconds: seconds is nan, expected a number above 0."),
        (lambda: Last(-1), "Last: count is -1, expected a whole number from 1 on."),
        (lambda: check_policies([Last(1), Last(1)]), "The policy last-1 is there twice; once is enough."),
        (
            lambda: check_policies([Last]),
            (
                "<class 'checkpoints.keeping.policies.Last'> is not a policy; "
                "expected Best, EverySteps, EveryEpochs, EverySeconds or Last with values."
            ),
        ),
    ],
)
def test_a_policy_that_means_nothing_is_refused(make, message):
    """Policies are checked when they are made."""
    with pytest.raises(KeeperError) as error:
        make()
    assert str(error.value) == message
