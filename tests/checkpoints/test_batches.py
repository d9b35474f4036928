"""Batches of row numbers that go on where they were."""

from itertools import chain

import pytest
import torch

from checkpoints.batches import Batches
from checkpoints.errors import KeeperError, KeysDoNotMatch


def rows(batches):
    return [batch.tolist() for batch in batches]


def test_an_epoch_holds_every_row_once():
    """The last batch may be smaller, and each epoch has another order."""
    batches = Batches(10, 4, seed=1)
    first, second = rows(batches), rows(batches)
    assert [len(batch) for batch in first] == [4, 4, 2] == [len(batch) for batch in second]
    assert sorted(chain(*first)) == list(range(10)) == sorted(chain(*second))
    assert first != second
    assert (batches.epoch, len(batches)) == (2, 3)


def test_the_order_follows_from_seed_and_epoch_alone():
    """Other random numbers do not change it, and it does not change them."""
    torch.manual_seed(1)
    state = torch.get_rng_state()
    one = rows(Batches(50, 7, seed=5))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert rows(Batches(50, 7, seed=5)) == one
    assert rows(Batches(50, 7, seed=6)) != one


def test_without_shuffling_the_rows_come_in_their_order():
    """And with drop_last what makes no full batch is left out."""
    batches = Batches(7, 3, shuffle=False, drop_last=True)
    assert rows(batches) == [[0, 1, 2], [3, 4, 5]]
    assert len(batches) == 2


@pytest.mark.parametrize("taken", range(8))
def test_a_state_from_anywhere_goes_on_with_the_rest(taken):
    """Also one that is taken in the loop's body at an epoch's last batch: then nothing is left of that epoch."""
    whole = Batches(10, 4, seed=2)
    expected = [(epoch, batch) for epoch in range(3) for batch in rows(whole)]
    batches, seen, state = Batches(10, 4, seed=2), [], Batches(10, 4, seed=2).state_dict()
    for epoch in range(3):
        for batch in batches:
            if len(seen) < taken:
                seen.append((epoch, batch.tolist()))
                state = batches.state_dict()
    again = Batches(10, 4, seed=2)
    again.load_state_dict(state)
    rest = [(epoch, batch.tolist()) for epoch in range(again.epoch, 3) for batch in again]
    assert seen + rest == expected


def test_the_end_of_an_epoch_still_comes_after_its_last_batch():
    """Resumed from its last batch, the epoch gives no more batches and ends; the next one is whole."""
    batches = Batches(4, 2)
    state = [batches.state_dict() for _ in batches][-1]
    again = Batches(4, 2)
    again.load_state_dict(state)
    assert again.epoch == 0
    assert rows(again) == []
    assert again.epoch == 1
    assert len(rows(again)) == 2


def test_a_loop_that_was_left_goes_on():
    """Where a loop was left by break, iterating again gives the rest of the same epoch."""
    batches = Batches(6, 2, shuffle=False)
    for _ in batches:
        break
    assert (batches.epoch, batches.done) == (0, 1)
    assert rows(batches) == [[2, 3], [4, 5]]


def test_a_place_of_other_settings_is_refused():
    """The rows would be others, so nothing is changed."""
    batches = Batches(10, 4)
    message = r"The batches were saved with other settings: length was 10 and is 12, seed was 0 and is 1\. Make them"
    with pytest.raises(KeysDoNotMatch, match=message):
        Batches(12, 4, seed=1).load_state_dict(batches.state_dict())


@pytest.mark.parametrize("place", [{"epoch": -1}, {"epoch": True}, {"done": 4}, {"done": "1"}, {"done": None}])
def test_a_place_that_does_not_exist_is_refused(place):
    """Damaged or made by hand."""
    batches = Batches(10, 4)
    with pytest.raises(KeysDoNotMatch, match=r"The batches' place is epoch .* an epoch has 3 batches\."):
        batches.load_state_dict({**batches.state_dict(), **place})


@pytest.mark.parametrize(("length", "batch_size", "drop_last"), [(0, 1, False), (3, 0, False), (3, 4, True)])
def test_numbers_that_make_no_batch_are_refused(length, batch_size, drop_last):
    """Before anything is iterated."""
    with pytest.raises(KeeperError):
        Batches(length, batch_size, drop_last=drop_last)
