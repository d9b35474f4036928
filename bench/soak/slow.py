"""The model `slow`, which is `shifted` by 0: its calls take as long as a request says, so that an engine can be kept busy."""

import time
from collections.abc import Mapping

import numpy as np

from bench.payloads import raw
from bench.soak.client import Answer, post
from bench.soak.finding import percentile
from bench.soak.models import INPUT
from bench.soak.server import Server

NAME = "slow"
SETTINGS = {"execution": "thread", "threads": 1}
"""In a thread, although its golden case takes no time: the other core is the event loop's and the client's."""

_TRIAL_TURNS = 20_000
_TRIALS = 5


def row(serial: int, turns: int) -> np.ndarray:
    """One row that says whose it is; both numbers below 2^24."""
    return np.array([[serial, turns, 0, 0]], np.float32)


def request(serial: int, turns: int, headers: Mapping[str, str] = {}) -> bytes:
    """A request for one row, as raw bytes."""
    return post(f"/predictions/{NAME}", raw({INPUT: row(serial, turns)}), headers)


def is_right(answer: Answer, serial: int, turns: int) -> bool:
    """Whether it is the answer to that row."""
    return answer.status == 200 and answer.content == row(serial, turns).tobytes()


async def turns_for(server: Server, seconds: float) -> int:
    """How many turns take so long here: the median of some trials, request and answer included."""
    taken = []
    for trial in range(_TRIALS):
        began = time.perf_counter()
        await server.ask(request(trial, _TRIAL_TURNS))
        taken.append(time.perf_counter() - began)
    return int(_TRIAL_TURNS * seconds / percentile(taken, 50))
