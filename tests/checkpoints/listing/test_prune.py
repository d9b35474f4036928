"""Pruning: the union of what is asked for stays, nothing else that could be missed goes, and every reason is told."""

import errno
import json
import os
from pathlib import Path

import foreign_checkpoints
import pytest
import torch

from checkpoints.errors import DirectoryTaken, UnreadableCheckpoint
from checkpoints.keeping.fence import this_process
from checkpoints.keeping.sidecar import KeptFile, Sidecar
from checkpoints.keeping.store import open_store
from checkpoints.listing.command import list_command, prune_command
from checkpoints.listing.keep import WrongKeep, parse_keep
from checkpoints.listing.look import look
from checkpoints.listing.plan import Choice, make_plan
from checkpoints.listing.remove import PRUNED_PREFIX, PruneFailed, carry_out


def plan(folder, *keep, **options):
    return make_plan(look(folder), Choice(keep=parse_keep(keep), **options))


def going(folder, *keep, **options):
    return [entry.name for entry in plan(folder, *keep, **options).goes]


def present(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_union_of_what_is_asked_for_stays(tmp_path):
    """Last, best and every … compose; what none of them keeps goes, the oldest first."""
    foreign_checkpoints.plain(
        tmp_path, range(1, 11), epoch=lambda epoch: epoch, val_acc=lambda epoch: 0.9 if epoch == 2 else epoch / 100
    )

    found = plan(tmp_path, "last:2", "best:val_acc:max", "every:4:epochs")

    assert [entry.name for entry in found.goes] == [f"epoch_{epoch}.pth" for epoch in (1, 3, 5, 6, 7)]
    assert found.stays == {
        "epoch_2.pth": ("best:val_acc:max:1",),
        "epoch_4.pth": ("every:4:epochs",),
        "epoch_8.pth": ("every:4:epochs",),
        "epoch_9.pth": ("last:2",),
        "epoch_10.pth": ("last:2",),
    }


def test_carrying_out_removes_just_that(tmp_path):
    """What goes is gone, what stays and what is no checkpoint is as it was."""
    foreign_checkpoints.plain(tmp_path, range(5))
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "epoch_0.yaml").write_text("mine: 1")

    changed = carry_out(plan(tmp_path, "last:2"))

    assert changed == ()
    assert present(tmp_path) == ["epoch_0.yaml", "epoch_3.pth", "epoch_4.pth", "notes.txt"]


def test_timms_best_and_last_stay(tmp_path):
    """Names that say best and last are protected, hard links or not."""
    foreign_checkpoints.timm(tmp_path, [0.5, 0.9, 0.7, 0.6])

    found = plan(tmp_path, "last:1")
    assert found.freed_bytes() == (tmp_path / "checkpoint-0.pth.tar").stat().st_size * 2  # of three: one is also model_best
    assert going(tmp_path, "best:metric:max") == ["checkpoint-0.pth.tar", "checkpoint-2.pth.tar"]
    carry_out(plan(tmp_path, "last:1"))

    assert sorted(path.name for path in tmp_path.glob("*.tar")) == ["checkpoint-3.pth.tar", "last.pth.tar", "model_best.pth.tar"]
    assert torch.load(tmp_path / "model_best.pth.tar", weights_only=False)["epoch"] == 1


def test_a_trainers_folders_go_whole(tmp_path):
    """The folder that trainer_state.json calls the best stays; the others go with all that is in them."""
    foreign_checkpoints.trainer(tmp_path, [0.9, 0.5, 0.7, 0.6], best="checkpoint-200")
    (tmp_path / f"{PRUNED_PREFIX}checkpoint-50-0123456789abcdef").mkdir()

    carry_out(plan(tmp_path, "last:1"))

    assert present(tmp_path) == ["checkpoint-200", "checkpoint-400", "runs", "training_args.bin"]


def test_links_targets_stay(tmp_path):
    """What a link leads to stays, and the link still leads there."""
    foreign_checkpoints.plain(tmp_path, [1, 2, 3])
    (tmp_path / "chosen.pth").symlink_to("epoch_1.pth")

    carry_out(plan(tmp_path, "last:1"))

    assert present(tmp_path) == ["chosen.pth", "epoch_1.pth", "epoch_3.pth"]


def test_what_is_torn_does_not_count(tmp_path):
    """The newest is torn: last:1 keeps the newest whole one; the torn one stays too, for a person to look at."""
    foreign_checkpoints.plain(tmp_path, [1, 2, 3])
    (tmp_path / "epoch_3.pth").write_bytes(b"")

    assert going(tmp_path, "last:1") == ["epoch_1.pth"]
    assert plan(tmp_path, "last:1").stays["epoch_3.pth"][0].startswith("unusable: it is an empty file")


