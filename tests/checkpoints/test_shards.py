"""Sharded checkpoints and model folders are read whole or not at all."""

import json

import pytest
import safetensors.torch
import torch

from checkpoints import AmbiguousWeights, CheckpointError, Kind, UnreadableCheckpoint, UnsafeCheckpoint, read

SHARDS = {
    "model-00001-of-00002.safetensors": {"a": torch.ones(2), "b": torch.zeros(3)},
    "model-00002-of-00002.safetensors": {"c": torch.arange(4)},
}
INDEX = "model.safetensors.index.json"


@pytest.fixture
def folder(tmp_path):
    for name, tensors in SHARDS.items():
        safetensors.torch.save_file(tensors, tmp_path / name)
    write_index(tmp_path, {key: name for name, tensors in SHARDS.items() for key in tensors})
    return tmp_path


def write_index(folder, weight_map, name=INDEX):
    (folder / name).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))


def weight_map_of(folder):
    return json.loads((folder / INDEX).read_text())["weight_map"]


def refusal(path, error: type[CheckpointError] = UnreadableCheckpoint):
    with pytest.raises(error) as caught:
        read(path)
    return str(caught.value)


def test_shards_are_joined(folder):
    """An index gives the tensors of all its shards, under one hash of all files."""
    checkpoint = read(folder / INDEX)

    assert (checkpoint.kind, checkpoint.layout) == (Kind.SHARD_INDEX, "sharded")
    assert {key: tuple(tensor.shape) for key, tensor in checkpoint.select(None).tensors.items()} == {
        "a": (2,),
        "b": (3,),
        "c": (4,),
    }
    assert checkpoint.size_bytes == sum(path.stat().st_size for path in folder.iterdir())
    assert len(checkpoint.sha256) == 64


def test_a_folder_with_an_index(folder):
    """A Hugging Face folder is read through its index, with config.json and the trainer's state."""
    (folder / "config.json").write_text('{"model_type": "bert"}')
    (folder / "trainer_state.json").write_text('{"epoch": 2.0, "global_step": 10, "log_history": []}')

    checkpoint = read(folder)

    assert (checkpoint.kind, checkpoint.layout) == (Kind.HF_FOLDER, "hf-folder")
    assert checkpoint.config == {"model_type": "bert"}
    assert checkpoint.provenance == {"epoch": 2.0, "global_step": 10}
    assert checkpoint.select(None).tensors.keys() == {"a", "b", "c"}


def test_shards_of_torch_files(tmp_path):
    """pytorch_model.bin.index.json joins torch.save files the same way."""
    torch.save({"a": torch.ones(2)}, tmp_path / "pytorch_model-1.bin")
    torch.save({"b": torch.ones(3)}, tmp_path / "pytorch_model-2.bin")
    write_index(tmp_path, {"a": "pytorch_model-1.bin", "b": "pytorch_model-2.bin"}, "pytorch_model.bin.index.json")

    assert read(tmp_path).select(None).tensors.keys() == {"a", "b"}


def test_a_missing_shard(folder):
    """A shard that is not there is named."""
    (folder / "model-00002-of-00002.safetensors").unlink()

    assert refusal(folder) == (f"{INDEX} names 2 shards; 1 missing: model-00002-of-00002.safetensors. Copy them beside it.")


def test_a_key_in_two_shards(folder):
    """A key that two shards hold is refused, since only one of them can be meant."""
    safetensors.torch.save_file({"a": torch.zeros(2), "c": torch.arange(4)}, folder / "model-00002-of-00002.safetensors")

    assert refusal(folder) == (
        f"{INDEX} and model-00002-of-00002.safetensors disagree: the shard holds a, the index places it in "
        "model-00001-of-00002.safetensors. Save both again."
    )


def test_a_key_that_the_index_does_not_name(folder):
    """A shard's key outside the index is refused."""
    write_index(folder, {key: name for key, name in weight_map_of(folder).items() if key != "b"})

    assert "the shard holds b, the index does not name it." in refusal(folder)


