"""A Keeper in a training loop: what is written, what stays, and what happens when something fails."""

import errno
import json
import logging
import os
import shutil
import subprocess
import sys
import threading

import pytest
import torch

from checkpoints.errors import DirectoryTaken, KeeperError, NotEnoughSpace, NothingToResume, SaveFailed
from checkpoints.keeping import keeper as keeper_module
from checkpoints.keeping.fence import claim, read_fence, this_process
from checkpoints.keeping.git import git_state
from checkpoints.keeping.keeper import Keeper
from checkpoints.keeping.local_store import LocalStore
from checkpoints.keeping.policies import Best, EveryEpochs, EverySeconds, EverySteps, Last
from checkpoints.keeping.scan import scan


@pytest.fixture
def model():
    torch.manual_seed(0)
    return torch.nn.Linear(4, 3)


def resumed_step(keeper, model):
    resumed = keeper.resume(model)
    return None if resumed is None else resumed.step


def steps(directory):
    return [sidecar.step for sidecar in scan(LocalStore(directory)).complete]


def target(directory, link):
    return (directory / link).readlink().name


def weights_of(directory, step):
    return next(path for path in directory.glob(f"step-{step:08}*") if path.suffix in {".safetensors", ".pth"})


@pytest.mark.parametrize("kind", ["safetensors", "pth"])
def test_a_training_is_saved_and_resumed(tmp_path, model, kind):
    """What was saved last is in the model and the optimizer again."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    with Keeper(tmp_path / "run", format=kind) as keeper:
        assert keeper.resume(model, optimizer) is None
        for step in range(3):
            optimizer.zero_grad()
            model(torch.ones(2, 4)).sum().backward()
            optimizer.step()
            assert keeper.save(step, model, optimizer, epoch=step, metrics={"loss": torch.tensor(1.0 / (step + 1))})
    other = torch.nn.Linear(4, 3)
    fresh = torch.optim.SGD(other.parameters(), lr=0.5, momentum=0.1)
    with Keeper(tmp_path / "run", format=kind) as keeper:
        resumed = keeper.resume(other, fresh)
    assert resumed is not None
    assert (resumed.step, resumed.epoch, resumed.skipped) == (2, 2, ())
    assert resumed.metrics["loss"] == pytest.approx(1 / 3)
    assert resumed.name == target(tmp_path / "run", "latest.pth")
    assert torch.equal(other.weight, model.weight)
    assert fresh.param_groups[0]["lr"] == 0.1
    assert torch.equal(fresh.state[other.weight]["momentum_buffer"], optimizer.state[model.weight]["momentum_buffer"])


def test_without_a_policy_the_last_three_stay(tmp_path, model):
    """Files of the others are gone, whole; nothing temporary is left."""
    with Keeper(tmp_path) as keeper:
        for step in range(6):
            keeper.save(step, model)
    assert steps(tmp_path) == [3, 4, 5]
    assert target(tmp_path, "latest.pth") == "step-00000005.safetensors"
    assert sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith("step-0000000")) == [
        ".keeper.json",
        ".keeper.lock",
        "latest.pth",
    ]
    assert len(list(tmp_path.glob("step-*"))) == 9


def test_policies_compose_and_the_union_stays(tmp_path, model):
    """Best two by accuracy, every fifth epoch, the last one; each of its sidecars says who wanted it."""
    accuracies = [0.1, 0.9, 0.3, 0.8, 0.2, 0.9, 0.4, 0.5, 0.6, 0.0, 0.1]
    with Keeper(tmp_path, Best("acc", mode="max", top=2), EveryEpochs(5), Last(1)) as keeper:
        for epoch, accuracy in enumerate(accuracies):
            keeper.save(epoch * 10, model, epoch=epoch, metrics={"acc": accuracy})
    assert steps(tmp_path) == [10, 40, 50, 90, 100]
    assert target(tmp_path, "best.pth") == "step-00000010.safetensors"
    assert target(tmp_path, "latest.pth") == "step-00000100.safetensors"
    assert json.loads((tmp_path / "step-00000040.json").read_bytes())["kept_by"] == ["every-5-epochs", "last-1"]


def test_what_no_policy_wants_is_not_written_unless_it_is_forced(tmp_path, model):
    """save says whether it saved."""
    with Keeper(tmp_path, EverySteps(100)) as keeper:
        assert [keeper.save(step, model) for step in (0, 50, 100, 150, 220)] == [False, False, True, False, True]
        assert keeper.save(230, model, force=True)
    assert steps(tmp_path) == [100, 220, 230]


def test_best_is_known_while_the_best_is_still_being_written(tmp_path, model):
    """A save that is worse than the one in the background is not wanted."""
    with Keeper(tmp_path, Best("loss")) as keeper:
        assert keeper.save(1, model, metrics={"loss": 1.0})
        assert not keeper.save(2, model, metrics={"loss": 1.5})
        assert not keeper.save(3, model, metrics={"loss": 1.0})
        assert keeper.save(4, model, metrics={"loss": 0.5})
        assert not keeper.save(5, model, metrics={"loss": float("nan")})
        assert not keeper.save(6, model)
    assert steps(tmp_path) == [4]


def test_each_further_metric_has_a_link_of_its_own(tmp_path, model):
    """best.pth is the first policy's."""
    with Keeper(tmp_path, Best("acc", "max"), Best("val/loss")) as keeper:
        keeper.save(1, model, metrics={"acc": 0.9, "val/loss": 3})
        keeper.save(2, model, metrics={"acc": 0.8, "val/loss": 1})
    assert target(tmp_path, "best.pth") == "step-00000001.safetensors"
    assert target(tmp_path, "best-val_loss.pth") == target(tmp_path, "latest.pth") == "step-00000002.safetensors"


