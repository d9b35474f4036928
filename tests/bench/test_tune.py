"""`stateserve tune`: what it measures, when it stops, that nothing measured is lost, and what it says of what it cannot do."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from artifact import read_manifest, tuned
from artifact.signature import Dim, Signature, TensorSpec
from artifact.tuned import Arm, BenchFile, Machine, Measurement, Tuning
from bench import alone
from bench.alone import Asked
from bench.errors import NotTuned, ProcessFailed
from bench.tune import halving, report
from bench.tune import run as tuning_run
from bench.tune.command import run
from bench.tune.run import Request, tune
from foundation.environment import cores
from foundation.storage import locked

PROJECT = Path(__file__).parents[2]
DEADLINE_S = 60


def arm(number):
    return Arm(engine="onnx", instances=number, threads=1)


def measured(who, rows, rows_per_s, p50_s=None, spread=0.01):
    took = rows / rows_per_s if p50_s is None else p50_s
    return Measurement(arm=who, rows=rows, round=0, calls=9, rows_per_s=rows_per_s, p50_s=took, p99_s=took, spread=spread)


def standing(*arms):
    """Arms 1, 2, … by their best speed, the time of their smallest call, and their spread."""
    return {
        arm(number): [
            measured(arm(number), 1, speed / 2, shortest_s, spread),
            measured(arm(number), 8, speed, None, spread),
        ]
        for number, (speed, shortest_s, spread) in enumerate(arms, start=1)
    }


class TestHalving:
    def test_every_way_to_use_the_cores(self):
        """Threads in powers of two, each with one call, or with as many as fill the cores, or half of them."""

        def pairs(cores, device="cpu"):
            return [(one.instances, one.threads) for one in halving.arms(["onnx"], cores, device)]

        assert pairs(1) == [(1, 1)]
        assert pairs(2) == [(1, 2), (2, 1), (1, 1)]
        assert pairs(6) == [(1, 6), (3, 2), (6, 1), (1, 4), (3, 1), (1, 2), (1, 1)]
        assert pairs(16, "cuda:0") == [(8, 1), (4, 1), (2, 1), (1, 1)]
        assert [one.engine for one in halving.arms(["onnx", "torchscript"], 1, "cpu")] == ["onnx", "torchscript"]

    def test_a_round_is_twice_as_long_for_an_arm(self):
        """With half the arms in each, all rounds together take the budget's share for measuring."""
        assert [halving.rounds(count) for count in (1, 2, 3, 8)] == [2, 2, 3, 4]
        assert [halving.seconds(number, 8, 100.0) for number in (0, 1)] == [1.875, 3.75]

    def test_the_better_half_goes_on_and_what_none_beats(self):
        """By rows a second, the fastest first; an arm with the shortest call stays, one that is beaten in both goes."""
        found = standing((100, 0.010, 0), (400, 0.020, 0), (90, 0.005, 0), (300, 0.015, 0), (80, 0.010, 0))

        assert halving.survivors(found) == [arm(2), arm(4), arm(1), arm(3)]
        assert halving.survivors(standing((100, 0.01, 0), (100, 0.01, 0))) == [arm(1), arm(2)]

    def test_it_is_decided_when_the_lead_is_larger_than_the_noise(self):
        """The noise is what both arms' speeds varied by, and 3 % at least."""
        assert halving.is_decided(standing((100, 0.01, 0)))
        assert halving.is_decided(standing((104, 0.01, 0.02), (100, 0.01, 0.02)))
        assert not halving.is_decided(standing((102, 0.01, 0.0), (100, 0.01, 0.0)))
        assert not halving.is_decided(standing((110, 0.01, 0.3), (100, 0.01, 0.1)))

    def test_rounds_that_differ_are_noise(self):
        """A lead that is smaller than what an arm's own rounds differ by decides nothing."""
        found = standing((110, 0.01, 0.0), (100, 0.01, 0.0))
        assert halving.is_decided(found, [measured(arm(1), 8, 105.0), measured(arm(1), 8, 110.0)])
        assert not halving.is_decided(found, [measured(arm(1), 8, 85.0), measured(arm(1), 8, 110.0)])

    def test_a_later_round_measures_what_matters(self):
        """The smallest size, for the latency, and those that are nearly as fast as the fastest."""
        points = [measured(arm(1), rows, speed) for rows, speed in ((1, 50.0), (2, 89.0), (4, 95.0), (8, 100.0), (16, 92.0))]

        assert halving.sizes_again(points) == [1, 4, 8, 16]

    def test_the_front(self):
        """A point stays if nothing answers sooner with as many rows a second."""
        points = [measured(arm(1), 1, 50.0, 0.01), measured(arm(1), 8, 80.0, 0.1), measured(arm(2), 8, 70.0, 0.2)]
        points += [measured(arm(2), 1, 50.0, 0.01), measured(arm(2), 16, 90.0, 0.3)]

        assert halving.front(points) == [points[0], points[1], points[4]]


