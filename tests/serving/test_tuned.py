"""The server follows what `stateserve tune` found on this machine; what is set holds against it; nothing of it stops a model."""

import shutil
from dataclasses import replace

import pytest

import artifact
from artifact import read_manifest, tuned
from artifact.errors import DamagedArtifact, EngineUnavailable
from artifact.tuned import Arm, BenchFile, Choice, Machine, Measurement, Options, Tuning
from bench.tune.report import LOOP_CALL_S
from foundation.environment import cores
from serving import execution, warm_up
from serving.calls import queue_rows
from serving.execution import prepare
from serving.plan import make_plan
from serving.settings import ModelSettings

MADE_AT = "2026-01-02T03:04:05+00:00"
ONE = Arm(engine="torchscript", instances=1, threads=1)
NOTHING = "not followed: it measured nothing that holds here with"
SHARED = "; PyTorch has one number of threads for all models: that of the last one that was loaded"


def measured(arm, rows, rows_per_s):
    return Measurement(arm=arm, rows=rows, round=0, calls=9, rows_per_s=rows_per_s, p50_s=1 / rows_per_s, p99_s=1.0, spread=0.0)


@pytest.fixture
def directory(mlp_artifact, tmp_path):
    return shutil.copytree(mlp_artifact, tmp_path / "mlp" / "1")


def write(directory, arm=ONE, max_rows=8, more=(), **changes):
    run = {
        "device": "cpu",
        "complete": True,
        "made_at": MADE_AT,
        "machine": Machine.here("cpu"),
        "options": Options(engines=("onnx", "torchscript"), budget_s=9.0, max_call_s=1.0),
        "spent_s": 8.5,
        "measurements": (measured(arm, max_rows, 800.0), *more),
        "choice": Choice(arm=arm, max_rows=max_rows),
    }
    file = BenchFile(content_id=read_manifest(directory).content_id, tunings=(Tuning(**run | changes),))
    tuned.write(directory, file)


def runs(directory, **settings):
    """Engine, instances, threads, rows, and what is told."""
    prepared = prepare(directory, ModelSettings(execution="thread", **settings))
    found = prepared.execution
    how = prepared.artifact.engine.name, found.instances, found.threads, found.max_rows
    return how, found.plan.told


def test_without_bench_json_the_defaults_hold(directory):
    """The first format, one instance with all cores, and as many rows as the signature allows; nothing is told."""
    assert runs(directory) == (("onnx", 1, cores(), 16), "")


def test_what_was_found_here_is_followed(directory):
    """Engine, instances, threads and the batcher's most rows are the tuner's choice."""
    write(directory)
    followed = f"bench.json of {MADE_AT} is followed: torchscript, 1 instance x 1 thread, at most 8 rows{SHARED}"

    assert runs(directory) == (("torchscript", 1, 1, 8), followed)


def test_another_precision_is_another_speed(directory):
    """What was measured while something else was computed is not followed."""
    write(directory, precision="float16")
    told = "bench.json is not followed: it is about precision float16, not about float32; `stateserve tune` measures here"

    assert runs(directory) == (("onnx", 1, cores(), 16), told)


@pytest.mark.skipif(cores() < 2, reason="two instances need two cores")
def test_instances_are_followed(directory):
    """Two calls at a time, where that was faster."""
    write(directory, Arm(engine="onnx", instances=2, threads=1), 4)

    assert runs(directory)[0] == ("onnx", 2, 1, 4)