def test_every_seconds_is_counted_in_the_process(tmp_path, model, monkeypatch):
    """The clock on the wall may be set back: the policy does not look at it."""
    now = [1000.0]
    monkeypatch.setattr(keeper_module.time, "monotonic", lambda: now[0])
    with Keeper(tmp_path, EverySeconds(60)) as keeper:
        saved = []
        for step in range(10):
            now[0] += 25
            if keeper.save(step, model):
                saved.append(step)
    assert saved == [2, 5, 8]


def test_a_milestone_outlives_a_training_with_other_policies(tmp_path, model):
    """A Keeper with the default policy removes nothing that was once kept for good."""
    with Keeper(tmp_path, EverySteps(10)) as keeper:
        for step in (10, 20, 30):
            keeper.save(step, model)
    with Keeper(tmp_path, Last(1)) as keeper:
        for step in (31, 32):
            keeper.save(step, model)
    assert steps(tmp_path) == [10, 20, 30, 32]


def test_what_a_link_names_is_never_removed(tmp_path, model):
    """The best of an earlier training with another policy stays, as long as best.pth names it."""
    with Keeper(tmp_path, Best("loss")) as keeper:
        keeper.save(1, model, metrics={"loss": 0.1})
    with Keeper(tmp_path, Last(1)) as keeper:
        for step in (2, 3, 4):
            keeper.save(step, model)
    assert steps(tmp_path) == [1, 4]
    assert target(tmp_path, "best.pth") == "step-00000001.safetensors"


def test_the_same_step_again_gets_files_of_its_own(tmp_path, model):
    """Nothing is overwritten: a training that went back writes beside what is there, and its newest is newest."""
    with Keeper(tmp_path) as keeper:
        keeper.save(7, model)
        keeper.save(9, model)
    with Keeper(tmp_path) as keeper:
        keeper.save(7, model)
    assert target(tmp_path, "latest.pth") == "step-00000007-2.safetensors"
    assert [(sidecar.stem, sidecar.sequence) for sidecar in scan(LocalStore(tmp_path)).complete] == [
        ("step-00000007", 1),
        ("step-00000009", 2),
        ("step-00000007-2", 3),
    ]


def test_every_decision_survives_a_resumption(tmp_path, model):
    """EverySteps does not save again at once, and the best of before is still the one to beat."""
    policies = (EverySteps(100), Best("loss"))
    with Keeper(tmp_path, *policies) as keeper:
        keeper.save(130, model, metrics={"loss": 1.0})
    with Keeper(tmp_path, *policies) as keeper:
        keeper.resume(model)
        assert not keeper.save(140, model, metrics={"loss": 2.0})
        assert keeper.save(201, model, metrics={"loss": 2.0})