class TestOneArm:
    @pytest.mark.parametrize(
        ("dim", "sizes"),
        [(Dim(1, 16), [1, 2, 4, 8, 16]), (Dim(1, 12), [1, 2, 4, 8, 12]), (Dim(2, 9, 4), [4, 8]), (Dim(3, 3), [3])],
    )
    def test_batch_sizes(self, dim, sizes):
        """From the fewest rows that the model takes, doubled, to the most."""
        shape = ("batch", 2)
        signature = Signature((TensorSpec("x", "float32", shape),), (TensorSpec("y", "float32", shape),), {"batch": dim})

        assert alone.sizes(signature) == sizes
        assert alone.sizes(Signature((TensorSpec("x", "float32", (1,)),), (TensorSpec("y", "float32", (1,)),))) == [1]

    def test_a_process_that_hangs(self, mlp_artifact, monkeypatch):
        """One that says nothing for too long is ended, and the error says so."""
        monkeypatch.setattr(alone, "_SILENT_S", 0.01)
        with pytest.raises(ProcessFailed) as caught:
            list(alone.points(Asked(str(mlp_artifact), "onnx", 1, 1, {1: 0.0})))

        assert str(caught.value) == "the measuring process said nothing for 0.01 s and was ended: its engine hangs"

    def test_several_calls_at_a_time(self, mlp_artifact):
        """Each size comes as it is measured; two instances' calls count together; the engine's own words tell what failed."""
        asked = Asked(str(mlp_artifact), "onnx", 2, 1, {1: 0.01, 4: 0.01}, prove=True)
        one, four = alone.points(asked)

        assert (one.rows, four.rows) == (1, 4)
        assert min(one.calls, four.calls) >= 4
        assert 0 < one.p50_s <= one.p99_s
        with pytest.raises(ProcessFailed) as caught:
            list(alone.points(replace(asked, seconds={1: 0.01, 99: 0.01}, directory=str(mlp_artifact.parent))))
        assert str(caught.value).startswith(f"{mlp_artifact.parent} has no readable manifest.json")

    def test_it_stops_where_calls_become_too_long(self, mlp_artifact):
        """Behind a size whose call takes longer than allowed, none is measured."""
        asked = Asked(str(mlp_artifact), "onnx", 1, 1, {1: 0.01, 4: 0.01}, max_call_s=1e-9)

        assert [point.rows for point in alone.points(asked)] == [1]


def unmoved(told):
    """What is told, without what depends on the machine's other work."""
    return [sentence for sentence in told if not sentence.startswith("the machine is not quiet: ")]


class Silent:
    """A watcher that keeps what it is told."""

    def __init__(self):
        self.told, self.steps = [], []

    def measuring(self, step):
        self.steps.append(step)

    def tell(self, sentence):
        self.told.append(sentence)


@pytest.fixture
def directory(mlp_artifact, tmp_path):
    return shutil.copytree(mlp_artifact, tmp_path / "mlp" / "1")


def request(directory, **changes):
    return replace(Request(directory, ("onnx",), "cpu", budget_s=0.5, max_call_s=1.0, again=False), **changes)


def command(directory, *flags):
    words = [sys.executable, "-m", "stateserve", "tune", str(directory), "--engine", "onnx", *flags]
    return subprocess.Popen(
        words,
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "200"},
    )