def test_a_key_that_no_shard_holds(folder):
    """A key of the index that its shard lacks is refused."""
    write_index(folder, {**weight_map_of(folder), "d": "model-00001-of-00002.safetensors"})

    assert "the index places d there, the shard lacks it." in refusal(folder)


@pytest.mark.parametrize("name", ["../other.safetensors", "/etc/passwd", "a\\b", "sub/../../x", ""])
def test_a_shard_outside_the_folder(folder, name):
    """A shard's name that leads out of the folder is unsafe, whether the file exists or not."""
    write_index(folder, {"a": name})

    assert refusal(folder, UnsafeCheckpoint) == f'{INDEX} names the shard "{name}", which is not a plain name in its folder.'


def test_a_link_out_of_the_folder(folder, tmp_path_factory):
    """A shard that is a link to a file elsewhere is unsafe."""
    outside = tmp_path_factory.mktemp("elsewhere") / "x.safetensors"
    shard = folder / "model-00002-of-00002.safetensors"
    shard.rename(outside)
    shard.symlink_to(outside)

    assert refusal(folder, UnsafeCheckpoint) == (
        f'{INDEX} names the shard "model-00002-of-00002.safetensors", a link to a file outside its folder.'
    )


def test_links_of_the_hub_cache(folder, tmp_path_factory):
    """In Hugging Face's cache, snapshots link into the blobs folder beside them; such links are followed."""
    cache = tmp_path_factory.mktemp("models--a--b")
    snapshot, blobs = cache / "snapshots" / "0f0f", cache / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, path in enumerate(sorted(folder.iterdir())):
        path.rename(blobs / str(number))
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")

    assert read(snapshot).select(None).tensors.keys() == {"a", "b", "c"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"weight_map": {"a": "x", "a": "y"}}', 'holds the key "a" twice'),
        ('{"weight_map": {}}', "is not an index"),
        ('{"weight_map": {"a": 3}}', "is not an index"),
        ('{"weight_map": ', "is not JSON"),
    ],
)
def test_an_index_of_another_shape(folder, text, said):
    """A damaged index is refused with its fault."""
    (folder / INDEX).write_text(text)

    assert said in refusal(folder / INDEX)


def test_a_folder_with_a_whole_and_a_sharded_model(folder):
    """A folder with both a single file and an index does not say which is meant."""
    safetensors.torch.save_file({"a": torch.ones(2)}, folder / "model.safetensors")

    assert refusal(folder, AmbiguousWeights) == (
        f"{folder.name} holds both model.safetensors and {INDEX}. Name the one that is meant: {folder / 'model.safetensors'}."
    )


def test_safetensors_before_bin(tmp_path):
    """Of a safetensors and a .bin file the first is read, and the notice says so."""
    safetensors.torch.save_file({"a": torch.ones(2)}, tmp_path / "model.safetensors")
    torch.save({"a": torch.zeros(2)}, tmp_path / "pytorch_model.bin")

    checkpoint = read(tmp_path)

    assert checkpoint.notices == ("model.safetensors was read; pytorch_model.bin beside it was not.",)
    assert checkpoint.select(None).tensors["a"].sum() == 2


def test_accelerate(tmp_path):
    """Of accelerate's folder only the model files are opened; several models are several weight sets."""
    safetensors.torch.save_file({"a": torch.ones(2)}, tmp_path / "model.safetensors")
    for name in ("optimizer.bin", "scheduler.bin", "random_states_0.pkl"):
        (tmp_path / name).write_bytes(b"\x80\x04never opened")

    one = read(tmp_path)
    safetensors.torch.save_file({"a": torch.zeros(2)}, tmp_path / "model_1.safetensors")
    two = read(tmp_path)

    assert (one.kind, one.layout, list(one.weight_sets)) == (Kind.ACCELERATE_FOLDER, "accelerate", [""])
    assert list(two.weight_sets) == ["model", "model_1"]
    assert two.select("model_1").tensors["a"].sum() == 0