def test_a_dry_run_removes_nothing_and_says_what_it_would(tmp_path, model):
    """Leftovers of killed writes stay as well."""
    (tmp_path / ".tmp-step-00000000.pth-0123456789abcdef").write_bytes(b"half")
    with Keeper(tmp_path, Last(1), dry_run=True, format="pth") as keeper:
        for step in (1, 2, 3):
            keeper.save(step, model)
        assert keeper.would_remove == ("step-00000001.json", "step-00000001.pth", "step-00000002.json", "step-00000002.pth")
    assert steps(tmp_path) == [1, 2, 3]
    assert list(tmp_path.glob(".tmp-*"))


def test_leftovers_are_swept_at_the_next_start(tmp_path, model):
    """Temporary files, files without a sidecar and half-done removals go; whole checkpoints and other files stay."""
    with Keeper(tmp_path) as keeper:
        for step in (1, 2, 3):
            keeper.save(step, model)
    (tmp_path / "step-00000001.json").unlink()
    (tmp_path / "step-00000004.safetensors").write_bytes(b"whole, but its sidecar was not written")
    (tmp_path / ".tmp-step-00000005.safetensors-0123456789abcdef").write_bytes(b"half")
    (tmp_path / "notes.txt").write_bytes(b"mine")
    (tmp_path / "latest.pth").unlink()
    Keeper(tmp_path).close()
    assert steps(tmp_path) == [2, 3]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".keeper.json",
        ".keeper.lock",
        "latest.pth",
        "notes.txt",
        *(f"step-0000000{step}.{end}" for step in (2, 3) for end in ("json", "safetensors", "state.pth")),
    ]
    assert target(tmp_path, "latest.pth") == "step-00000003.safetensors"


def test_what_lay_there_before_any_keeper_is_never_swept(tmp_path, model):
    """Another trainer's files may have names like ours; its best.pth is not replaced."""
    (tmp_path / "step-00000500.pth").write_bytes(b"another trainer's")
    for _ in range(2):
        with Keeper(tmp_path, format="pth") as keeper:
            keeper.save(500, model)
    assert (tmp_path / "step-00000500.pth").read_bytes() == b"another trainer's"
    assert target(tmp_path, "latest.pth") == "step-00000500-3.pth"


@pytest.mark.parametrize("name", ["latest.pth", "best.pth"])
def test_a_keeper_does_not_start_where_a_link_would_replace_a_file(tmp_path, name):
    """It says so before the training begins, not at its first save."""
    (tmp_path / name).write_bytes(b"weights")
    with pytest.raises(KeeperError) as error:
        Keeper(tmp_path, Best("loss"))
    assert str(error.value) == (
        f"{tmp_path} has a file {name}; a Keeper's {name} is a link, and does not replace a file that holds weights. "
        f"Move {name} away, or keep in a directory of its own."
    )
    assert (tmp_path / name).read_bytes() == b"weights"


def test_resume_passes_over_what_is_damaged_and_says_so(tmp_path, model, caplog):
    """The next older one is taken; the damaged one is neither best any more nor removed."""
    with Keeper(tmp_path, Best("loss"), Last(3)) as keeper:
        for step in (1, 2, 3):
            keeper.save(step, model, metrics={"loss": 1 / step})
    path = weights_of(tmp_path, 3)
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    weights_of(tmp_path, 2).unlink()
    with caplog.at_level(logging.WARNING), Keeper(tmp_path, Best("loss"), Last(1)) as keeper:
        resumed = keeper.resume(model)
        assert resumed is not None
        assert resumed.step == 1
        assert [skipped.name for skipped in resumed.skipped] == ["step-00000002.json", "step-00000003.json"]
        keeper.save(4, model, metrics={"loss": 0.4})
    assert len(caplog.records) == 2
    assert target(tmp_path, "best.pth") == "step-00000004.safetensors"
    assert path.is_file()


