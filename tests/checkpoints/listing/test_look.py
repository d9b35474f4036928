"""A look into a folder: whoever wrote it, order and metrics are found, and what is no checkpoint is left alone."""

import json
import pickle
import struct
import zipfile
from pathlib import Path

import foreign_checkpoints
import pytest
import torch
from torch import nn

from checkpoints.errors import UnreadableCheckpoint
from checkpoints.listing.look import look
from checkpoints.listing.names import kept_word, read_name
from checkpoints.listing.shallow import top_level


def by_name(listing):
    return {entry.name: entry for entry in listing.entries}


def names(listing):
    return [entry.name for entry in listing.entries]


def test_plain_files_in_the_order_of_their_epochs(tmp_path):
    """Epoch 9 comes before epoch 10; the content's numbers are metrics; a log is left alone."""
    foreign_checkpoints.plain(tmp_path, [9, 10, 2], epoch=lambda epoch: epoch, val_acc=lambda epoch: epoch / 20)
    (tmp_path / "log.txt").write_text("epoch 9")

    found = look(tmp_path)

    assert names(found) == ["epoch_2.pth", "epoch_9.pth", "epoch_10.pth"]
    assert [(entry.epoch, entry.order_from) for entry in found.entries] == [(2, "content"), (9, "content"), (10, "content")]
    assert by_name(found)["epoch_10.pth"].metrics == {"val_acc": 0.5}
    assert found.others == ("log.txt",)


def test_timm(tmp_path):
    """timm's numbers are epochs, as its content says; best and last are protected by their names."""
    foreign_checkpoints.timm(tmp_path, [0.5, 0.9, 0.7])

    found = by_name(look(tmp_path))

    assert [found[f"checkpoint-{epoch}.pth.tar"].epoch for epoch in range(3)] == [0, 1, 2]
    assert found["checkpoint-1.pth.tar"].metrics == {"metric": 0.9}
    assert found["checkpoint-1.pth.tar"].layout == "timm"
    assert found["model_best.pth.tar"].protected == ('its name says "best"',)
    assert found["last.pth.tar"].protected == ('its name says "last"',)
    assert look(tmp_path).others == ("args.yaml", "summary.csv")


def test_a_trainers_folders(tmp_path):
    """Each checkpoint-N is one, with the evaluation of its own step; the best that the state names is protected."""
    foreign_checkpoints.trainer(tmp_path, [0.9, 0.5, 0.7], best="checkpoint-200")
    (tmp_path / "checkpoint-400").mkdir()
    torch.save({}, tmp_path / "checkpoint-400" / "optimizer.pt")

    found = look(tmp_path)

    assert names(found) == ["checkpoint-100", "checkpoint-200", "checkpoint-300", "checkpoint-400"]
    middle = by_name(found)["checkpoint-200"]
    assert (middle.step, middle.epoch, middle.metrics, middle.folder) == (200, 2, {"eval_loss": 0.5}, True)
    assert middle.protected == ("trainer_state.json names it as the best",)
    assert by_name(found)["checkpoint-400"].damaged == "it holds no weights that we know"
    assert found.others == ("runs", "training_args.bin")


def test_torchtnt(tmp_path):
    """Step, epoch and metric stand in the folder's name."""
    foreign_checkpoints.tnt(tmp_path, [0.5, 0.25])

    entries = look(tmp_path).entries

    assert [(entry.step, entry.epoch, dict(entry.metrics)) for entry in entries] == [
        (10, 0, {"val_loss": 0.5}),
        (20, 1, {"val_loss": 0.25}),
    ]
    assert {entry.layout for entry in entries} == {"torchtnt"}
    assert len({entry.series for entry in entries}) == 1


def test_a_file_that_would_run_code_is_listed_and_does_not_run(tmp_path):
    """A checkpoint with a pickled class is listed with its epoch; nothing of it is imported or called."""

    class Harm:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    torch.save(
        {"epoch": 3, "model": nn.Linear(2, 2), "bad": Harm(), "state_dict": nn.Linear(2, 2).state_dict()}, tmp_path / "m.pth"
    )

    found = look(tmp_path)

    assert [(entry.name, entry.epoch, entry.damaged) for entry in found.entries] == [("m.pth", 3, None)]
    assert not (tmp_path / "ran").exists()