def test_series_are_pruned_one_by_one(tmp_path):
    """Two networks of one training keep two checkpoints each."""
    foreign_checkpoints.plain(tmp_path, range(1, 5), "netG_epoch_{}.pth")
    foreign_checkpoints.plain(tmp_path, range(1, 5), "netD_epoch_{}.pth")

    assert going(tmp_path, "last:2") == ["netD_epoch_1.pth", "netD_epoch_2.pth", "netG_epoch_1.pth", "netG_epoch_2.pth"]
    assert going(tmp_path, "last:2", only=["netG*"]) == ["netG_epoch_1.pth", "netG_epoch_2.pth"]
    assert going(tmp_path, "last:3", one_series=True) == ["netD_epoch_1.pth", "netG_epoch_1.pth"]


def test_a_series_that_is_left_out_need_not_have_the_metric(tmp_path):
    """best by a metric of one series only is refused for the other one, unless --only leaves that out."""
    foreign_checkpoints.plain(tmp_path, range(1, 4), "netG_epoch_{}.pth", fid=lambda epoch: epoch / 2)
    foreign_checkpoints.plain(tmp_path, range(1, 4), "netD_epoch_{}.pth")

    with pytest.raises(WrongKeep, match=r"no checkpoint of netD_epoch_#\.pth has a metric fid; its checkpoints tell no metrics"):
        plan(tmp_path, "best:fid:min")
    assert going(tmp_path, "best:fid:min", only=["netG_*"]) == ["netG_epoch_2.pth"]


def test_models_with_numbers_in_their_names_are_no_series(tmp_path):
    """resnet18 and resnet50 stay, though 18 is less than 50; so do versions of a model."""
    foreign_checkpoints.plain(tmp_path, (18, 50), "resnet{}.pth", epoch=lambda _: 90)
    foreign_checkpoints.plain(tmp_path, (1, 2), "model_v{}.pth", epoch=lambda _: 90)

    assert going(tmp_path, "last:1") == []


def test_nothing_goes_by_time_unless_asked(tmp_path):
    """Without a step or epoch anywhere nothing goes; with --order-by-time the oldest does, and the plan says so."""
    foreign_checkpoints.plain(tmp_path, ("a", "b", "c"), "{}.pth")
    for age, name in enumerate(("b", "c", "a")):
        os.utime(tmp_path / f"{name}.pth", (1_000_000 + age, 1_000_000 + age))

    assert going(tmp_path, "last:1") == []
    assert going(tmp_path, "last:1", one_series=True) == []
    assert going(tmp_path, "last:1", one_series=True, by_time=True) == ["b.pth", "c.pth"]
    assert plan(tmp_path, "last:1", one_series=True, by_time=True).notes == (
        "all: ordered by the time of writing alone, as asked; copying or syncing a folder changes it.",
    )


def test_content_orders_what_names_do_not(tmp_path):
    """Files of any name with epochs inside are one series if a person says so; equal epochs stay or go together."""
    for name, epoch in (("x", 3), ("y", 1), ("z", 3), ("w", 2)):
        foreign_checkpoints.plain(tmp_path, [epoch], f"{name}.pth", epoch=lambda epoch: epoch)

    assert going(tmp_path, "last:1", one_series=True) == ["y.pth", "w.pth"]


def test_what_changed_meanwhile_stays(tmp_path):
    """A file written again after the look is not removed."""
    foreign_checkpoints.plain(tmp_path, [1, 2, 3])
    found = plan(tmp_path, "last:1")
    os.utime(tmp_path / "epoch_1.pth", (1, 1))

    assert carry_out(found) == ("epoch_1.pth",)
    assert present(tmp_path) == ["epoch_1.pth", "epoch_3.pth"]


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ((), "Say what to keep: --keep last:3, best:val_acc:max"),
        (("last",), "--keep last is not known; expected last:3"),
        (("last:0",), "--keep last:0 is not known"),
        (("best:val_acc",), "does not say whether the smallest or the largest is best: best:val_acc:min or :max."),
        (("every:0",), "--keep every:0 is not known"),
        (("best:val_ac:max",), "has a metric val_ac; its checkpoints have val_acc. The nearest is val_acc"),
        (("every:5",), "not every checkpoint of epoch_#.pth says its steps. Say every:5:epochs"),
    ],
)  # fmt: skip
def test_what_cannot_be_kept_is_refused(tmp_path, keep, message):
    """A wish that cannot be told from the words, or from what is there, removes nothing."""
    foreign_checkpoints.plain(tmp_path, [1, 2], val_acc=lambda epoch: epoch / 2)

    with pytest.raises(WrongKeep) as caught:
        plan(tmp_path, *keep)

    assert message in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_glob_that_names_nothing_is_refused(tmp_path):
    """`--only` with a typo would prune nothing in silence."""
    foreign_checkpoints.plain(tmp_path, [1, 2])
    with pytest.raises(WrongKeep, match=r'--only "netG\*" names no checkpoint'):
        plan(tmp_path, "last:1", only=["netG*"])