def test_nothing_is_begun_anew_where_everything_is_damaged(tmp_path, model):
    """A training that would silently start at step 0 is stopped."""
    with Keeper(tmp_path, Last(1)) as keeper:
        keeper.save(1, model)
    weights_of(tmp_path, 1).unlink()
    with Keeper(tmp_path) as keeper, pytest.raises(NothingToResume) as error:
        keeper.resume(model)
    assert str(error.value).splitlines() == [
        f"{tmp_path} has checkpoints, and none of them can be resumed from:",
        "  step-00000001.json: step-00000001.safetensors is missing; step-00000001.json lists it.",
        "To start afresh, move them away or name another directory.",
    ]


def test_too_little_space_is_found_before_anything_is_written(tmp_path, model, monkeypatch):
    """The error has both figures, and the checkpoints before are as they were."""
    with Keeper(tmp_path) as keeper:
        keeper.save(1, model)
        keeper.flush()
        before = sorted(tmp_path.iterdir())
        monkeypatch.setattr(LocalStore, "free_bytes", lambda _self: 100_000)
        with pytest.raises(NotEnoughSpace, match="has 100000 bytes free; this checkpoint needs about") as error:
            keeper.save(2, model)
        assert error.value.free_bytes == 100_000
        assert error.value.needed_bytes > 1 << 20
        assert sorted(tmp_path.iterdir()) == before


def test_a_failed_write_is_told_at_the_next_call_and_made_up_for(tmp_path, model, monkeypatch):
    """The training learns of it, goes on if it likes, and a milestone that was not written is taken by the next save."""
    write = LocalStore.write

    def fail(self, name, produce):
        if name == "step-00000010.state.pth":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(self, name, produce)

    monkeypatch.setattr(LocalStore, "write", fail)
    with Keeper(tmp_path, EverySteps(10)) as keeper:
        keeper.save(10, model)
        with pytest.raises(SaveFailed) as error:
            keeper.flush()
        assert not list(tmp_path.glob("step-*"))
        assert keeper.save(11, model)
        assert not keeper.save(12, model)
    assert str(error.value) == (
        f"The checkpoint of step 10 was not written in {tmp_path}: No space left on device. "
        "The checkpoints before it are as they were."
    )
    assert isinstance(error.value.__cause__, OSError)
    assert steps(tmp_path) == [11]


def test_a_milestone_whose_links_failed_is_not_made_up_for(tmp_path, model, monkeypatch):
    """It is complete: the next save need not take its place."""
    monkeypatch.setattr(LocalStore, "point", lambda *_args: (_ for _ in ()).throw(OSError(errno.EIO, "Input/output error")))
    with Keeper(tmp_path, EverySteps(10)) as keeper:
        keeper.save(10, model)
        with pytest.raises(SaveFailed, match="is complete, but the links and the removal of older ones failed"):
            keeper.flush()
        monkeypatch.undo()
        assert not keeper.save(11, model)
    assert steps(tmp_path) == [10]


def test_a_failed_write_is_told_at_the_end_at_the_latest(tmp_path, model, monkeypatch):
    """close raises it, and lets the place go."""
    monkeypatch.setattr(LocalStore, "point", lambda *_args: (_ for _ in ()).throw(OSError(errno.EIO, "Input/output error")))
    keeper = Keeper(tmp_path)
    keeper.save(1, model)
    with pytest.raises(SaveFailed, match="is complete, but the links and the removal of older ones failed"):
        keeper.close()
    monkeypatch.undo()
    with Keeper(tmp_path) as keeper:
        assert resumed_step(keeper, model) == 1


def test_a_training_that_fails_keeps_its_own_error(tmp_path, model, monkeypatch):
    """The training's error is not hidden by the Keeper's, which is noted beside it."""
    monkeypatch.setattr(LocalStore, "point", lambda *_args: (_ for _ in ()).throw(OSError(errno.EIO, "Input/output error")))

    def train():
        with Keeper(tmp_path) as keeper:
            keeper.save(1, model)
            raise ValueError("loss is NaN")

    with pytest.raises(ValueError, match="loss is NaN") as error:
        train()
    assert "Input/output error" in error.value.__notes__[0]


