"""What is measured, in which order, and that it fits into eight minutes."""

import json

import numpy as np
import pytest
import torch
from made_gpu_findings import way

import model_defs
from bench.gpu.models import BERT, IMAGES, RESNET50, TINY_BERT
from bench.gpu.order import ALWAYS, STAGES
from bench.gpu.plan import LIMIT_S, PLANS, PRECISIONS, frontend_count
from bench.gpu.stages.bound import Combination, best_rows_per_s, combinations, served_engine
from export.config import config_from_data


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_every_stage_has_a_budget(plan):
    """And no stage is missing."""
    assert list(plan.budgets_s) == list(STAGES)
    assert set(ALWAYS) <= STAGES.keys()


@pytest.mark.parametrize("name", ["full", "quick"])
def test_all_budgets_together_are_under_eight_minutes(name):
    """With five seconds for a stage that has to be killed."""
    assert sum(PLANS[name].budgets_s.values()) + 5 <= LIMIT_S


@pytest.mark.parametrize("model", [RESNET50, BERT, IMAGES, TINY_BERT], ids=lambda model: model.key)
def test_a_model_fits_its_weights_and_its_yaml(model):
    """At every precision: the YAML is valid, and the made-up weights are those of the model."""
    weights = model.measured.weights(np.random.default_rng(0))
    for precision in PRECISIONS:
        made = model.at(precision)
        config = config_from_data(json.loads(json.dumps(made.config)), made.name)
        with torch.device("meta"):
            wanted = model_defs.build(config.model.name, config.model.params).state_dict()

        assert {key: array.shape for key, array in weights.items()} == {key: tuple(one.shape) for key, one in wanted.items()}
        assert (config.artifact_name, config.resolved()["precision"]) == (f"{model.key}-{precision}", precision)


def test_only_what_is_served_takes_large_batches():
    """The others are exported to be proven."""
    assert RESNET50.at("float16").config["dims"] == {"batch": {"min": 1, "max": 64}}
    assert RESNET50.at("tf32").config["dims"] == {"batch": {"min": 1, "max": 8}}
    assert TINY_BERT.at("tf32").config["dims"] == {"batch": {"min": 1, "max": 4}}


def test_combinations_begin_with_what_is_served():
    """Where time runs out, what is compared with the server is there; none is measured twice."""
    found = combinations(PLANS["full"])

    assert found[:5] == [
        Combination("resnet50", "torchscript", "float16"),
        Combination("resnet50", "onnx", "float16"),
        Combination("resnet50", "pt2", "float16"),
        Combination("resnet50", "torchscript", "float16", instances=2),
        Combination("resnet50", "onnx", "float16", instances=2),
    ]
    assert len(found) == len(set(found))
    assert {(one.model, one.engine, one.precision) for one in found} == {
        (model, engine, precision)
        for model in ("resnet50", "bert")
        for engine in ("torchscript", "pt2", "onnx")
        for precision in PRECISIONS
    }
    assert Combination("bert", "pt2", "float16", graphs=False) in found


def test_the_best_point_is_that_of_any_way():
    """Of one model and precision; an engine that was left out has none."""
    findings = [
        way(points=[{"rows": 1, "rows_per_s": 5.0}]),
        way(instances=2, points=[{"rows": 1, "rows_per_s": 4.0}, {"rows": 2, "rows_per_s": 7.0}]),
        way(precision="tf32", points=[{"rows": 1, "rows_per_s": 9.0}]),
        way(engine="onnx", left_out="no CUDA"),
    ]

    assert best_rows_per_s(findings, "resnet50", "float16") == {
        "engine": "torchscript",
        "instances": 2,
        "graphs": True,
        "rows": 2,
        "rows_per_s": 7.0,
    }
    assert best_rows_per_s(findings, "resnet50", "float16", "onnx") is None
    assert best_rows_per_s(findings, "bert", "float16") is None


def test_the_server_has_the_fastest_engine_that_it_runs():
    """pt2 is none of them; without a measurement it is TorchScript, which every PyTorch runs."""
    slow, fast = [{"rows": 1, "rows_per_s": 5.0}], [{"rows": 1, "rows_per_s": 9.0}]

    assert served_engine([], "resnet50", "float16") == "torchscript"
    assert served_engine([way(points=slow), way(engine="onnx", points=fast)], "resnet50", "float16") == "onnx"
    assert served_engine([way(points=slow), way(engine="pt2", points=fast)], "resnet50", "float16") == "torchscript"


@pytest.mark.parametrize(("share", "cores", "count"), [(0.5, 16, 8), (0.5, 64, 8), (0, 16, 1), (0.5, 2, 1), (1.0, 2, 2)])
def test_front_ends_are_a_share_of_the_cores(share, cores, count):
    """One at least, eight at most."""
    assert frontend_count(share, cores) == count