# ---- a Keeper's own ----


def writing(data):
    def produce(stream):
        stream.write(data)

    return produce


def kept(folder, steps, **facts):
    """A Keeper's checkpoints, written as it writes them: the files, then the sidecar."""
    store = open_store(folder)
    for sequence, step in enumerate(steps, 1):
        stem = f"step-{step:08}"
        files = {}
        for name, role in ((f"{stem}.safetensors", "weights"), (f"{stem}.state.pth", "state")):
            written = store.write(name, writing(b"1234"))
            files[name] = KeptFile(role, written.size, written.sha256)
        told = {key: value(step) for key, value in facts.items()}
        sidecar = Sidecar(
            stem=stem, step=step, epoch=None, sequence=sequence, run="r", saved_at="", format="safetensors", files=files, **told
        )
        store.write(sidecar.name, writing(sidecar.encode()))
    return store


def test_a_keepers_folder_is_pruned_by_sequence(tmp_path):
    """Sidecars order; a step saved again after a resume is newer than larger steps; what links name stays; whole stems go."""
    store = kept(tmp_path, [300, 100, 200], metrics=lambda step: {"loss": step / 100})
    store.point("best.pth", "step-00000300.safetensors")
    store.point("latest.pth", "step-00000200.safetensors")

    found = plan(tmp_path, "last:1")
    carry_out(found)

    assert [entry.name for entry in found.goes] == ["step-00000100"]
    assert found.stays["step-00000300"] == ("best.pth points to it",)
    assert sorted(store.sizes()) == sorted(
        f"step-00000{step}{end}" for step in (200, 300) for end in (".json", ".safetensors", ".state.pth")
    )
    assert store.pointed("best.pth") == "step-00000300.safetensors"


def test_a_keepers_milestones_stay_unless_asked(tmp_path):
    """What a training marked to stay for good goes only with --milestones."""
    kept(tmp_path, [100, 200, 300], kept_by=lambda step: ("every-100-steps",) if step == 100 else ())

    assert going(tmp_path, "last:1") == ["step-00000200"]
    assert plan(tmp_path, "last:1").stays["step-00000100"] == ("its training keeps it: every-100-steps",)
    assert going(tmp_path, "last:1", milestones=True) == ["step-00000100", "step-00000200"]


def test_incomplete_ones_of_a_keeper_are_listed_and_stay(tmp_path):
    """Without a sidecar, or with a file of another size, it is no checkpoint; the next Keeper sweeps it."""
    kept(tmp_path, [100, 200, 300])
    (tmp_path / "step-00000300.safetensors").write_bytes(b"12")
    (tmp_path / "step-00000200.json").unlink()

    found = plan(tmp_path, "last:1")

    assert found.goes == ()
    assert found.stays["step-00000300"] == ("unusable: step-00000300.safetensors has 2 bytes, step-00000300.json says 4.",)
    assert found.stays["step-00000200"][0].startswith("unusable: it has no step-00000200.json, which is written last")


def test_a_training_at_work_is_not_pruned_under(tmp_path):
    """While a Keeper holds the folder, nothing of it is removed; a look and a dry run are free."""
    store = kept(tmp_path, [100, 200])
    found = plan(tmp_path, "last:1")

    with store.hold(this_process("training").fields()), pytest.raises(DirectoryTaken):
        carry_out(found)

    assert len(store.sizes()) == 6
    assert carry_out(found) == ()
    assert len(store.sizes()) == 3


