"""What the benchmark rests on: the bodies, wrk's outcome, the limit's numbers, the made-up models. Nothing here is timed."""

import json
import shutil

import numpy as np
import pytest

import artifact
import model_defs
from bench import naive, page
from bench.errors import FailedLoad, LoadToolMissing, ProcessFailed
from bench.models import ALL, made_up_inputs
from bench.page import Chart, Goal, Section, Spread
from bench.payloads import BODIES, Body, first_output
from bench.processes import run_module, started
from bench.rounds import Endpoint
from bench.serving import LIMIT_PATHS, OUR_PATHS
from bench.wrk import Load, find_wrk, fire, read_outcome, steady_rate_per_s

SAID = {"requests": 300, "duration_us": 2_000_000, "p50_us": 1500, "p99_us": 4000, "connect": 0, "read": 0, "write": 0}
SAID |= {"status": 0, "timeout": 0, "answered_s": []}


def printed(**changes):
    """What wrk prints: its own tables, and the last line, which is our script's."""
    return "Running 2s test\n  Latency   1.5ms\n" + json.dumps(SAID | changes) + "\n"


@pytest.fixture(scope="module")
def row(mlp_artifact):
    """One row for the MLP, and what the engine makes of it."""
    loaded = artifact.load(mlp_artifact, engine="onnx", threads=1)
    inputs = made_up_inputs(loaded.signature, 1)
    return inputs["x"], loaded.run(inputs)["logits"]


@pytest.fixture(scope="module")
def limit(mlp_artifact, tmp_path_factory):
    with started("bench.limit", str(mlp_artifact), folder=tmp_path_factory.mktemp("limit")) as running:
        yield running


@pytest.fixture(scope="module")
def ours(mlp_artifact, tmp_path_factory):
    flags = ("--repository", str(mlp_artifact.parents[1]))
    with started("serving", *flags, folder=tmp_path_factory.mktemp("ours"), ready="/v2/health/ready") as running:
        yield running


def test_an_outcome_is_read_from_the_last_line():
    """Requests per second are over wrk's own duration; latencies are in milliseconds."""
    outcome = read_outcome(printed(), "http://here")

    assert (outcome.requests, outcome.requests_per_s, outcome.p50_ms, outcome.p99_ms) == (300, 150, 1.5, 4)


@pytest.mark.parametrize("kind", ["connect", "read", "write", "status", "timeout"])
def test_one_failure_spoils_the_load(kind):
    """A load with any failed request has no outcome."""
    with pytest.raises(FailedLoad, match=f"^http://here: of 300 requests failed: 1 {kind}$"):
        read_outcome(printed(**{kind: 1}), "http://here")


def test_no_answer_is_no_outcome():
    """A load without a single answer has no outcome either."""
    with pytest.raises(FailedLoad, match=r"^http://here: of 0 requests failed: none was answered$"):
        read_outcome(printed(requests=0), "http://here")


def test_batches_do_not_bend_the_rate():
    """Sixteen answers every half second are thirty-two a second, wherever the load was cut off."""
    stamps = [7.0 + 0.5 * batch for batch in range(9) for _ in range(16)]

    assert steady_rate_per_s(stamps) == pytest.approx(32)
    assert read_outcome(printed(answered_s=stamps), "http://here").requests_per_s == pytest.approx(32)


def test_answers_at_one_moment_have_no_rate():
    """One batch of answers says nothing of a rate."""
    with pytest.raises(FailedLoad, match="4 answers at one moment say nothing of a rate"):
        read_outcome(printed(answered_s=[2.5] * 4), "http://here")


def test_wrk_is_asked_for(monkeypatch):
    """Without wrk the command says how to install it, and ends with code 2."""
    monkeypatch.setenv("PATH", "")

    with pytest.raises(LoadToolMissing, match="apt-get install wrk") as caught:
        find_wrk()
    assert caught.value.exit_code == 2


def test_the_four_bodies_hold_the_same_numbers():
    """JSON loses no bit of a float32; a header's length is the place where the bytes begin."""
    array = np.array([[0.1, -1e-8, 3.4e38]], np.float32)
    bodies = {title: write({"x": array}) for title, write in BODIES.items()}
    tensor = json.loads(bodies["OIP JSON"].content)["inputs"][0]
    nested = json.loads(bodies["predictions JSON"].content)["inputs"]["x"]
    length = int(bodies["OIP binary"].headers["Inference-Header-Content-Length"])

    assert tensor["shape"] == [1, 3]
    for values in (tensor["data"], nested):
        assert np.asarray(values, np.float32).tobytes() == array.tobytes()
    assert bodies["OIP binary"].content[length:] == bodies["raw"].content == array.tobytes()
    assert json.loads(bodies["OIP binary"].content[:length])["inputs"][0]["parameters"] == {"binary_data_size": 12}


