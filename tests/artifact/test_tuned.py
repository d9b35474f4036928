"""bench.json: what the tuner writes is read back, what cannot be followed is told, and how an arm is chosen."""

import json
import shutil
import time

import pytest

from artifact import read_manifest, tuned
from artifact.tuned import Arm, BenchFile, Choice, Failure, Fit, Ignored, Machine, Measurement, Options, Tuning
from foundation.environment import cores

SMALL = Arm(engine="onnx", instances=1, threads=1)
WIDE = Arm(engine="onnx", instances=1, threads=2)
TWO = Arm(engine="onnx", instances=2, threads=1)
OTHER = Arm(engine="torchscript", instances=1, threads=1)


def measured(arm, rows, rows_per_s, p50_s=None, round_=0):
    took = rows / rows_per_s if p50_s is None else p50_s
    return Measurement(arm=arm, rows=rows, round=round_, calls=9, rows_per_s=rows_per_s, p50_s=took, p99_s=took * 2, spread=0.01)


def tuning(*, complete=True, **changes):
    known = {
        "device": "cpu",
        "complete": complete,
        "made_at": "2026-01-02T03:04:05+00:00",
        "machine": Machine.here("cpu"),
        "options": Options(engines=("onnx", "torchscript"), budget_s=9.0, max_call_s=1.0),
        "spent_s": 8.5,
        "measurements": (measured(SMALL, 1, 100.0), measured(SMALL, 8, 400.0)),
        "failures": (Failure(arm=OTHER, reason="no torch"),),
        "fits": (Fit(arm=SMALL, per_row_s=0.001, per_call_s=0.0),),
        "choice": Choice(arm=SMALL, max_rows=8) if complete else None,
    }
    return Tuning(**known | changes)


@pytest.fixture
def directory(mlp_artifact, tmp_path):
    return shutil.copytree(mlp_artifact, tmp_path / "mlp" / "1")


def write(directory, *tunings):
    tuned.write(directory, BenchFile(content_id=read_manifest(directory).content_id, tunings=tunings))


def follow(directory, device="cpu"):
    return tuned.follow(directory, read_manifest(directory), device)


def change(directory, path, value):
    """Writes a complete run in which one value is another one."""
    write(directory, tuning())
    file = directory / "bench.json"
    said = json.loads(file.read_text())
    *way, last = path
    inner = said
    for key in way:
        inner = inner[key]
    inner[last] = value
    file.write_text(json.dumps(said))


class TestTheFile:
    def test_it_is_read_back_as_it_was_written(self, directory):
        """A complete run of this machine is what is followed; nothing else lies in the directory, or beside it."""
        before = {path.name for path in directory.iterdir()}
        write(directory, tuning())

        assert follow(directory) == tuning()
        assert {path.name for path in directory.iterdir()} == before | {"bench.json"}
        assert [path.name for path in directory.parent.iterdir()] == ["1"]

    def test_without_a_file_there_is_nothing_to_say(self, directory):
        """No bench.json is not worth a word."""
        assert follow(directory) is None

    def test_a_complete_run_stays_until_the_next_is_complete(self):
        """An interrupted run lies beside the complete one; a complete one replaces both; another device's stay."""
        old, part, new = tuning(), tuning(complete=False, spent_s=1.0), tuning(spent_s=2.0)
        gpu = tuning(device="cuda:0")
        file = BenchFile(content_id="x").put(gpu).put(old).put(part)

        assert (file.of("cpu", complete=True), file.of("cpu", complete=False)) == (old, part)
        assert file.put(new).tunings == (gpu, new)
        assert file.without(part).tunings == (gpu, old)

    def test_without_a_run_it_goes_away(self, directory):
        """A file with nothing in it is none."""
        write(directory, tuning())
        write(directory)

        assert not (directory / "bench.json").exists()


