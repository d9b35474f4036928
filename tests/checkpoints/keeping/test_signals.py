"""Signals: the training saves at its next step boundary, and then ends as the signal says."""

import signal
import subprocess
import sys
import threading
from typing import Any

import pytest
import torch

from checkpoints.errors import KeeperError
from checkpoints.keeping.keeper import Keeper
from checkpoints.keeping.local_store import LocalStore
from checkpoints.keeping.policies import EverySteps
from checkpoints.keeping.scan import scan
from checkpoints.keeping.signals import SignalWatch


@pytest.fixture
def model():
    return torch.nn.Linear(4, 3)


@pytest.fixture(autouse=True)
def handlers():
    """The handlers are, after each test, those of before."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    after = {number: signal.getsignal(number) for number in before}
    for number, handler in before.items():
        signal.signal(number, handler)
    assert after == before


def train(directory, model, number):
    with Keeper(directory, EverySteps(1000), save_on_signals=True) as keeper:
        for step in range(10):
            if step == 4:
                signal.raise_signal(number)
            keeper.save(step, model)


def steps(directory):
    return [sidecar.step for sidecar in scan(LocalStore(directory)).complete]


def test_sigterm_saves_at_the_next_boundary_and_ends_with_143(tmp_path, model):
    """Whatever the policies say, and only when the checkpoint is on the disk."""
    with pytest.raises(SystemExit) as error:
        train(tmp_path, model, signal.SIGTERM)
    assert error.value.code == 143
    assert steps(tmp_path) == [4]


def test_sigint_saves_and_is_a_keyboard_interrupt(tmp_path, model):
    """As without a Keeper, only later."""
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, model, signal.SIGINT)
    assert steps(tmp_path) == [4]


def test_without_the_wish_signals_are_as_ever(tmp_path):
    """A Keeper touches no handler unless it is asked to."""
    before = signal.getsignal(signal.SIGTERM)
    with Keeper(tmp_path):
        assert signal.getsignal(signal.SIGTERM) is before


def test_a_signal_after_the_last_save_takes_effect_at_the_end(tmp_path, model):
    """It is not swallowed."""
    keeper = Keeper(tmp_path, save_on_signals=True)
    keeper.save(1, model)
    signal.raise_signal(signal.SIGTERM)
    with pytest.raises(SystemExit):
        keeper.close()
    assert steps(tmp_path) == [1]


def test_a_training_that_fails_keeps_its_own_error(tmp_path):
    """A noted signal does not hide it."""

    def fail():
        with Keeper(tmp_path, save_on_signals=True):
            signal.raise_signal(signal.SIGTERM)
            raise ValueError("loss is NaN")

    with pytest.raises(ValueError, match="loss is NaN"):
        fail()


def test_a_second_signal_acts_at_once():
    """A person who asks twice does not want to wait; the process ends by that signal."""
    script = """
import signal
from checkpoints.keeping.signals import SignalWatch
SignalWatch()
signal.raise_signal(signal.SIGTERM)
print("noted", flush=True)
signal.raise_signal(signal.SIGTERM)
print("never")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout) == (-signal.SIGTERM, "noted\n")


def test_a_handler_that_was_set_since_is_left_alone():
    """restore takes back what is the watch's own."""
    before = signal.getsignal(signal.SIGTERM)
    watch = SignalWatch()

    def other(_number, _frame):
        raise AssertionError

    signal.signal(signal.SIGTERM, other)
    watch.restore()
    assert signal.getsignal(signal.SIGTERM) is other
    signal.signal(signal.SIGTERM, before)


def test_signals_need_the_main_thread_and_the_place_is_let_go(tmp_path):
    """Elsewhere Python cannot notice signals: that is said at once."""
    errors = []

    def run():
        try:
            Keeper(tmp_path, save_on_signals=True)
        except KeeperError as error:
            errors.append(str(error))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert errors == ["save_on_signals=True needs the main thread: only there can Python notice signals. Make the Keeper in it."]
    Keeper(tmp_path).close()


@pytest.mark.parametrize("chained", [False, True])
def test_a_handler_that_is_put_back_after_the_end_hands_signals_on(chained):
    """A trainer that had set its own handler puts ours back, or calls it: the signal goes to whoever had it before us."""
    seen = []
    outer = signal.signal(signal.SIGTERM, lambda number, _: seen.append(number))
    watch = SignalWatch()
    ours: Any = signal.getsignal(signal.SIGTERM)

    def theirs(number, frame):
        ours(number, frame)

    signal.signal(signal.SIGTERM, lambda *_: None)
    watch.restore()
    signal.signal(signal.SIGTERM, theirs if chained else ours)

    signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGTERM)

    signal.signal(signal.SIGTERM, outer)
    assert seen == [signal.SIGTERM, signal.SIGTERM]
    assert watch.received is None


def test_a_keeper_says_that_it_is_ending(tmp_path, model):
    """A loop that offers saves rarely can offer one at once."""
    with Keeper(tmp_path, EverySteps(1000), save_on_signals=True) as keeper:
        assert not keeper.ending
        signal.raise_signal(signal.SIGTERM)
        assert keeper.ending
        with pytest.raises(SystemExit):
            keeper.save(1, model)
