"""The page: every number of a run stands on it, what failed is told, and what is missing is said to be missing."""

from pathlib import Path

import pytest
from made_gpu_findings import FINDINGS, SERVED, TOLD, load

from bench.errors import NoResults, NotWritten
from bench.gpu import needs, page, record
from bench.gpu.order import STAGES
from bench.gpu.record import Record, StageRecord
from bench.gpu.stage import Run
from bench.results import Latency

LOAD = (
    "| 8 | 8 | 16 | 6,400 | 0.91 | 8.50 | 12.25 | 0.20 | 5.00 | 3.00 | 0.10 | 0.70 | 32.0 | 0.50 | 0.60 | 0.80 | 400 | 200 |  |"
)
PAGE = Path(__file__).parents[3] / "docs" / "benchmarks" / "gpu.md"


@pytest.fixture
def made(tmp_path):
    """A whole run."""
    stages = {name: StageRecord("2026-01-01T00:00:00+00:00", "done", 12.5, None, list(FINDINGS[name])) for name in STAGES}
    return Record(tmp_path / "gpu.json", "python -m bench.gpu", "cuda:0", "full", stages)


@pytest.mark.parametrize(
    "line",
    [
        "| GPU | A GPU, 139 GiB, 132 multiprocessors, compute capability 9.0 |",
        "| driver | 580.1 |",
        "| CUDA, cuDNN | 13.0, 91300 |",
        "| onnxruntime | 1.30.0: CPUExecutionProvider |",
        "| processor | A processor, 16 of 16 cores |",
        "| export | done | 12 | **1** |  |",
        "| resnet50 | float16 | 33.2 | 310 | logits 4.5e-03 | model.pt |",
        r"| bert | float16 | ProcessFailed: export ended \| with code 8 |  |  |  |",
        "| resnet50 | float16 | torchscript | 1.1e-03 | 1.5e-03 | 4.5e-03 | held | 4 at 1 to 64 rows |",
        "| resnet50 | bfloat16 | onnx | engine onnx has no bfloat16 |  |  | - |  |",
        "| resnet50 | tf32 | pt2 |  |  |  | **3 of 8 outputs are beyond their budgets** |  |",
        "| float16 | torchscript | yes | 1 | 500 (2.00) | 900 (2.22) | **7,000** (0.57) |  |",
        "| float16 | onnx | - | 1 | - | - | - | onnxruntime has no CUDA |",
        "| resnet50 | torchscript | CUDA graphs on / off | 2.00 (1.00-2.00) |",
        "| resnet50 | torchscript | TF32 on / off | 1.50 (1.00-2.00) |",
        "| resnet50 | torchscript | float16 / float32 | 1.50 (1.25-3.50) |",
        LOAD,
        "| 8,192 | 1 | 507 | out of memory | 8 |",
        "| 1 | 1 | **answered 500, not 200** | it failed | 8 |",
        "| kill 1 | 11.5 s | 40 times 503 |",
        "| kill 2 | - | **no answer in 30 s, but {'503': 900}** |",
        "| the load over all 2 kills | 90,000 answers with 200 | 1,200 status 503 |",
        "| resnet50 | float16 | torchscript | cuda:0 | 512 | 1.5e-03 | 4.5e-03 | 9.5 | 640 | 12.5 | held |",
    ],
)
def test_every_number_stands_on_the_page(made, line):
    """Each stage's findings become lines of its tables, whatever went wrong in them."""
    assert line in page.to_markdown(made, STAGES).splitlines()


def test_every_table_has_lines_of_one_length(made):
    """Every line has as many cells as its head, also those of loads and engines that failed."""
    tables = page.to_markdown(made, STAGES).replace("\\|", "").split("\n\n")
    for table in (one.strip().splitlines() for one in tables if one.lstrip().startswith("|")):
        assert {line.count("|") for line in table} == {table[0].count("|")}


def test_the_verdict_compares_the_best_load_with_the_bound(made):
    """The goal stands there with whether it was held, and the bottleneck with its numbers."""
    text = page.to_markdown(made, STAGES)

    assert "The most rows in a second with p99 under 15 ms: 6,400 (8 rows x 16 connections, p99 12.2 ms)." in text
    assert "The engine alone does 7,000 at its best (4 rows in a call): served is 0.91 of it (≥ 0.85: held)." in text
    assert "What holds it back: The engine: 0.91 of its bound is served." in text