def kept(directory):
    found = tuned.read(directory, read_manifest(directory))
    return found.of("cpu", complete=False) if isinstance(found, BenchFile) else None


class TestTheCommand:
    def test_it_goes_on_after_a_kill(self, directory):
        """What was measured before a kill -9 is kept, and not measured again; then there is a choice, which `tune` only shows."""
        budget = ("--budget-s", "1.5")
        killed = command(directory, *budget)
        deadline = time.monotonic() + DEADLINE_S
        while not ((part := kept(directory)) and part.measurements):
            assert time.monotonic() < deadline
            time.sleep(0.005)
        children = psutil.Process(killed.pid).children()
        killed.send_signal(signal.SIGKILL)
        killed.communicate()
        _, left = psutil.wait_procs(children, DEADLINE_S)
        assert not left
        assert isinstance(before := kept(directory), Tuning)

        going_on = command(directory, *budget, "--json")
        out, err = going_on.communicate(timeout=DEADLINE_S)
        assert going_on.returncode == 0, err
        assert f"goes on with the run of {before.made_at}, which had measured for" in err
        found = json.loads(out)
        assert found["tuning"]["measurements"][: len(before.measurements)] == [
            json.loads(one.model_dump_json()) for one in before.measurements
        ]
        assert [point["chosen"] for point in found["pareto"]].count(True) == 1
        assert {path.name for path in directory.parent.iterdir()} == {"1"}

        again = Silent()
        result = tune(request(directory, max_call_s=2.0), again)
        assert result.choice is not None
        assert str(result.choice) in found["server"]
        asked = f"{directory} was tuned on this machine at {result.made_at}, for calls of at most 1 s and not 2 s"
        assert again.told == [f"{asked}; --again measures anew"]
        assert not again.steps

    def test_ctrl_c(self, directory):
        """It ends with 130, says that it goes on, and leaves the artifact whole."""
        process = command(directory, "--budget-s", "60")
        deadline = time.monotonic() + DEADLINE_S
        while kept(directory) is None:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=DEADLINE_S)

        assert process.returncode == 130
        assert "stopped; what was measured is kept, and the same command goes on with it" in err
        assert "Traceback" not in err
        assert tuned.follow(directory, read_manifest(directory)) == tuned.Ignored(
            "is not complete: the tuner was interrupted, or is at work"
        )


class TestOneRun:
    def test_all_of_it(self, directory):
        """Arms are measured; the choice is one of them; the server's sentence and the table name it."""
        watcher = Silent()
        found = tune(request(directory, budget_s=2.0), watcher)

        assert found == tuned.follow(directory, read_manifest(directory))
        assert found.choice is not None
        ways = set(halving.arms(["onnx"], cores(), "cpu"))
        assert {one.arm for one in found.measurements} <= ways
        assert {fit.arm for fit in found.fits} == {one.arm for one in found.measurements}
        assert any((point.arm, point.rows) == (found.choice.arm, found.choice.max_rows) for point in report.table(found))
        assert f"runs it here with {found.choice}." in report.server_does(found, directory)
        assert len(unmoved(watcher.told)) == ({one.arm for one in found.measurements} != ways)

        other = Silent()
        part = found.model_copy(update={"complete": False, "choice": None})
        tuned.write(directory, BenchFile(content_id=read_manifest(directory).content_id, tunings=(found, part)))
        tune(request(directory, again=True, budget_s=0.4), other)
        assert other.told[:1] == ["begins anew: the interrupted run that is there had other options"]

    def test_an_arm_that_fails_is_left_out(self, directory, rehash):
        """The others are measured; the reason is kept, and told."""
        (directory / "model.pt").write_bytes(b"no program")
        rehash(directory)
        watcher = Silent()
        found = tune(request(directory, engines=("torchscript", "onnx"), budget_s=0.2), watcher)
        ways = 2 * len(halving.arms(["onnx"], cores(), "cpu"))

        assert [failure.arm.engine for failure in found.failures] == ["torchscript"]
        assert {one.arm.engine for one in found.measurements} == {"onnx"}
        told = unmoved(watcher.told)
        assert told[0].startswith(f"{found.failures[0].arm}: left out: PyTorch ")
        assert told[1:] == [f"the budget was spent before {ways - 2} of {ways} ways were measured; --budget-s gives more"]

    def test_a_machine_that_is_not_quiet(self, directory, monkeypatch):
        """That other work takes part is told before, kept in bench.json, and stands on the page."""
        monkeypatch.setattr(tuning_run, "load_before", lambda _: 0.4)
        watcher = Silent()
        found = tune(request(directory, budget_s=0.2), watcher)

        assert (
            watcher.told[0] == "the machine is not quiet: other work takes 40% of its cores' time, and part in what is measured"
        )
        assert found.busy_before == 0.4
        assert report.noisy(found) == (
            "The machine was not quiet: before the run began, other work took 40% of its cores' time. "
            "--again on a quiet one gives a choice to rely on."
        )
        assert report.noisy(found.model_copy(update={"busy_before": 0.1})) is None


