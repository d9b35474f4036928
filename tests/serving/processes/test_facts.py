"""What processes tell each other of a version survives the way through JSON."""

import orjson

from serving.execution import Execution
from serving.metrics import VersionMetrics
from serving.plan import Plan
from serving.processes.facts import execution_json, execution_of, totals_json, totals_of
from serving.warm_up import WarmUp


def test_an_execution_survives_json():
    """Every field of an execution is the same after JSON, those of its plan and its measurement among them."""
    plan = Plan("sha256:ab", "onnx", 2, 1, 16, 8, "bench.json is followed", follows=True)
    execution = Execution(
        on_loop=False, threads=2, instances=1, max_rows=8, untuned_rows=16, warm_up=WarmUp({1: 2e-3, 16: 9e-3}), plan=plan
    )
    assert execution_of(orjson.loads(orjson.dumps(execution_json(execution)))) == execution


def test_totals_survive_json():
    """Every count and every bucket of the totals is the same after JSON; totals of nothing are, too."""
    metrics = VersionMetrics("digits", 1)
    assert totals_of(orjson.loads(orjson.dumps(totals_json(metrics.totals())))) == metrics.totals()
    metrics.answered((0, 3, 1.0, 1.1, 1.2, 1.3, 1.4))
    metrics.answered((1, 1, 2.0, 2.1, 2.2, 2.3, 2.4))
    metrics.failed("queue_full", 0.5)
    metrics.executed(4, 0.1)
    totals = metrics.totals()
    assert totals_of(orjson.loads(orjson.dumps({**totals_json(totals), "in_flight": 3}))) == totals
