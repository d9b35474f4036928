"""Other precisions than float32: budgets are measured on the model itself, and a model that does not stand one is refused."""

import json
import os
import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch

import artifact
from artifact.manifest import PRECISIONS, NotAnArtifact, decode, read_manifest
from export.cost import ParityLimits
from export.precision import UNIT_ROUNDOFF, round_to_tf32
from export.rebuild import rebuild
from export.report import Silent

OTHERS = [precision for precision in PRECISIONS if precision != "float32"]


def report_of(exported):
    return json.loads((exported.path / "parity.json").read_bytes())


# ---- what is written ----


def test_float32_is_not_written(small):
    """Artifacts are as they were before there was a choice: neither the manifest nor the evidence names float32."""
    _, exported = small

    stated = read_manifest(exported.path)

    assert stated.precision == "float32"
    assert stated.content["config"].keys() == {"schema", "model"}
    assert "precisions" not in report_of(exported)
    assert b"precision" not in (exported.path / "config.yaml").read_bytes()
    assert exported.precisions == {}


@pytest.mark.parametrize("precision", OTHERS)
def test_the_budget_is_measured(work, precision):
    """Four times the model's own error in that precision, four roundings at least, for every output."""
    work.net("good", "small", precision=precision)

    exported = work.export()

    unit = UNIT_ROUNDOFF[precision]
    stated, report = read_manifest(exported.path), report_of(exported)
    assert stated.precision == stated.content["config"]["precision"] == precision
    assert report["precisions"].keys() == {precision}
    found = report["precisions"][precision]
    assert found["unit_roundoff"] == unit
    assert found["left_out"] == []
    output = found["outputs"]["y"]
    assert output.keys() == {"budget", "measured", "case"}
    assert unit / 50 < output["measured"] < 4 * unit
    assert output["budget"] == max(4 * output["measured"], 4 * unit)
    assert report["engines"]["onnx"]["outputs"]["y"]["budget"] < 1e-5


@pytest.mark.parametrize(
    ("engine", "precision"), [("onnx", "float16"), ("pt2", "float16"), ("pt2", "bfloat16"), ("torchscript", "float16")]
)
def test_the_engines_hold_the_budget(work, engine, precision):
    """What a server does on a device, done on the CPU: the golden cases in that precision, against the float64 reference."""
    work.net("good", "small", precision=precision)

    exported = work.export(formats=(engine,))

    results = artifact.load(exported.path, engine=engine, precision=precision).replay()
    assert results
    assert all(result.passed for result in results)
    assert not any(result.bit_equal for result in results if result.case == "00-uniform")


@pytest.mark.parametrize("precision", ["tf32", "float16"])
def test_fused_attention_comes_apart(work, precision):
    """PyTorch's encoder layer has a fast path that hides its products; they are rounded all the same."""
    work.net(
        "precise", "encoder", inputs={"x": {"dtype": "float32", "shape": ["batch", 5, 8], "range": [-1, 1]}}, precision=precision
    )

    found = report_of(work.export())["precisions"][precision]

    assert found["outputs"]["y"]["measured"] > UNIT_ROUNDOFF[precision] / 50
    assert torch.backends.mha.get_fastpath_enabled()


def test_a_branch(work):
    """torch.cond is followed into the branch that is taken."""
    work.net("precise", "branching", precision="tf32", dims={"batch": {"min": 1, "max": 8}})

    assert report_of(work.export())["precisions"]["tf32"]["outputs"]["y"]["measured"] > 0


def test_cases_are_left_out_for_time(work):
    """At most half of the time goes to the other precision; the report names what was left out, and the first case never is."""
    work.net("good", "small", precision="bfloat16")

    found = report_of(work.export(limits=ParityLimits(time_s=1e-9)))["precisions"]["bfloat16"]

    assert "golden 00-uniform" in found["left_out"]
    assert found["outputs"]["y"]["measured"] > 0


def test_the_name_of_a_precision(work):
    """Any other is a line of the YAML, and an artifact that states it is none."""
    work.net("good", "small", precision="float8")
    assert "precision: input should be 'float32', 'tf32', 'float16' or 'bfloat16', got \"float8\"" in work.refuse(2)

    work.net("good", "small", precision="bfloat16")
    path = work.export().path
    data = (path / "manifest.json").read_bytes().replace(b"bfloat16", b"float8")
    with pytest.raises(NotAnArtifact, match="precision is 'float8'; it is one of float32, tf32, float16, bfloat16"):
        decode(data, path)


def test_a_checkpoints_own_config_may_say_another(work):
    """The precision says what to make of the model, as formats do: it is not compared."""
    model = work.net("good", "small", precision="float16")
    work.save({"state_dict": model.state_dict(), "config": work.data("small")})

    assert read_manifest(work.export().path).precision == "float16"


