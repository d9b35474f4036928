"""What a load was short of is named by its numbers; the first that is true."""

import pytest
from made_gpu_findings import load

from bench.gpu.bottleneck import Best, bottleneck

ALONE = Best(rows_per_s=10_000.0, rows=64, call_s=0.0064)
HELD_BACK = "; a call had 32.0 rows and took 3.00 ms, alone 64 rows take 6.40 ms."


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"client_busy": 0.95}, "The load generator: its busiest process used 0.95 of a core."),
        (
            {"machine_busy": 0.99},
            "The cores: 0.99 of all of them were busy, the load generator's included; the server's 10 processes used 6.0 cores.",
        ),
        ({"machine_busy": 0.99, "server": None}, "The cores: 0.99 of all of them were busy, the load generator's included."),
        (
            {"gpus": [load().gpus[0].model_copy(update={"utilisation": 0.97})]},
            f"The GPU: it was busy for 0.97 of the time{HELD_BACK}",
        ),
        ({}, f"No core and no GPU was full: of 9.00 ms, 5.00 ms are waiting for the engine{HELD_BACK}"),
        ({"gpus": [], "machine_busy": None, "stages_ms": None}, "Not known: the server does not tell its stages."),
    ],
)
def test_a_bottleneck_is_named_with_numbers(changes, words):
    """Of a load that serves 0.64 of the bound."""
    assert bottleneck(load(**changes), ALONE) == words


def test_a_load_that_holds_the_goal_is_held_back_by_the_engine():
    """Whatever else is busy."""
    assert bottleneck(load(client_busy=1.0), Best(7000.0, 64, 0.009)) == "The engine: 0.91 of its bound is served."