@pytest.mark.parametrize(
    ("settings", "how", "told"),
    [
        ({"engine": "onnx"}, ("onnx", 1, cores(), 16), f"{NOTHING} engine=onnx"),
        ({"instances": 3}, ("onnx", 3, max(1, cores() // 3), 16), f"{NOTHING} instances=3"),
        ({"threads": 3}, ("onnx", 1, 3, 16), f"{NOTHING} threads=3"),
        (
            {"max_batch_rows": 2},
            ("torchscript", 1, 1, 2),
            f"followed: torchscript, 1 instance x 1 thread, at most 2 rows{SHARED}",
        ),
        (
            {"preferred_batch_sizes": (4, 16)},
            ("torchscript", 1, 1, 16),
            f"followed: torchscript, 1 instance x 1 thread, at most 16 rows{SHARED}",
        ),
        (
            {"engine": "torchscript", "instances": 1, "threads": 1, "max_batch_rows": 3},
            ("torchscript", 1, 1, 3),
            "not followed: all that it could say is set",
        ),
    ],
)  # fmt: skip
def test_what_is_set_holds(directory, settings, how, told):
    """A setting that somebody made is never changed; the rest follows as far as it was measured with it."""
    write(directory)
    found, said = runs(directory, **settings)

    assert (found, said.removeprefix(f"bench.json of {MADE_AT} is ").removeprefix("bench.json is ")) == (how, told)


def test_the_best_that_was_measured_with_what_is_set(directory):
    """With an engine that was not chosen, but measured, its own best arm is run."""
    arm = Arm(engine="onnx", instances=1, threads=1)
    write(directory, more=(measured(arm, 1, 100.0), measured(arm, 4, 300.0)))

    assert runs(directory, engine="onnx")[0] == ("onnx", 1, 1, 4)


def test_what_another_version_of_an_engine_measured_is_not_followed(directory):
    """ONNX Runtime's measurements hold where PyTorch is another one; PyTorch's own do not."""
    here = Machine.here("cpu")
    other = here.model_copy(update={"packages": {**here.packages, "torch": "1.0"}})
    onnx = Arm(engine="onnx", instances=1, threads=1)
    write(directory, onnx, more=(measured(ONE, 4, 300.0),), machine=other)

    assert runs(directory)[0] == ("onnx", 1, 1, 8)
    assert runs(directory, engine="torchscript")[1] == (
        "bench.json is not followed: it measured nothing that holds here with engine=torchscript"
    )


@pytest.mark.parametrize("where", ["thread", "loop"])
def test_what_clients_are_promised_is_not_tuned(directory, where):
    """Requests are joined to fewer rows; the largest batch, and how many rows may wait, are as without bench.json."""
    write(directory, Arm(engine="onnx", instances=1, threads=1), 2)
    prepared = prepare(directory, ModelSettings(execution=where)).execution

    assert (prepared.max_rows, prepared.untuned_rows, prepared.plan.max_rows) == (2, 16, 16)
    assert queue_rows(prepared) >= 8 * 16


def test_the_plan_is_for_what_is_loaded(directory, monkeypatch):
    """An artifact that another one replaces between the plan and the loading is planned for anew; but not for ever."""
    real, seen = execution.make_plan, []

    def replaced(times):
        def make_plan(*asked):
            seen.append(asked)
            plan = real(*asked)
            return replace(plan, content_id="another") if len(seen) <= times else plan

        return make_plan

    monkeypatch.setattr(execution, "make_plan", replaced(2))
    assert prepare(directory, ModelSettings()).planned.content_id == read_manifest(directory).content_id
    seen.clear()
    monkeypatch.setattr(execution, "make_plan", replaced(3))
    with pytest.raises(DamagedArtifact) as caught:
        prepare(directory, ModelSettings())

    assert str(caught.value) == f"{directory} was replaced by another artifact 3 times while it was being loaded"


def test_only_what_changes_the_plan_is_loaded_again(directory):
    """A choice that the settings overrule has no effect; one that they leave has."""
    fixed = ModelSettings(engine="onnx", instances=1, threads=1, max_batch_rows=4)
    before = [make_plan(directory, read_manifest(directory), settings) for settings in (fixed, ModelSettings())]
    write(directory)
    after = [make_plan(directory, read_manifest(directory), settings) for settings in (fixed, ModelSettings())]

    assert [one.effect == other.effect for one, other in zip(before, after, strict=True)] == [True, False]
    assert (after[0].told, after[0].follows, after[0].warns) == (
        "bench.json is not followed: all that it could say is set",
        False,
        False,
    )


def test_an_attempt_that_failed_leaves_the_threads_of_pytorch(directory, monkeypatch):
    """Another model's calls keep theirs where the engine that was tuned is refused."""
    torch = pytest.importorskip("torch")
    write(directory)
    real = artifact.load

    def load(*asked, **how):
        loaded = real(*asked, **how)
        if how["engine"] == "torchscript":
            raise EngineUnavailable("refused")
        return loaded

    monkeypatch.setattr(artifact, "load", load)
    before = torch.get_num_threads()
    torch.set_num_threads(7)
    try:
        assert runs(directory)[0][0] == "onnx"
        assert torch.get_num_threads() == 7
    finally:
        torch.set_num_threads(before)


def test_another_machines_is_not_followed(directory):
    """The defaults hold, and the notice says what is other here."""
    here = Machine.here("cpu")
    write(directory, machine=here.model_copy(update={"cores": here.cores + 6}))
    told = (
        f"bench.json is not followed: it was made on another machine: cores {cores() + 6} there, {cores()} here; "
        "`stateserve tune` measures here"
    )

    assert runs(directory) == (("onnx", 1, cores(), 16), told)


def test_an_engine_that_does_not_prove_itself_is_not_followed(directory, rehash):
    """Where the chosen engine is refused here, the default one serves, and the notice says why."""
    (directory / "model.pt").write_bytes(b"no program")
    rehash(directory)
    write(directory)
    how, told = runs(directory)

    assert how == ("onnx", 1, cores(), 16)
    assert told.startswith("bench.json is not followed: with it, PyTorch ")


def test_an_engine_that_the_server_does_not_run(directory):
    """What was chosen among .pt2 alone is of no use to the server."""
    write(directory, Arm(engine="pt2", instances=1, threads=1))

    assert runs(directory)[1] == (
        "bench.json is not followed: it measured nothing that holds here with an engine that the server runs"
    )


def test_short_calls_stay_on_the_loop(directory):
    """Calls that are short run on the event loop, whatever was found: with its engine and its rows, one at a time."""
    write(directory, Arm(engine="onnx", instances=1, threads=cores()), 4)
    found = prepare(directory, ModelSettings()).execution

    assert (found.on_loop, found.instances, found.threads, found.max_rows) == (True, 1, 1, 4)


def test_the_tuner_and_the_server_agree_on_short():
    """What the tuner says of short calls is true of this server."""
    assert LOOP_CALL_S == tuned.SERVED_CALL_S == warm_up.LOOP_CALL_S


def test_a_running_server_follows_after_a_load(start_server, make_repository, mlp_artifact):
    """`load` after tuning serves the model anew, as found; another `load` leaves it; log and configuration say so."""
    repository = make_repository({"mlp/1": mlp_artifact})
    directory = repository / "mlp" / "1"

    def config(server):
        server.request("POST", "/v2/repository/models/mlp/load").raise_for_status()
        found = server.get("/v2/models/mlp/config").json()
        facts = {name: fact["string_value"] for name, fact in found["parameters"].items()}
        return found["max_batch_size"], facts["max_rows"], facts.get("tuned")

    with start_server(repository) as server:
        assert config(server) == (16, "16", None)
        write(directory, Arm(engine="onnx", instances=1, threads=1))
        told = (
            f"bench.json of {MADE_AT} is followed: onnx, 1 instance x 1 thread, at most 8 rows; "
            "so short calls run on the event loop, one at a time with 1 thread(s)"
        )
        assert config(server) == config(server) == (16, "8", told)
        write(directory, max_rows=2, complete=False, choice=None)
        ignored = (
            "bench.json is not followed: it is not complete: the tuner was interrupted, or is at work; "
            "`stateserve tune` measures here"
        )
        assert config(server) == (16, "16", ignored)
        lines = [(line["level"], line["message"]) for line in server.log_lines() if "bench.json" in line["message"]]

    assert lines == [("INFO", f"mlp version 1: {told}"), ("WARNING", f"mlp version 1: {ignored}")]
