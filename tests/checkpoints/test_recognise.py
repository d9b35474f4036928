"""Every kind of file is told by its bytes, with files of the real writers under misleading names."""

import gzip
import io
import json
import os
import pickle
import tarfile
import warnings
import zipfile

import joblib
import numpy as np
import onnx
import pytest
import safetensors.torch
import torch
from onnx import TensorProto, helper

from checkpoints import Kind, UnreadableCheckpoint, recognise
from checkpoints.kinds import READABLE


@pytest.fixture
def model():
    return torch.nn.Linear(3, 2)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_torch_zip(tmp_path, model, protocol):
    """torch.save's zip is recognised whatever pickle protocol it was saved with."""
    path = tmp_path / "best.safetensors"
    torch.save(model.state_dict(), path, pickle_protocol=protocol)

    found = recognise(path)

    assert (found.kind, found.size_bytes) == (Kind.TORCH_ZIP, path.stat().st_size)
    assert (found.summary, found.remedy) == ("a torch.save file (zip)", "Nothing to do: it can be read.")


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_torch_legacy(tmp_path, model, protocol):
    """The format from before torch 1.6 is told by its magic number, in every protocol's writing of it."""
    path = tmp_path / "best.zip"
    torch.save(model.state_dict(), path, pickle_protocol=protocol, _use_new_zipfile_serialization=False)

    assert recognise(path).kind is Kind.TORCH_LEGACY


def test_torchscript(tmp_path, model):
    """A TorchScript program under a checkpoint's name is told by its constants.pkl."""
    path = tmp_path / "best.pth"
    with warnings.catch_warnings(action="ignore"):
        torch.jit.save(torch.jit.script(model), path)

    found = recognise(path)

    assert found.kind is Kind.TORCHSCRIPT
    assert found.summary == "a TorchScript program, not a checkpoint"


def test_exported_program(tmp_path, model):
    """torch.export.save's archive is a .pt2, whatever its name."""
    path = tmp_path / "program.pt2"
    torch.export.save(torch.export.export(model, (torch.zeros(2, 3),)), path)
    path.rename(tmp_path / "best.pth")

    found = recognise(tmp_path / "best.pth")

    assert (found.kind, found.summary) == (Kind.PT2, "an exported program (.pt2), not a checkpoint")


def test_compiled_program_is_named_as_native_code(tmp_path):
    """An archive with AOTInductor's folder is said to hold native code."""
    path = tmp_path / "model.pt2"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/archive_format", "pt2")
        archive.writestr("model/data/aotinductor/model/model.so", b"\x7fELF")

    assert recognise(path).summary.endswith(", compiled by AOTInductor (native code)")


def zip_with(path, *names):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(name, b"{}")


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (["MAR-INF/MANIFEST.json", "model.pt"], Kind.MAR),
        (["serialized_exported_program.json", "version"], Kind.PT2),
        (["model.weights.h5", "config.json"], Kind.KERAS),
        (["readme.txt"], Kind.ZIP),
    ],
)
def test_other_zip_archives(tmp_path, names, kind):
    """Archives of other tools are told by the members that those tools always write."""
    path = tmp_path / "best.pth"
    zip_with(path, *names)

    assert recognise(path).kind is kind


def test_truncated_zip_names_the_newest_whole_checkpoint(tmp_path, model):
    """A zip cut off by an interrupted write is said to be so, with the newest whole checkpoint beside it."""
    for age_s, name in ((30, "epoch-1.pth"), (20, "epoch-2.pth"), (10, "broken-too.pth")):
        torch.save(model.state_dict(), tmp_path / name)
        os.utime(tmp_path / name, (1_700_000_000 - age_s, 1_700_000_000 - age_s))
    whole = (tmp_path / "epoch-2.pth").read_bytes()
    for name in ("best.pth", "broken-too.pth"):
        (tmp_path / name).write_bytes(whole[:-100])

    found = recognise(tmp_path / "best.pth")

    assert found.kind is Kind.TRUNCATED_ZIP
    assert found.summary == (
        f"a zip archive that is cut off or damaged: {len(whole) - 100} bytes without a table of contents that can be read"
    )
    assert found.remedy == "Copy or save it again. The newest whole checkpoint beside it is epoch-2.pth."


def test_empty_file(tmp_path, model):
    """An empty file is an interrupted write; a whole safetensors file beside it is offered."""
    safetensors.torch.save_file(model.state_dict(), tmp_path / "last.safetensors")
    path = tmp_path / "best.pth"
    path.touch()

    found = recognise(path)

    assert (found.kind, found.summary) == (Kind.EMPTY, "an empty file (0 bytes): its writing was cut off")
    assert found.remedy == "The newest whole checkpoint beside it is last.safetensors."


