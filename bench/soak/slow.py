"""A model whose calls take as long as a request says, for scenarios in which an engine is busy."""

import time
from collections.abc import Mapping

import numpy as np
from onnx import TensorProto, helper

from bench.bodies import raw
from bench.soak.client import Answer, post
from bench.soak.finding import percentile
from bench.soak.models import INPUT, SoakModel, onnx_bytes
from bench.soak.server import Server

NAME = "slow"
SETTINGS = {"execution": "thread", "threads": 1}
"""In a thread, although its golden case takes no time: the other core is the event loop's and the client's."""

_TRIAL_TURNS = 20_000
_TRIALS = 5


def slow(max_rows: int) -> SoakModel:
    """`y` is `x`, after as many turns of a loop as the largest number in the second column says (each about 0.7 µs)."""
    turn = helper.make_graph(
        [helper.make_node("Sin", ["v_in"], ["v_out"]), helper.make_node("Identity", ["on_in"], ["on_out"])],
        "turn",
        [
            helper.make_tensor_value_info("number", TensorProto.INT64, []),
            helper.make_tensor_value_info("on_in", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v_in", TensorProto.FLOAT, [1]),
        ],
        [
            helper.make_tensor_value_info("on_out", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v_out", TensorProto.FLOAT, [1]),
        ],
    )
    nodes = [
        helper.make_node("Gather", ["x", "second"], ["wishes"], axis=1),
        helper.make_node("ReduceMax", ["wishes"], ["most"], keepdims=0),
        helper.make_node("Cast", ["most"], ["turns"], to=TensorProto.INT64),
        helper.make_node("Loop", ["turns", "", "zero"], ["still_zero"], body=turn),
        helper.make_node("Add", ["x", "still_zero"], ["y"]),
    ]
    constants = {"second": np.array(1), "zero": np.zeros(1, np.float32)}
    return SoakModel(onnx_bytes(nodes, constants, 2, 2), 2, max_rows, lambda x: x)


def row(serial: int, turns: int) -> np.ndarray:
    """One row that says whose it is; both numbers below 2^24."""
    return np.array([[serial, turns]], np.float32)


def request(serial: int, turns: int, headers: Mapping[str, str] = {}) -> bytes:
    """A request for one row, as raw bytes."""
    return post(f"/predictions/{NAME}", raw(INPUT, row(serial, turns)), headers)


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