def test_torn_files_are_said_to_be(tmp_path):
    """A file cut off and an empty one are listed as not whole, whatever their names."""
    foreign_checkpoints.plain(tmp_path, [1, 2, 3])
    data = (tmp_path / "epoch_2.pth").read_bytes()
    (tmp_path / "epoch_2.pth").write_bytes(data[: len(data) // 2])
    (tmp_path / "epoch_3.pth").write_bytes(b"")

    found = by_name(look(tmp_path))

    assert found["epoch_1.pth"].damaged is None
    assert "cut off" in str(found["epoch_2.pth"].damaged) or "central" in str(found["epoch_2.pth"].damaged)
    assert str(found["epoch_3.pth"].damaged).startswith("it is an empty file")


def test_links_lead_to_what_they_protect(tmp_path):
    """Symbolic links, also through another link, and DeepSpeed's `latest` protect what they lead to."""
    foreign_checkpoints.plain(tmp_path, [1, 2, 3])
    (tmp_path / "chosen.pth").symlink_to("epoch_1.pth")
    (tmp_path / "again.pth").symlink_to("chosen.pth")
    (tmp_path / "latest").write_text("epoch_3.pth\n")

    found = look(tmp_path)

    assert found.links == {"again.pth": "epoch_1.pth", "chosen.pth": "epoch_1.pth", "latest": "epoch_3.pth"}
    assert by_name(found)["epoch_1.pth"].protected == ("again.pth points to it", "chosen.pth points to it")
    assert by_name(found)["epoch_3.pth"].protected == ("latest points to it",)


def test_links_of_the_folder_above_protect(tmp_path):
    """`best.pth -> checkpoints/epoch_1.pth`, beside the folder that is listed."""
    foreign_checkpoints.plain(tmp_path / "checkpoints", [1, 2])
    (tmp_path / "best.pth").symlink_to("checkpoints/epoch_1.pth")
    (tmp_path / "all").symlink_to("checkpoints")

    found = look(tmp_path / "checkpoints")

    assert found.links == {"../best.pth": "epoch_1.pth"}
    assert by_name(found)["epoch_1.pth"].protected == ("../best.pth points to it",)


def test_data_is_no_checkpoint(tmp_path):
    """Tensors, lists, arrays and numbers under a checkpoint's name are left alone; a whole pickled model is listed."""
    np = pytest.importorskip("numpy")
    data = [torch.ones(2), [torch.ones(2)], np.ones(3), {"a": 1}, {}, nn.Parameter(torch.ones(1))]
    for number, value in enumerate(data):
        torch.save(value, tmp_path / f"features_step_{number}.pt")
    torch.save(nn.Linear(2, 2), tmp_path / "model_1.pt")
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "model_2.pt")

    found = look(tmp_path)

    assert [(entry.name, entry.layout) for entry in found.entries] == [
        ("model_1.pt", "pickled-model"),
        ("model_2.pt", "training"),
    ]
    assert len(found.others) == len(data)


def test_a_zip_without_a_pickle_is_nothing(tmp_path):
    """An archive of something else, and one whose pickle is not a mapping, tell nothing."""
    with zipfile.ZipFile(tmp_path / "x.pth", "w") as archive:
        archive.writestr("x/other", b"1")
    torch.save([1, 2], tmp_path / "list.pth")

    assert top_level(tmp_path / "x.pth") == top_level(tmp_path / "list.pth") == {}


def test_a_folder_without_checkpoints_says_where_some_are(tmp_path):
    """The message names the folders below that have some."""
    foreign_checkpoints.plain(tmp_path / "version_0" / "checkpoints", [1])
    with pytest.raises(UnreadableCheckpoint) as caught:
        look(tmp_path)
    assert str(caught.value) == (f"{tmp_path} holds no checkpoint; it has 1 names. There are some in version_0/checkpoints.")
    with pytest.raises(UnreadableCheckpoint, match="is not a folder"):
        look(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("name", "step", "epoch", "number", "metrics"),
    [
        ("epoch=3-step=400-val_loss=0.25.ckpt", 400, 3, None, {"val_loss": 0.25}),
        ("epoch=3-step=400-v1.ckpt", 400, 3, None, {}),
        ("epoch=3-val/loss=1e-3.ckpt", None, 3, None, {"val/loss": 0.001}),
        ("checkpoint-500", None, None, 500, {}),
        ("epoch_1_step_20_val_loss=-0.1", 20, 1, None, {"val_loss": -0.1}),
        ("epoch_0_train_step_10_eval_step_5", 10, 0, None, {}),
        ("model_epoch12_loss0.31.pth", None, 12, None, {"loss": 0.31}),
        ("model_0059999.pth", None, None, 59999, {}),
        ("iter_20000.pth", 20000, None, None, {}),
        ("global_step500", 500, None, None, {}),
        ("resnet50.pth", None, None, None, {}),
        ("vit_b_16.pth", None, None, None, {}),
        ("model_v2.pth", None, None, None, {}),
    ],
)
def test_what_names_say(name, step, epoch, number, metrics):
    """Steps, epochs and metrics are told by the words beside the numbers; a model's size or version is none of them."""
    named = read_name(name)
    assert (named.step, named.epoch, named.number, dict(named.metrics)) == (step, epoch, number, metrics)


def test_series_are_told_apart():
    """Saves of one training are one series whatever their metrics; two models are two."""
    one = {read_name(f"epoch={epoch}-step={epoch * 10}-loss=0.{epoch}.ckpt").series for epoch in range(1, 12)}
    assert len(one) == 1
    assert len({read_name(name).series for name in ("netG_epoch_1.pth", "netD_epoch_1.pth", "netG_epoch_2.pth")}) == 2
    assert len({read_name(name).series for name in ("resnet18_epoch_1.pth", "resnet50_epoch_1.pth")}) == 2


@pytest.mark.parametrize(
    ("name", "word"),
    [("best.pth", "best"), ("model_best.pth.tar", "best"), ("netBest.pth", "best"), ("last-v1.ckpt", "last"),
     ("final_model", "final"),
     ("net_g_latest.pth", "latest"), ("BEST.pth", "best"), ("elastic_epoch_1.pth", None), ("plastic.pth", None)],
)  # fmt: skip
def test_words_that_protect(name, word):
    """best, last, latest and final protect where they begin a word, and not inside another."""
    assert kept_word(name) == word


def test_the_shallow_look_reads_numbers_of_every_kind(tmp_path):
    """Numbers of Python, NumPy and torch, in a zip; a legacy file gives its plain ones."""
    np = pytest.importorskip("numpy")
    held = {"epoch": 1, "a": np.float64(0.5), "b": torch.tensor(0.25), "w": torch.ones(3), "i": np.int32(-4)}
    torch.save(held, tmp_path / "zip.pth")
    torch.save(held, tmp_path / "legacy.pth", _use_new_zipfile_serialization=False)

    zipped, legacy = top_level(tmp_path / "zip.pth"), top_level(tmp_path / "legacy.pth")

    assert {key: zipped[key] for key in ("epoch", "a", "b", "i")} == {"epoch": 1, "a": 0.5, "b": 0.25, "i": -4}
    assert not isinstance(zipped["w"], (int, float))
    assert (legacy["epoch"], legacy["a"]) == (1, 0.5)


HOSTILE = [
    b"",
    b"\x80\x02",
    b"\x80\x02K\x01r\xff\xff\xff\x7f.",  # a memo entry of index 2**31 - 1
    b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00ls\x85R.",
    b"\x80\x02}\x94X\x05\x00\x00\x00epochcbuiltins\neval\nX\x03\x00\x00\x00" + b"1+1" + b"\x85Rs.",
    b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f.",
    b"\x80\x02\x82\x01.",
    b"\x80\x02" + b"(" * 100_000 + b".",
    b"\x80\x02" + b"]" * 10_000 + b"a" * 9_999 + b".",
    b"\x80\x02\x8b\xff\xff\xff\x7f.",
    b"\x80\x05\x96\x00\x00\x00\x00\x80\x00\x00\x00.",  # a bytearray of 512 GiB
]


@pytest.mark.parametrize("raw", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_pickles_give_nothing(tmp_path, raw):
    """Whatever the bytes, the shallow look ends, runs nothing and gives plain data or nothing."""
    path = tmp_path / "x.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", raw)

    held = top_level(path)

    assert not any(isinstance(value, (int, float)) for value in held.values())


def test_every_cut_and_flip_ends(tmp_path):
    """A pickle cut at every byte, and with every byte changed, ends in data or nothing, without an error."""
    raw = pickle.dumps({"epoch": 3, "val": 0.5, "x": [1, (2, 3)], "n": {"a": b"c"}}, protocol=2)
    path = tmp_path / "x.pth"
    for end in range(len(raw)):
        flipped = raw[:end] + struct.pack("B", raw[end] ^ 0x55) + raw[end + 1 :]
        for data in (raw[:end], flipped):
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("x/data.pkl", data)
            top_level(path)


def test_hostile_trainer_state(tmp_path):
    """A trainer_state.json of any content is read as what it says, or as nothing."""
    for raw in (
        "[" * 100_000,
        "{}",
        "[]",
        '{"global_step": 1e400, "log_history": [3]}',
        json.dumps({"best_model_checkpoint": "\0"}),
    ):
        one = tmp_path / "checkpoint-7"
        one.mkdir(exist_ok=True)
        torch.save(nn.Linear(1, 1).state_dict(), one / "pytorch_model.bin")
        (one / "trainer_state.json").write_text(raw)
        assert names(look(tmp_path)) == ["checkpoint-7"]
