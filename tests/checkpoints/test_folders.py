"""Folders are told by the files that their tool always writes."""

import pytest

from checkpoints import Kind, UnreadableCheckpoint, UnsafeCheckpoint, read, recognise

LAYOUTS = {
    Kind.HF_FOLDER: ["config.json", "model.safetensors"],
    Kind.ACCELERATE_FOLDER: ["model.safetensors", "optimizer.bin", "random_states_0.pkl"],
    Kind.ADAPTER_FOLDER: ["adapter_config.json", "adapter_model.safetensors"],
    Kind.DEEPSPEED_FOLDER: ["latest", "zero_to_fp32.py", "global_step10/mp_rank_00_model_states.pt"],
    Kind.DCP_FOLDER: [".metadata", "__0_0.distcp"],
    Kind.FSDP_FOLDER: ["pytorch_model_fsdp_0/x", "scheduler.bin"],
    Kind.TNT_FOLDER: ["epoch_0_step_10/.metadata", "epoch_1_step_20_val_loss=0.1/.metadata"],
    Kind.ORBAX_FOLDER: ["_CHECKPOINT_METADATA", "d/0"],
    Kind.SAVED_MODEL_FOLDER: ["saved_model.pb", "variables/variables.index"],
    Kind.TF_CHECKPOINT_FOLDER: ["checkpoint", "model.ckpt-10.index", "model.ckpt-10.data-00000-of-00001"],
    Kind.FOLDER: ["a.pth", "notes.txt"],
}


def lay_out(folder, names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"1234")


@pytest.mark.parametrize("kind", LAYOUTS)
def test_layouts(tmp_path, kind):
    """Each tool's folder is recognised by its names alone, with the size of all its files."""
    lay_out(tmp_path, LAYOUTS[kind])

    found = recognise(tmp_path)

    assert found.kind is kind
    assert found.size_bytes == 4 * len(LAYOUTS[kind])


@pytest.mark.parametrize("kind", [kind for kind in LAYOUTS if kind not in {Kind.HF_FOLDER, Kind.ACCELERATE_FOLDER}])
def test_other_layouts_are_refused_with_what_to_do(tmp_path, kind):
    """A folder that is not read is refused with its name and the tool that makes one file of it."""
    lay_out(tmp_path, LAYOUTS[kind])
    found = recognise(tmp_path)

    with pytest.raises(UnsafeCheckpoint if kind is Kind.DCP_FOLDER else UnreadableCheckpoint) as caught:
        read(tmp_path)

    assert str(caught.value) == f"{tmp_path.name} is {found.summary}. {found.remedy}"


def test_a_folder_of_files_asks_for_one_of_them(tmp_path):
    """A folder without a layout lists the checkpoint files in it."""
    lay_out(tmp_path, ["a.pth", "b.safetensors", "c.ckpt", "d.bin", "log.txt"])

    assert recognise(tmp_path).remedy == "Give the file itself: a.pth, b.safetensors, c.ckpt (and 1 more)."


def test_a_whole_model_beside_deepspeed_files_is_read(tmp_path):
    """Where a trainer put model.safetensors beside DeepSpeed's files, that is the model."""
    lay_out(tmp_path, [*LAYOUTS[Kind.DEEPSPEED_FOLDER], "model.safetensors"])

    assert recognise(tmp_path).kind is Kind.HF_FOLDER