def test_a_keepers_checkpoints_under_a_url(capsys, s3_bucket):
    """An object store's prefix is listed and pruned as a folder is; others' files there are left alone."""
    url = f"s3://{s3_bucket}/runs/digits"
    store = kept(url, [100, 200, 300])
    store.point("best.pth", "step-00000100.safetensors")
    store.write("notes.txt", writing(b"mine"))

    prune_command(url, Choice(keep=parse_keep(["last:1"])), dry_run=False, as_json=True)
    pruned = json.loads(capsys.readouterr().out)
    list_command(url, as_json=True)
    listed = json.loads(capsys.readouterr().out)

    assert pruned["removed"] == ["step-00000200"]
    assert pruned["notes"] == ["an object store has no locks: prune only where no training writes"]
    assert [one["name"] for one in listed["checkpoints"]] == ["step-00000100", "step-00000300"]
    assert listed["others"] == ["notes.txt"]
    with pytest.raises(UnreadableCheckpoint, match="holds no checkpoint of a Keeper"):
        list_command(f"{url}/nothing", as_json=True)


def test_a_keepers_files_among_others(tmp_path):
    """A Keeper's checkpoints and another trainer's in one folder are two series."""
    kept(tmp_path, [100, 200])
    foreign_checkpoints.plain(tmp_path, [1, 2])

    assert going(tmp_path, "last:1") == ["epoch_1.pth", "step-00000100"]


# ---- the commands ----


def test_list_as_json(tmp_path, capsys):
    """One JSON object with everything that a script needs."""
    foreign_checkpoints.plain(tmp_path, [1, 2], val_acc=lambda epoch: epoch / 4)
    (tmp_path / "best.pth").symlink_to("epoch_1.pth")

    list_command(str(tmp_path), as_json=True)

    told = json.loads(capsys.readouterr().out)
    assert told["links"] == {"best.pth": "epoch_1.pth"}
    assert [(one["name"], one["epoch"], one["metrics"]) for one in told["checkpoints"]] == [
        ("epoch_1.pth", 1, {"val_acc": 0.25}),
        ("epoch_2.pth", 2, {"val_acc": 0.5}),
    ]
    assert told["checkpoints"][0]["protected"] == ["best.pth points to it"]


def test_list_as_text(tmp_path, capsys):
    """Without a terminal: aligned lines of full width, then the sum."""
    foreign_checkpoints.plain(tmp_path, [1, 2], val_acc=lambda epoch: epoch / 4)

    list_command(str(tmp_path), as_json=False)

    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["checkpoint", "step", "epoch", "metrics", "size", "order", "from", "notes"]
    assert lines[1].split()[:4] == ["epoch_1.pth", "-", "1", "val_acc=0.25"]
    assert lines[3].startswith(f"2 checkpoints in {tmp_path}, ")


def test_names_do_not_command_the_terminal(tmp_path, capsys):
    """A name with an escape sequence, or bytes that are no text, is printed escaped."""
    foreign_checkpoints.plain(tmp_path, [1])
    (tmp_path / "epoch_1.pth").rename(tmp_path / "\x1b[2Jepoch_1.pth")
    os.close(os.open(os.fsencode(tmp_path) + b"/epoch_2\xff.pth", os.O_CREAT))

    list_command(str(tmp_path), as_json=False)

    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "\\x1b[2Jepoch_1.pth" in out
    assert "epoch_2\\udcff.pth" in out


def test_what_cannot_be_removed_is_told(tmp_path, monkeypatch):
    """The file system's refusal is an error that names the checkpoint; those after it are still there."""
    foreign_checkpoints.plain(tmp_path, [1, 2, 3])
    found = plan(tmp_path, "last:1")

    def refuse(path):
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(PruneFailed) as caught:
        carry_out(found)

    assert str(caught.value) == (
        f"epoch_1.pth in {tmp_path} cannot be removed: Read-only file system. What was to go after it is still there."
    )
    assert len(present(tmp_path)) == 3


def test_a_dry_run_removes_nothing(tmp_path, capsys):
    """The same plan, told and not carried out; then carried out."""
    foreign_checkpoints.plain(tmp_path, [1, 2, 3])
    choice = Choice(keep=parse_keep(["last:1"]))

    prune_command(str(tmp_path), choice, dry_run=True, as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert told["would_remove"] == ["epoch_1.pth", "epoch_2.pth"]
    assert told["kept"] == {"epoch_3.pth": ["last:1"]}
    assert len(present(tmp_path)) == 3

    prune_command(str(tmp_path), choice, dry_run=False, as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["epoch_1.pth", *lines[1].split()[1:3], "goes", "nothing", "keeps", "it"]
    assert lines[4].startswith("2 of 3 checkpoints removed, ")
    assert present(tmp_path) == ["epoch_3.pth"]