# ---- what is refused ----


def test_values_beyond_float16(work):
    """float16 ends at 65504: what is infinite in between is found, and bfloat16 does."""
    work.net("precise", "steep", precision="float16")

    assert work.refuse(8) == (
        "float16 makes output y NaN or infinite in case 'batch=1, uniform', where float32 does not: values leave the range of "
        "float16; declare precision: bfloat16, tf32 or float32"
    )

    work.net("precise", "steep", precision="bfloat16")
    assert work.export().created


@pytest.mark.parametrize(
    ("precision", "allowed", "remedy"),
    [("float16", "1.56e-02", "bfloat16, tf32 or float32"), ("bfloat16", "1.25e-01", "float16, tf32 or float32")],
)
def test_errors_beyond_rounding(work, precision, allowed, remedy):
    """A model that loses more than thirty-two roundings is refused, with the case that lost most."""
    work.net("precise", "shifted", precision=precision)

    message = work.refuse(8)

    assert message.startswith(f"{precision} takes output y a scaled error of ")
    assert message.endswith(
        f"; at most {allowed} is allowed (32 roundings of {precision}). The model does not stand this precision; "
        f"declare precision: {remedy}"
    )


def test_whole_numbers_that_change(work):
    """Scores that float16 cannot tell apart give another argmax, which no budget allows."""
    outputs = {"y": {"dtype": "float32", "shape": ["batch", 3]}, "best": {"dtype": "int64", "shape": ["batch"]}}
    model = work.net("precise", "scored", outputs=outputs, precision="float16")
    weights = model.state_dict()
    weights["a.weight"] = torch.ones(3, 4) * torch.tensor([1.0, 1.00001, 1.00002])[:, None]
    weights["a.bias"] = torch.tensor([8.0, 8.0001, 8.0002])
    work.save(weights)

    message = work.refuse(8)

    assert message.startswith("output best holds whole numbers, and float16 gives others than float32 in case '")
    assert message.endswith(
        "': close values change places by rounding. Give the scores themselves as the output, or declare precision: float32"
    )


def test_a_forward_that_fails_in_float16(work):
    """A fill value of -1e9 is no float16: the message is PyTorch's, and says what to do."""
    work.net("precise", "filled", precision="float16")

    assert work.refuse(8) == (
        "the model itself fails in float16 in case 'batch=1, uniform': RuntimeError: value cannot be converted to type c10::Half "
        "without overflow. Let forward take dtypes and fill values from its tensors, or declare precision: bfloat16, tf32 or "
        "float32"
    )


# ---- the same again ----


def test_a_rebuild_knows_the_precision(work):
    """config.yaml states it, so that the checkpoint gives the same content id, the float16 file included."""
    work.net("good", "small", precision="float16")
    exported = work.export()

    assert rebuild(exported.path, work.checkpoint, work.plugins, Silent()) == exported.content_id
    assert "precision: float16" in (exported.path / "config.yaml").read_text()


def test_the_bytes_are_the_same_in_another_process(work, tmp_path):
    """Another hash seed and another directory give the same files, in float16 too."""
    work.net("good", "small", precision="float16")
    here = work.export()

    env = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": os.pathsep.join(sys.path)}
    words = ("-m", "export", "--ckpt", work.checkpoint, "--plugin", work.plugins[0], "--repository", tmp_path / "again")
    told = subprocess.run([sys.executable, *map(str, words)], cwd="/", env=env, capture_output=True, text=True, check=False)

    assert told.returncode == 0, told.stderr
    there = tmp_path / "again" / "small" / "1"
    for name in ("model.onnx", "model.float16.onnx", "manifest.json", "config.yaml"):
        assert (here.path / name).read_bytes() == (there / name).read_bytes()
    assert "the model in float16" in told.stderr
    assert onnx.load(there / "model.float16.onnx").producer_name == "stateserve"


# ---- rounding ----


def test_tf32_has_ten_bits():
    """Halves go to the even neighbour; powers of two, infinities, NaN and zero stay; what is too large becomes infinite."""
    step = 2.0**-10
    given = [1 + step / 2, 1 + 1.5 * step, 1 + step / 2 + 2.0**-23, -1 - 0.49 * step, 2.0**-130, np.inf, -np.inf, 0.0, -0.0]

    rounded = round_to_tf32(torch.tensor([*given, np.nan, torch.finfo(torch.float32).max, 2.0**-140])).tolist()

    assert rounded[:9] == [1.0, 1 + 2 * step, 1 + step, -1.0, 2.0**-130, np.inf, -np.inf, 0.0, -0.0]
    assert np.isnan(rounded[9])
    assert rounded[10:] == [np.inf, 0.0]  # beyond its range, and below its smallest step
