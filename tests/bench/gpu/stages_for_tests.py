"""Stages that fail in every way that a stage can, for the process that `bench.gpu.stage` starts."""

import os
import signal
import subprocess
import sys
import time

from bench.errors import ProcessFailed
from bench.gpu import child
from bench.gpu.stage import Stage


def good(work):
    """Finds two things, and prints what nobody reads."""
    print("a library says something")
    work.say("half of it")
    yield {"one": 1, "device": work.device, "earlier": work.earlier}
    yield {"two": 2}


def fails(_work):
    """Finds one thing, and then an error that a person can mend."""
    yield {"one": 1}
    raise ProcessFailed("the server did not start")


def breaks(_work):
    """Finds one thing, and then an error that nobody foresaw."""
    yield {"one": 1}
    raise ZeroDivisionError("by nothing")


def crashes(_work):
    """Finds one thing, and ends without a word of its own."""
    yield {"one": 1}
    print("last words", file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)


def ends(_work):
    """Ends with a code."""
    yield {"one": 1}
    os._exit(7)


def _sleep():
    """A process that would outlive the stage; its number is found."""
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]).pid


def slow(_work):
    """Never ends by itself; told to, it cleans up."""
    yield {"pid": _sleep()}
    try:
        time.sleep(600)
    finally:
        yield {"cleaned_up": True}


def stubborn(_work):
    """Never ends, whatever it is told."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    yield {"pid": _sleep()}
    while True:
        time.sleep(600)


if __name__ == "__main__":
    made = (good, fails, breaks, crashes, ends, slow, stubborn)
    child.main({one.__name__: Stage(one.__name__, "", one, lambda *_: ()) for one in made})
