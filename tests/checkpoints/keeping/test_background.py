"""One write at a time beside the training."""

import subprocess
import sys
import threading

import pytest

from checkpoints.keeping.background import Background


def test_a_job_runs_beside_and_is_waited_for():
    """wait returns when it is done."""
    go_on, done = threading.Event(), []
    background = Background()
    background.start(lambda: done.append(go_on.wait(30)))
    assert background.busy
    assert done == []
    go_on.set()
    background.wait()
    assert done == [True]
    assert not background.busy


def test_a_second_job_waits_for_the_first():
    """Never two at once, and in the order in which they came."""
    order = []
    background = Background()
    for number in range(20):
        background.start(lambda number=number: order.extend([number, number]))
    background.wait()
    assert order == [number for number in range(20) for _ in range(2)]


def test_an_error_is_raised_once_at_the_next_call():
    """Then the next job is not begun; the one after is."""

    def fail():
        raise OSError("disk full")

    ran = []
    background = Background()
    background.start(fail)
    with pytest.raises(OSError, match="disk full"):
        background.start(lambda: ran.append(1))
    background.wait()
    assert ran == []
    background.start(lambda: ran.append(2))
    background.wait()
    assert ran == [2]


def test_the_interpreter_waits_for_the_job_and_says_what_failed():
    """A program that ends without a word to the Keeper gets its last checkpoint, or a line in its log."""
    script = """
import threading, time
from checkpoints.keeping.background import Background
def job():
    threading.main_thread().join()
    print("written", flush=True)
    raise OSError("disk full")
Background().start(job)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "written\n"
    assert done.stderr == "A checkpoint was not written, and the program is ending: disk full\n"