def test_a_load_that_is_too_slow_misses_the_goal(made):
    """However many rows it serves."""
    slow = load(latency_ms=Latency(mean=9.0, p50=8.5, p90=10.0, p99=15.5, p999=16.0, max=17.0))
    made.stages["served"].findings = [{**TOLD, "round": slow.model_dump(mode="json")}]

    text = page.to_markdown(made, STAGES)

    assert "(no load kept p99 under 15 ms): 6,400" in text
    assert "0.91 of it (≥ 0.85: **missed**)" in text


def test_without_a_bound_nothing_is_compared(made):
    """A run of the server alone says so."""
    made.stages["bound"].findings = []

    assert "The bound was not measured." in page.to_markdown(made, STAGES)


def test_a_server_that_never_answered_leaves_a_line(made):
    """There is a table even so."""
    made.stages["served"].findings = [{**SERVED, "failed": "it did not start"}]

    text = page.to_markdown(made, STAGES)

    assert "Nothing was measured." in text
    assert "it did not start |" in text


def test_a_stage_that_did_not_end_well_is_told(made):
    """Its error stands in the first table, beside what it found."""
    made.ended("bound", Run("out of time", 95.0, "it had 95 s, and was ended: what it had found is kept"))

    lines = page.to_markdown(made, STAGES).splitlines()

    assert "| bound | **out of time** | 95 | **1** | it had 95 s, and was ended: what it had found is kept |" in lines
    assert not made.stages["bound"].went_well


def test_what_was_left_out_is_missing(made):
    """A run of some stages says which others are not measured."""
    del made.stages["kills"], made.stages["packed"]

    assert "**Not measured yet: kills, packed.**" in page.to_markdown(made, STAGES)


def test_a_rehearsal_says_that_its_figures_mean_nothing(made):
    """As does the quick form that it is one."""
    made.device = "cpu"
    assert "no figure of it means anything" in page.to_markdown(made, STAGES)
    made.device, made.plan = "cuda:0", "quick"
    assert "The quick form" in page.to_markdown(made, STAGES)


def test_the_page_of_this_project_is_that_of_a_run_or_says_that_figures_are_missing():
    """Until a GPU was there, it says what will be measured, and how, and nothing else."""
    results = PAGE.with_name("gpu.json")
    if results.exists():
        pytest.skip("measured")

    assert PAGE.read_text() == page.not_measured(list(STAGES.values()))
    assert "every figure of this page is missing" in PAGE.read_text()
    assert "`make gpu`" in PAGE.read_text()
    assert all(package in PAGE.read_text() for package in needs.PACKAGES)


def test_the_record_is_on_disk_after_every_finding(made):
    """A run that is cut off keeps what it has, and what a stage found before is let go when it begins again."""
    made.begin("kills")
    made.found("kills", {"kill": 1, "again_s": 2.0})

    kept = record.read_stages(made.path)

    assert (kept["kills"].status, kept["kills"].findings) == ("under way", [{"kill": 1, "again_s": 2.0}])
    assert kept["bound"].findings == FINDINGS["bound"]


def test_no_file_has_no_stages(tmp_path):
    """The first run keeps nothing."""
    assert record.read_stages(tmp_path / "gpu.json") == {}


@pytest.mark.parametrize("content", ["", "[]", '{"schema": 2, "stages": {}}', '{"schema": 1, "stages": {"facts": {"x": 1}}}'])
def test_a_file_that_is_none_is_refused(tmp_path, content):
    """Whatever it is, the message says what to do."""
    path = tmp_path / "gpu.json"
    path.write_text(content)

    with pytest.raises(NoResults, match="delete it, and measure again"):
        record.read_stages(path)


def test_what_cannot_be_written_is_told(tmp_path, made):
    """Both files say where they could not go."""
    made.path = tmp_path / "none" / "gpu.json"

    with pytest.raises(NotWritten, match=r"gpu\.json cannot be written: No such file or directory"):
        made.write()
    with pytest.raises(NotWritten, match=r"gpu\.md cannot be written: No such file or directory"):
        page.write(tmp_path / "none" / "gpu.md", "")