@pytest.mark.parametrize("title", BODIES)
def test_the_limit_answers_the_engines_numbers(limit, row, title):
    """What is measured as the limit computes what the engine does, in the form that was asked for."""
    endpoint = Endpoint(limit, LIMIT_PATHS[title], BODIES[title]({"x": row[0]}))

    endpoint.require(row[1])
    headers = limit.post(endpoint.path, endpoint.body)[1]
    assert headers["content-type"] == endpoint.body.headers["Content-Type"]
    assert ("inference-header-content-length" in headers) == (title == "OIP binary")


@pytest.mark.parametrize("title", BODIES)
def test_our_server_answers_the_engines_numbers(ours, row, title):
    """Our server takes the very bodies that the limit takes, and answers in the same form."""
    endpoint = Endpoint(ours, OUR_PATHS[title].format("mlp"), BODIES[title]({"x": row[0]}))

    endpoint.require(row[1])
    headers = ours.post(endpoint.path, endpoint.body)[1]
    assert headers["content-type"] == endpoint.body.headers["Content-Type"]
    assert ("inference-header-content-length" in headers) == (title == "OIP binary")


def test_naive_answers_the_engines_numbers(mlp_artifact, row, tmp_path):
    """What is written first is slow, not wrong."""
    with started("bench.naive", str(mlp_artifact / "model.pt"), folder=tmp_path) as running:
        Endpoint(running, "/predict", BODIES["predictions JSON"]({"x": row[0]})).require(row[1])
        assert running.has_library("libtorch")
        assert running.memory_mb() > 50
    assert naive.server_name() in {"uvicorn", "granian"}


@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")
@pytest.mark.parametrize("stamped", [False, True])
def test_wrk_sends_the_body_and_its_headers(limit, row, tmp_path, stamped):
    """A load of one second brings answers; the binary extension's header arrives, or the limit would fail."""
    url = f"http://127.0.0.1:{limit.port}{LIMIT_PATHS['OIP binary']}"

    assert fire(Load(url, BODIES["OIP binary"]({"x": row[0]}), 2, 1, stamped), tmp_path).requests > 0


@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")
def test_wrk_sees_refusals(limit, tmp_path):
    """Answers other than success end the measurement."""
    with pytest.raises(FailedLoad, match=r"/nowhere: of \d+ requests failed: \d+ status$"):
        fire(Load(f"http://127.0.0.1:{limit.port}/nowhere", Body(b"", {}), 1, 1), tmp_path)


@pytest.mark.parametrize("model", ALL, ids=lambda model: model.name)
def test_made_up_weights_fit_the_model(model):
    """They have the keys and the shapes of the architecture that the YAML names, so the export takes them."""
    wanted = model_defs.build(model.config["model"]["name"], model.config["model"]["params"]).state_dict()
    weights = model.weights(np.random.default_rng(0))

    assert {key: array.shape for key, array in weights.items()} == {key: tuple(tensor.shape) for key, tensor in wanted.items()}


def test_a_process_that_ends_is_told(tmp_path):
    """A server that does not start is named with its code and what it said."""
    with (
        pytest.raises(ProcessFailed, match=r"(?s)^bench\.limit ended with code 1 before it answered /ready: .*nothing\.onnx"),
        started("bench.limit", "nothing.onnx", folder=tmp_path),
    ):
        pass
    with pytest.raises(ProcessFailed, match=r"(?s)^bench\.bound .* ended with code 2: "):
        run_module("bench.bound", "--rows", "0", timeout_s=60)


def test_a_page_needs_no_wrk(monkeypatch):
    """Pages that were measured without it are made where it is not installed."""
    monkeypatch.setenv("PATH", "")

    assert "wrk" not in page.to_markdown("How fast saving is", "As follows.", [])


def test_a_page_has_its_tables_goals_and_charts(tmp_path):
    """Medians stand with their spread, a missed goal is seen, and a chart lies beside the page."""
    rate = Spread.of([9000, 8000, 12000])
    chart = Chart("rates.svg", "Rates", ("limit", "ours"), {"JSON": (10.0, 20.0)})
    cells = ("JSON", rate.text(0), Goal(1.2, at_least=True).text(1.1), Goal(1.3, at_least=False).text(1.1))
    sections = [Section("Rates", "Of two.", ("body", "1/s", "rate", "p50"), [cells], chart)]
    page.write(tmp_path / "page.md", page.to_markdown("How fast the server is", "As follows.", sections), sections)
    text = (tmp_path / "page.md").read_text()

    assert "| JSON | 9,000 (8,000-12,000) | ≥ 1.2: **missed** | ≤ 1.3: held |" in text
    assert "![Rates](rates.svg)" in text
    assert (tmp_path / "rates.svg").read_text().count("<rect") == 5


def test_every_body_has_a_place():
    """Both contenders take the same four bodies."""
    assert set(LIMIT_PATHS) == set(OUR_PATHS) == set(BODIES)


def test_an_answer_is_read_by_its_own_form():
    """JSON of either protocol gives the first output's numbers, flat."""
    headers = {"content-type": "application/json"}

    for outputs in ([{"name": "y", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}], {"y": [[1, 2]]}):
        assert first_output(headers, json.dumps({"outputs": outputs}).encode()).tolist() == [1, 2]