class TestWhatIsNotFollowed:
    @pytest.mark.parametrize(
        ("path", "value", "reason"),
        [
            (("content_id",), "abc", "is about another artifact: content id 'abc' there, 'ID' here"),
            (("schema",), 2, "is not of schema 1: schema: Input should be 1"),
            (("tunings", 0, "machine", "cpu"), "Z80", "was made on another machine: processor 'Z80' there, 'CPU' here"),
            (("tunings", 0, "machine", "cores"), 999, f"was made on another machine: cores 999 there, {cores()} here"),
            (("tunings", 0, "machine", "isa"), ["mmx"], "was made on another machine: other instruction sets"),
            (
                ("tunings", 0, "machine", "packages", "onnxruntime"),
                "0.1",
                "was made on another machine: onnxruntime '0.1' there, 'ORT' here",
            ),
            (("tunings", 0, "complete"), False, "is not complete: the tuner was interrupted, or is at work"),
            (("tunings", 0, "device"), "cuda:0", "is about cuda:0, not about cpu"),
            (("tunings", 0, "choice"), None, "makes no choice"),
            (("tunings", 0, "choice", "max_rows"), 17, "says what cannot be: calls of 17 rows"),
            (
                ("tunings", 0, "choice", "arm", "instances"),
                100000,
                f"says what cannot be: onnx, 100000 instances x 1 thread on {cores()} core{'s' * (cores() > 1)}",
            ),
            (("tunings", 0, "measurements", 0, "rows"), 99, "says what cannot be: calls of 99 rows"),
            (("tunings", 0, "spent_s"), "1", "is not of schema 1: tunings.0.spent_s: Input should be a valid number"),
            (("tunings", 0, "spent_s"), -1, "is not of schema 1: tunings.0.spent_s: Input should be greater than or equal to 0"),
            (
                ("tunings", 0, "choice", "arm", "engine"),
                "sh",
                "is not of schema 1: tunings.0.choice.arm.engine: String should match pattern '^(onnx|torchscript|pt2)$'",
            ),
            (("tunings", 0, "more"), 1, "is not of schema 1: tunings.0.more: Extra inputs are not permitted"),
            (
                ("tunings", 0, "x\n" * 9000),
                1,
                "is not of schema 1: tunings.0.'" + r"x\n" * 22 + "x\\…: Extra inputs are not permitted",
            ),
            (
                ("tunings", 0, "made_at"),
                "\x1b[2J",
                r"is not of schema 1: tunings.0.made_at: String should match pattern '^[0-9-]{10}T[0-9:]{8}\+00:00$'",
            ),
            (
                ("tunings", 0, "machine", "cpu"),
                "Z" * 200,
                f"was made on another machine: processor '{'Z' * 78}… there, 'CPU' here",
            ),
        ],
    )  # fmt: skip
    def test_the_reason_is_told(self, directory, path, value, reason):
        """What was made for another artifact or machine, is not complete, or says what cannot be, is ignored with the reason."""
        change(directory, path, value)
        here = Machine.here("cpu")
        words = {"CPU": here.cpu, "ORT": here.packages["onnxruntime"], "ID": read_manifest(directory).content_id[:12]}
        for word, value_ in words.items():
            reason = reason.replace(f"'{word}'", repr(value_))

        assert follow(directory) == Ignored(reason)

    def test_a_machine_that_does_not_say_what_it_is(self, directory, monkeypatch):
        """Where the processor has no name, or no instruction sets, another one could not be told from it."""
        unknown = Machine.here("cpu").model_copy(update={"cpu": ""})
        monkeypatch.setattr(Machine, "here", lambda _: unknown)
        write(directory, tuning(machine=unknown))

        assert follow(directory) == Ignored("may be of another machine: this one does not say what its processor is")

    @pytest.mark.parametrize(
        "filled",
        [
            lambda said: said["tunings"][0].update(measurements=[0] * 200_000),
            lambda said: said["tunings"][0].update({f"x{number}": 0 for number in range(40_000)}),
            lambda said: said["tunings"][0]["machine"].update(isa=["a"] * 100_000),
            lambda said: said["tunings"][0]["machine"].update(packages={f"x{number}": 0 for number in range(40_000)}),
            lambda said: said.update(tunings=[{}] * 100_000),
        ],
    )
    def test_a_file_full_of_mistakes(self, directory, filled):
        """It is refused at the first ones: no server stands still over it, and a short reason is told."""
        write(directory, tuning())
        file = directory / "bench.json"
        said = json.loads(file.read_text())
        filled(said)
        file.write_text(json.dumps(said, separators=(",", ":")))
        began = time.process_time()
        found = follow(directory)

        assert isinstance(found, Ignored)
        assert len(found.reason) < 200
        assert time.process_time() - began < 2

    def test_no_more_is_written_than_is_read(self, directory):
        """A run of so many measurements that no server would read it is not written at all."""
        with pytest.raises(OSError, match="File too large"):
            write(directory, tuning(measurements=(measured(SMALL, 1, 100.0),) * 8000))

        assert not (directory / "bench.json").exists()

    def test_the_version_of_an_engine_that_was_not_chosen_does_not_matter(self, directory):
        """ONNX Runtime's choice holds on a host with another PyTorch, or with none."""
        change(directory, ("tunings", 0, "machine", "packages", "torch"), "1.0")

        assert isinstance(follow(directory), Tuning)

    @pytest.mark.parametrize(
        ("data", "reason"),
        [
            (b"", "is not of schema 1: Invalid JSON: EOF while parsing a value at line 1 column 0"),
            (b"[" * 10_000, "is not of schema 1: Invalid JSON: recursion limit exceeded at line 1 column 202"),
            (b"[]", "is not of schema 1: Input should be an object"),
            (b" " * ((512 << 10) + 1), "is not a file that the tuner wrote"),
        ],
    )
    def test_other_bytes(self, directory, data, reason):
        """What is no such file is told, and nothing more."""
        (directory / "bench.json").write_bytes(data)

        assert follow(directory) == Ignored(reason)

    def test_an_engine_that_the_artifact_lacks(self, directory, rewrite_manifest):
        """A choice of another format than those that are there cannot be."""

        def without_torchscript(value):
            del value["content"]["files"]["model.pt"]

        rewrite_manifest(directory, without_torchscript)
        write(directory, tuning(choice=Choice(arm=OTHER, max_rows=8)))

        assert follow(directory) == Ignored("says what cannot be: the artifact holds onnx, pt2, not torchscript")


