"""safetensors files are checked by us and read by their library."""

import json
import struct

import pytest
import safetensors.torch
import torch

from checkpoints import Kind, UnreadableCheckpoint, read
from checkpoints.safetensors_header import DTYPE_BYTES, read_header


def test_values_and_metadata(tmp_path):
    """Tensors come back as they were; metadata other than the framework's name is provenance."""
    tensors = {"w": torch.arange(6, dtype=torch.bfloat16).reshape(2, 3), "n": torch.tensor(3)}
    safetensors.torch.save_file(tensors, tmp_path / "best.pth", metadata={"format": "pt", "epoch": "3"})

    checkpoint = read(tmp_path / "best.pth")

    assert (checkpoint.kind, checkpoint.layout, checkpoint.provenance) == (Kind.SAFETENSORS, "bare", {"epoch": "3"})
    assert all(torch.equal(checkpoint.select(None).tensors[key], value) for key, value in tensors.items())


@pytest.mark.parametrize(
    "dtype",
    [
        *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8),
        *(torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.bool, torch.complex64, torch.float8_e4m3fn),
        *(torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz, torch.float8_e8m0fnu),
    ],
    ids=str,
)
def test_dtypes(tmp_path, dtype):
    """Our table of sizes has every type that the library writes for torch, with torch's size."""
    safetensors.torch.save_file({"w": torch.zeros(3).to(dtype)}, tmp_path / "w.safetensors")

    entry = read_header(tmp_path / "w.safetensors").tensors["w"]

    assert DTYPE_BYTES[entry.dtype] == dtype.itemsize
    assert read(tmp_path / "w.safetensors").select(None).tensors["w"].dtype is dtype


def test_a_file_without_tensors(tmp_path):
    """An empty safetensors file holds no weights."""
    safetensors.torch.save_file({}, tmp_path / "w.safetensors")

    with pytest.raises(UnreadableCheckpoint, match=r"w\.safetensors is a safetensors file without a tensor\."):
        read(tmp_path / "w.safetensors")


def test_a_cut_off_file_names_the_whole_one(tmp_path):
    """A truncated file's error names the newest whole checkpoint beside it."""
    safetensors.torch.save_file({"w": torch.zeros(8)}, tmp_path / "step-1.safetensors")
    whole = (tmp_path / "step-1.safetensors").read_bytes()
    (tmp_path / "step-2.safetensors").write_bytes(whole[:-4])

    with pytest.raises(UnreadableCheckpoint) as caught:
        read(tmp_path / "step-2.safetensors")

    assert str(caught.value) == (
        "step-2.safetensors is not a whole safetensors file: it is cut off: its tensors need 32 bytes, 28 are there. "
        "Copy or save it again. The newest whole checkpoint beside it is step-1.safetensors."
    )


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ([], "its header does not begin with {"),
        ({"w": 3}, 'tensor "w" must have dtype, shape and data_offsets, and nothing else'),
        ({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4], "x": 1}}, 'tensor "w" must have dtype'),
        ({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0]}}, 'tensor "w" has the data_offsets [0]'),
        ({"w": {"dtype": "F32", "shape": 1, "data_offsets": [0, 4]}}, 'tensor "w" has the shape 1'),
        ({"w": {"dtype": ["F32"], "shape": [1], "data_offsets": [0, 4]}}, "has the dtype ['F32']"),
        ({"__metadata__": {"epoch": 3}}, "__metadata__ must map strings to strings"),
    ],
)
def test_headers_of_another_shape(tmp_path, header, said):
    """A header that is not as the format says is refused with the part at fault."""
    raw = json.dumps(header).encode()
    (tmp_path / "w.safetensors").write_bytes(struct.pack("<Q", len(raw)) + raw + bytes(4))

    with pytest.raises(UnreadableCheckpoint) as caught:
        read_header(tmp_path / "w.safetensors")

    assert said in str(caught.value)