def torch_tar(path):
    with tarfile.open(path, "w") as archive:
        for name in ("storages", "tensors", "pickle"):
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())


def plain_tar(path):
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("best.pth"), io.BytesIO())


def onnx_model(path):
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])], "g", [value], [helper.make_tensor_value_info("y", 1, [1])]
    )
    onnx.save(helper.make_model(graph, producer_name="test"), path)


WRITERS = {
    Kind.SAFETENSORS: lambda path: safetensors.torch.save_file({"w": torch.zeros(2)}, path),
    Kind.TORCH_TAR: torch_tar,
    Kind.TAR: plain_tar,
    Kind.ONNX: onnx_model,
    Kind.NPY: lambda path: path.write_bytes(npy_bytes()),
    Kind.NPZ: lambda path: np.savez(path.open("wb"), a=np.zeros(2)),
    Kind.GGUF: lambda path: path.write_bytes(b"GGUF\x03\0\0\0" + bytes(16)),
    Kind.HDF5: lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(16)),
    Kind.TFLITE: lambda path: path.write_bytes(b"\x1c\0\0\0TFL3" + bytes(16)),
    Kind.COMPRESSED: lambda path: path.write_bytes(gzip.compress(b"x")),
    Kind.LFS_POINTER: lambda path: path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"),
    Kind.WEB_PAGE: lambda path: path.write_bytes(b"\n<html><body>Too many requests</body></html>"),
    Kind.JSON: lambda path: path.write_text(json.dumps({"hidden_size": 8})),
    Kind.SHARD_INDEX: lambda path: path.write_text(json.dumps({"metadata": {}, "weight_map": {"w": "a.safetensors"}})),
    Kind.UNKNOWN: lambda path: path.write_bytes(b"import torch\n"),
}


def npy_bytes():
    stream = io.BytesIO()
    np.save(stream, np.zeros(2))
    return stream.getvalue()


@pytest.mark.parametrize("kind", WRITERS)
def test_kinds_of_other_tools(tmp_path, kind):
    """Files of other tools are recognised under a checkpoint's name, and come with a remedy."""
    path = tmp_path / "best.pth"
    with warnings.catch_warnings(action="ignore", category=ResourceWarning):
        WRITERS[kind](path)

    found = recognise(path)

    assert found.kind is kind
    assert found.remedy.endswith(".")
    assert (found.remedy == "Nothing to do: it can be read.") == (kind in READABLE)


@pytest.mark.parametrize("protocol", range(6))
def test_plain_pickles(tmp_path, protocol):
    """pickle.dump's file is recognised in every protocol, also where it has no header."""
    path = tmp_path / "best.pth"
    path.write_bytes(pickle.dumps({"epoch": 3, "weights": [1.0, 2.0]}, protocol=protocol))

    assert recognise(path).kind is Kind.PICKLE


def test_joblib(tmp_path):
    """joblib.dump's file is a pickle with arrays between its opcodes."""
    path = tmp_path / "best.pth"
    joblib.dump({"w": np.zeros(2000)}, path)

    assert recognise(path).kind is Kind.PICKLE


def test_a_server_answer_is_quoted(tmp_path):
    """Of a failed download, the first bytes are shown."""
    path = tmp_path / "best.pth"
    path.write_bytes(b'{"error":  "Repository not found"}')

    assert recognise(path).summary == 'a web page or a server\'s answer, not a model: "{"error": "Repository not found"}"'


def test_missing_file_names_the_newest_checkpoint_there(tmp_path, model):
    """A path that does not exist is unreadable, and the folder's newest checkpoint is named."""
    torch.save(model.state_dict(), tmp_path / "last.pth")

    with pytest.raises(UnreadableCheckpoint) as caught:
        recognise(tmp_path / "best.pth")

    assert str(caught.value) == f"{tmp_path}/best.pth does not exist. The newest whole checkpoint in that folder is last.pth."


def test_missing_folder_and_dangling_link(tmp_path):
    """A missing folder and a link to nothing are each said to be so."""
    (tmp_path / "best.pth").symlink_to("gone.pth")

    with pytest.raises(UnreadableCheckpoint, match="nor does the folder"):
        recognise(tmp_path / "no" / "best.pth")
    with pytest.raises(UnreadableCheckpoint, match=r"is a link to gone\.pth, which does not exist"):
        recognise(tmp_path / "best.pth")