class TestTheChoice:
    def test_the_fastest_arm_and_the_fewest_rows_that_make_it_so(self):
        """More rows than are needed for 97 % of the best speed would only make every call longer."""
        points = [measured(SMALL, rows, speed) for rows, speed in ((1, 100.0), (8, 395.0), (16, 400.0))]
        points += [measured(WIDE, rows, speed) for rows, speed in ((1, 150.0), (8, 300.0), (16, 350.0))]

        assert tuned.choose(points, 1.0) == Choice(arm=SMALL, max_rows=8)

    @pytest.mark.parametrize(("rows_per_s", "rows"), [(10.0, 1), (1000.0, 16), (10_000.0, 64)])
    def test_what_a_call_costs_the_server_counts(self, rows_per_s, rows):
        """An engine is as fast row by row: joining saves a server 0.3 ms for each call, which matters where calls are short."""
        points = [measured(SMALL, 1 << power, rows_per_s) for power in range(7)]

        assert tuned.choose(points, 10.0) == Choice(arm=SMALL, max_rows=rows)

    def test_a_tie_goes_to_the_shorter_call(self):
        """Of two arms within 3 % the one that answers one row sooner."""
        points = [
            measured(TWO, 1, 200.0, 0.010),
            measured(TWO, 8, 400.0),
            measured(WIDE, 1, 150.0, 0.006),
            measured(WIDE, 8, 392.0),
        ]

        assert tuned.choose(points, 1.0) == Choice(arm=WIDE, max_rows=8)

    def test_a_second_tie_goes_to_the_smaller_arm_and_the_third_to_onnx(self):
        """Where speed and latency are the same, fewer threads in all; then the engine that comes first."""
        points = [measured(arm, 8, 400.0) for arm in (TWO, OTHER, SMALL, WIDE)]

        assert tuned.choose(points, 1.0) == Choice(arm=SMALL, max_rows=8)

    def test_calls_that_take_too_long_do_not_count(self):
        """The best of those below the limit is chosen; an arm's smallest call counts, however long it is."""
        points = [measured(SMALL, 1, 100.0), measured(SMALL, 8, 400.0, 0.5), measured(SMALL, 16, 800.0, 2.0)]

        assert tuned.choose(points, 1.0) == Choice(arm=SMALL, max_rows=8)
        assert tuned.choose(points, 0.001) == Choice(arm=SMALL, max_rows=1)

    def test_of_a_size_measured_twice_the_last_counts(self):
        """A later round is longer, and so nearer to the truth."""
        points = [measured(SMALL, 8, 900.0), measured(WIDE, 8, 500.0), measured(SMALL, 8, 400.0, round_=1)]

        assert tuned.choose(points, 1.0) == Choice(arm=WIDE, max_rows=8)