def test_a_removed_directory_is_an_error_that_names_it(tmp_path, model):
    """It is not made again in silence: what was in it is gone, and somebody must know."""
    run = tmp_path / "run"
    with Keeper(run) as keeper:
        keeper.save(1, model)
        keeper.flush()
        shutil.rmtree(run)
        with pytest.raises(SaveFailed, match="No such file or directory") as error:
            keeper.save(2, model)
        assert str(run) in str(error.value)
        assert not run.exists()


def test_a_second_trainer_is_kept_out_until_the_first_ends(tmp_path, model):
    """In the same process, and by another."""
    script = "import sys; from checkpoints.keeping.keeper import Keeper; Keeper(sys.argv[1])"
    with Keeper(tmp_path) as keeper:
        with pytest.raises(DirectoryTaken):
            Keeper(tmp_path)
        done = subprocess.run([sys.executable, "-c", script, tmp_path], capture_output=True, text=True, timeout=60, check=False)
        assert f"DirectoryTaken: Another trainer keeps its checkpoints in {tmp_path}: process {os.getpid()} on" in done.stderr
        keeper.save(1, model)
    Keeper(tmp_path).close()


def test_a_trainer_whose_place_was_taken_over_stops_writing(tmp_path, model):
    """Where no lock can tell, the newer one has the place; the older one finds out before it writes."""
    with Keeper(tmp_path) as keeper:
        keeper.save(1, model)
        keeper.flush()
        claim(LocalStore(tmp_path), this_process("another"))
        keeper.save(2, model)
        with pytest.raises(DirectoryTaken, match="was taken over by another trainer; this one writes no more checkpoints there"):
            keeper.flush()
    assert steps(tmp_path) == [1]
    fence = read_fence(LocalStore(tmp_path))
    assert fence is not None
    assert fence.run == "another"


def test_a_trainer_whose_file_was_swept_under_its_hands_is_told_why(tmp_path, model, monkeypatch):
    """The newer trainer is the reason, not a missing file."""
    write = LocalStore.write

    def swept(self, name, produce):
        def produce_and_lose(stream):
            produce(stream)
            claim(self, this_process("another"))
            self.sweep()

        return write(self, name, produce_and_lose)

    monkeypatch.setattr(LocalStore, "write", swept)
    with Keeper(tmp_path) as keeper:
        keeper.save(1, model)
        with pytest.raises(DirectoryTaken):
            keeper.flush()


@pytest.mark.parametrize(
    "variables", [{"RANK": "1"}, {"LOCAL_RANK": "1"}, {"NODE_RANK": "1", "LOCAL_RANK": "0"}, {"SLURM_PROCID": "3"}]
)
def test_other_ranks_write_nothing_and_resume(tmp_path, model, monkeypatch, caplog, variables):
    """Of several processes rank 0 writes, while all read."""
    with Keeper(tmp_path) as first:
        first.save(3, model)
        first.flush()
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        before = sorted(tmp_path.iterdir())
        with Keeper(tmp_path) as keeper:
            assert resumed_step(keeper, torch.nn.Linear(4, 3)) == 3
            assert not keeper.save(4, model)
            assert keeper.would_remove == ()
        assert sorted(tmp_path.iterdir()) == before
    told = "SLURM_PROCID is 3: this process writes no checkpoints. RANK=0 says otherwise."
    assert (told in caplog.messages) == ("SLURM_PROCID" in variables)


def test_the_rank_decides_where_there_is_one(tmp_path, model, monkeypatch):
    """The first process of a second machine is not the first of the training, the first of all is."""
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("SLURM_PROCID", "1")
    with Keeper(tmp_path) as keeper:
        assert keeper.save(1, model)


