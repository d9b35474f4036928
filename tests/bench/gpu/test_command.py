"""The command: what it skips, what it runs, what it writes, and how it ends."""

import copy
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from bench.gpu import __main__ as command
from bench.gpu import cuda
from bench.gpu.stage import Run

PROJECT = Path(__file__).parents[3]


@pytest.fixture
def run(monkeypatch, tmp_path):
    """A function that runs the command with made-up stages' ends, and says its exit code; `asked` are the stages that began."""

    def run(ends=None, **options):
        asked = []

        def ended(one, _log, found, _say):
            asked.append(copy.deepcopy(one))
            finding, how = (ends or {}).get(one.stage, ({"one": 1}, Run("done", 1.0)))
            found(finding)
            return how

        monkeypatch.setattr(command, "run", ended)
        try:
            command.main(**{"device": "cpu", "to": tmp_path / "gpu.md", "folder": tmp_path / "folder", **options})
        except typer.Exit as exited:
            return exited.exit_code, asked
        return 0, asked

    monkeypatch.setattr(command, "STAGES", {name: Told(name) for name in ("facts", "export", "bound", "served")})
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    return run


class Told:
    """A stage whose findings make no table."""

    def __init__(self, name):
        self.name = name

    def tell(self, _findings, _all):
        return ()


def test_without_a_gpu_it_skips_itself_with_one_line(monkeypatch, capsys, run, tmp_path):
    """Exit code 0, and 1 with --require; nothing is written."""
    monkeypatch.setattr(cuda, "why_none", lambda: "there is none")

    assert run(device="cuda:0") == (0, [])
    assert run(device="cuda:0", require=True) == (1, [])
    assert capsys.readouterr().out == "make gpu: skipped, nothing was measured: there is none\n" * 2
    assert list(tmp_path.iterdir()) == []


def test_all_stages_run_in_turn_and_know_what_was_found(run, tmp_path):
    """Exit code 0; the page and the results are there."""
    code, asked = run()

    assert (code, [one.stage for one in asked]) == (0, ["facts", "export", "bound", "served"])
    assert asked[2].earlier == {"facts": [{"one": 1}], "export": [{"one": 1}], "bound": []}
    assert "| served | done | 1 | none |" in (tmp_path / "gpu.md").read_text()
    assert json.loads((tmp_path / "gpu.json").read_text())["stages"]["served"]["findings"] == [{"one": 1}]


@pytest.mark.parametrize(
    "end",
    [
        ({"one": 1}, Run("failed", 1.0, "no server")),
        ({"one": 1}, Run("out of time", 1.0, "it had 1 s")),
        ({"failed": "one engine"}, Run("done", 1.0)),
    ],
)
def test_after_a_stage_that_fails_the_others_go_on(run, end):
    """Exit code 1 at the end, also where a single finding failed."""
    code, asked = run({"export": end})

    assert (code, len(asked)) == (1, 4)


def test_a_stage_has_what_the_earlier_ones_left(run):
    """Their budgets add up; patience multiplies them."""
    _, asked = run(smallest=True, patience=2.0)

    assert [round(one.seconds, -2) for one in asked] == [600, 1200, 1800, 2400]


def test_one_stage_runs_with_what_it_needs(run, tmp_path):
    """The others' results are kept where that is asked for, and only then."""
    run()

    code, asked = run({"bound": ({"two": 2}, Run("done", 1.0))}, only=["bound"], keep=True)

    assert (code, [one.stage for one in asked]) == (0, ["facts", "export", "bound"])
    stages = json.loads((tmp_path / "gpu.json").read_text())["stages"]
    assert (stages["bound"]["findings"], stages["served"]["findings"]) == ([{"two": 2}], [{"one": 1}])
    run(only=["bound"])
    assert "served" not in json.loads((tmp_path / "gpu.json").read_text())["stages"]


def test_a_stage_that_does_not_exist_is_refused(run):
    """With the names of those that do."""
    with pytest.raises(typer.BadParameter, match="there is no stage bounds; there are facts, export, bound, served"):
        run(only=["bounds"])


@pytest.mark.processes
def test_a_rehearsal_runs_every_stage_on_the_cpu(tmp_path):
    """The smallest one: a real export, real engines, real servers of several processes, a kill; every stage ends well."""
    flags = ["--device", "cpu", "--smallest", "--to", str(tmp_path / "gpu.md"), "--folder", str(tmp_path / "folder")]

    command = [sys.executable, "-m", "bench.gpu", *flags]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=900, check=False)

    stages = json.loads((tmp_path / "gpu.json").read_text())["stages"]
    assert {name: (one["status"], one["error"]) for name, one in stages.items()} == dict.fromkeys(stages, ("done", None))
    assert len(stages) == 8
    assert done.returncode == 0, done.stderr
    assert "A rehearsal on the CPU" in (tmp_path / "gpu.md").read_text()