class TestWhatCannotBe:
    def test_an_engine_that_is_not_there(self, directory, rewrite_manifest):
        """Engines that the artifact lacks, or that nobody knows, are refused before anything is measured."""

        def without_pt2(value):
            del value["unstable"]["model.pt2"]

        (directory / "model.pt2").unlink()
        rewrite_manifest(directory, without_pt2)
        for engine, message in {
            "tensorrt": "there is no engine 'tensorrt'; the engines are onnx, torchscript, pt2",
            "pt2": f"{directory} holds onnx, torchscript, not pt2; export it with --format pt2",
        }.items():
            with pytest.raises(NotTuned) as caught:
                tune(request(directory, engines=(engine,)), Silent())
            assert str(caught.value) == message
        assert not (directory / "bench.json").exists()

    def test_no_engine_runs(self, directory, rehash):
        """It says why, and leaves no bench.json behind."""
        (directory / "model.onnx").write_bytes(b"no program")
        rehash(directory)
        with pytest.raises(NotTuned) as caught:
            tune(request(directory), Silent())

        assert str(caught.value).startswith(f"{directory} has no engine that runs here: ONNX Runtime ")
        assert not (directory / "bench.json").exists()

    def test_a_place_that_cannot_be_written(self, directory, monkeypatch):
        """That is known before anything is measured."""

        def full(*_):
            raise OSError(errno.EROFS, "Read-only file system")

        monkeypatch.setattr(tuned, "replace_within", full)
        watcher = Silent()
        with pytest.raises(NotTuned) as caught:
            tune(request(directory), watcher)

        assert str(caught.value) == (
            f"{directory}/bench.json cannot be written: Read-only file system; tune a copy of the artifact, or as someone who "
            "may write there and in the folder above"
        )
        assert not watcher.steps

    def test_two_at_a_time(self, directory):
        """A second tuner of the same artifact would measure the first: it is refused."""
        with locked(directory), pytest.raises(NotTuned) as caught:
            tune(request(directory), Silent())

        assert str(caught.value) == f"{directory} is being tuned by another process; wait for its end"

    def test_a_device_that_is_none(self, directory):
        """The command says what a device looks like."""
        with pytest.raises(NotTuned) as caught:
            run(request(directory, device="gpu"), as_json=False)

        assert str(caught.value) == "--device 'gpu' is no device: write cpu, or cuda:0"

    def test_another_machines_run_is_not_gone_on_with(self, directory):
        """An interrupted run from elsewhere is told of, and begun anew."""
        here = Machine.here("cpu")
        part = Tuning(
            device="cpu",
            complete=False,
            made_at="2026-01-02T03:04:05+00:00",
            machine=here.model_copy(update={"cpu": "Z80"}),
            options=tuned.Options(engines=("onnx",), budget_s=0.2, max_call_s=1.0),
            spent_s=1.0,
            measurements=(measured(arm(1), 1, 100.0),),
        )
        tuned.write(directory, BenchFile(content_id=read_manifest(directory).content_id, tunings=(part,)))
        watcher = Silent()
        tune(request(directory, budget_s=0.2), watcher)

        watcher.told = unmoved(watcher.told)
        told = f"begins anew: the interrupted run that is there had processor 'Z80' there, {here.cpu!r} here"
        assert watcher.told[0] == told