def test_a_save_waits_for_the_one_before(tmp_path, model, monkeypatch):
    """At most one is being written; the training goes on beside it, the next save waits."""
    begun, go_on = threading.Event(), threading.Event()
    write = LocalStore.write

    def slow(self, name, produce):
        begun.set()
        assert go_on.wait(30)
        return write(self, name, produce)

    monkeypatch.setattr(LocalStore, "write", slow)
    with Keeper(tmp_path) as keeper:
        keeper.save(1, model)
        assert begun.wait(30)
        assert steps(tmp_path) == []
        threading.Timer(0.01, go_on.set).start()
        keeper.save(2, model)
        assert steps(tmp_path)[:1] == [1]


def test_without_a_background_a_save_is_on_the_disk_when_it_returns(tmp_path, model):
    """For those who want no thread."""
    with Keeper(tmp_path, background=False) as keeper:
        keeper.save(1, model)
        assert steps(tmp_path) == [1]


def test_a_program_that_forgets_to_close_loses_nothing(tmp_path):
    """The interpreter waits for the write."""
    script = (
        "import sys, torch; from checkpoints.keeping.keeper import Keeper;"
        "Keeper(sys.argv[1]).save(1, torch.nn.Linear(1000, 1000))"
    )
    subprocess.run([sys.executable, "-c", script, tmp_path], timeout=60, check=True)
    assert steps(tmp_path) == [1]


def test_the_facts_are_in_the_sidecar(tmp_path, model):
    """Config, environment, commit and the reports of a warm start."""
    report = {"path": "other.pth", "taken": ["weight"]}
    with Keeper(tmp_path, config={"lr": 0.1}, warm_start=report) as keeper:
        keeper.save(1, model, epoch=0, metrics={"loss": 0.5, "nan": float("nan")})
        keeper.save(2, model, config={"lr": 0.2})
    first, second = (json.loads((tmp_path / f"step-0000000{step}.json").read_bytes()) for step in (1, 2))
    assert first["config"] == {"lr": 0.1}
    assert second["config"] == {"lr": 0.2}
    assert first["metrics"] == {"loss": 0.5, "nan": "NaN"}
    assert first["warm_start"] == [report]
    assert first["environment"]["python"]
    assert set(first["git"] or {"commit", "dirty"}) == {"commit", "dirty"}
    with Keeper(tmp_path) as keeper:
        keeper.resume(model)
        keeper.save(3, model)
    assert json.loads((tmp_path / "step-00000003.json").read_bytes())["warm_start"] == [report]


def test_what_differs_from_where_it_was_saved_is_noted(tmp_path, model):
    """A training that goes on under another Python is told so; where all is the same, nothing is said."""
    with Keeper(tmp_path) as keeper:
        keeper.save(1, model)
        keeper.flush()
        resumed = keeper.resume(model)
        assert resumed is not None
        assert resumed.notes == ()
    path = tmp_path / "step-00000001.json"
    sidecar = json.loads(path.read_bytes())
    sidecar["environment"]["packages"]["torch"] = "1.0.0"
    path.write_text(json.dumps(sidecar))
    with Keeper(tmp_path) as keeper:
        resumed = keeper.resume(model)
    assert resumed is not None
    assert any("torch" in note and "1.0.0" in note for note in resumed.notes)


YAML = """
schema: 1
name: digits
outputs: {logits: {dtype: float32, shape: [batch, 3], labels: here/labels.txt}}
preprocess: [{tokenize: {file: here/tokenizer.json, max_tokens: 16}}]
"""


def test_a_yaml_goes_with_the_weights_and_its_files_beside_them(tmp_path, model):
    """An exporter takes labels and a tokenizer that stand beside the checkpoint: they are copied there, and named so."""
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "labels.txt").write_text("a\nb\nc\n")
    (tmp_path / "here" / "tokenizer.json").write_text("{}")
    (tmp_path / "digits.yaml").write_text(YAML)
    for _ in range(2):
        with Keeper(tmp_path / "run", config=tmp_path / "digits.yaml") as keeper:
            keeper.save(1, model)
    assert (tmp_path / "run" / "labels.txt").read_text() == "a\nb\nc\n"
    config = json.loads((tmp_path / "run" / "step-00000001.json").read_bytes())["config"]
    assert config["outputs"]["logits"]["labels"] == "labels.txt"
    assert (tmp_path / "run" / "tokenizer.json").read_text() == "{}"
    assert config["preprocess"] == [{"tokenize": {"file": "tokenizer.json", "max_tokens": 16}}]
    (tmp_path / "here" / "labels.txt").write_text("d\ne\nf\n")
    with pytest.raises(KeeperError, match=r"the file labels\.txt in .* is another than this training's"):
        Keeper(tmp_path / "run", config=tmp_path / "digits.yaml")
    Keeper(tmp_path / "run").close()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"format": "zip"}, "format is 'zip', expected one of 'pth', 'safetensors'."),
        ({"config": {"f": len}}, "config: Object of type builtin_function_or_method is not JSON serializable;"),
        ({"config": {"lr": float("nan")}}, "config: Out of range float values are not JSON compliant"),
        ({"config": "missing.yaml"}, "config: missing.yaml cannot be read: No such file or directory."),
    ],
)
def test_arguments_that_do_not_fit_are_refused_at_once(tmp_path, arguments, message):
    """Before the training begins."""
    with pytest.raises(KeeperError) as error:
        Keeper(tmp_path, **arguments)
    assert str(error.value).startswith(message)
    Keeper(tmp_path).close()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"step": -1}, "step is -1, expected a whole number from 0 to 1000000000000000."),
        ({"step": 1.5}, "step is 1.5, expected a whole number."),
        ({"epoch": True}, "epoch is True, expected a whole number from 0 to 1000000000000000."),
        ({"metrics": {"loss": [1]}}, "metrics: loss is list, expected one number."),
        ({"metrics": {"loss": torch.ones(2)}}, "metrics: loss is Tensor, expected one number."),
        ({"metrics": {"loss": "1"}}, "metrics: loss is '1', expected a number."),
    ],
)
def test_what_a_save_is_given_is_checked(tmp_path, model, arguments, message):
    """A wrong argument is an error in the training's own thread."""
    with Keeper(tmp_path) as keeper:
        with pytest.raises(KeeperError) as error:
            keeper.save(**{"step": 1, "model": model, **arguments})
        assert str(error.value) == message


def test_the_commit_and_whether_anything_differs_from_it(tmp_path, monkeypatch):
    """Of the program's repository; None where there is none."""
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    repository = tmp_path / "repository"
    repository.mkdir()
    assert git_state(repository) is None
    git = ["git", "-C", str(repository), "-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    for words in (["init", "--quiet"], ["commit", "--quiet", "--allow-empty", "--message", "first"]):
        subprocess.run([*git, *words], check=True, timeout=30)
    state = git_state(repository)
    assert state is not None
    assert len(state["commit"]) == 40
    assert state["dirty"] is False
    (repository / "train.py").write_text("")
    assert git_state(repository) == {"commit": state["commit"], "dirty": True}
    assert git_state(tmp_path / "missing") is None


def test_a_closed_keeper_says_so(tmp_path, model):
    """Closing twice is nothing; saving after it is an error."""
    keeper = Keeper(tmp_path)
    keeper.close()
    keeper.close()
    with pytest.raises(KeeperError, match="The Keeper is closed"):
        keeper.save(1, model)


def test_a_file_in_the_way_is_said(tmp_path):
    """A path that is a file is no place of checkpoints."""
    (tmp_path / "run").write_bytes(b"")
    with pytest.raises(KeeperError, match="is not a directory"):
        Keeper(tmp_path / "run")


def test_a_resume_within_an_epoch_knows_the_epochs_that_were_kept(tmp_path):
    """A training that is killed often keeps no more epochs for good than one that is not."""
    model = torch.nn.Linear(2, 2)
    with Keeper(tmp_path, EveryEpochs(5), Last(1)) as keeper:
        for epoch in range(6):
            keeper.save(epoch, model, epoch=epoch)
        keeper.save(100, model)

    with Keeper(tmp_path, EveryEpochs(5), Last(1)) as keeper:
        resumed = keeper.resume(model)
        assert resumed is not None
        assert resumed.step == 100
        for epoch in range(6, 8):
            keeper.save(100 + epoch, model, epoch=epoch)

    assert [sidecar.epoch for sidecar in scan(LocalStore(tmp_path)).complete] == [4, 7]
