"""The scan sees every import of a pickle, in every protocol, and allows only what a state_dict and plain values need."""

import argparse
import collections
import datetime as dt
import io
import pathlib
import pickle
import pickletools
import zipfile

import numpy as np
import pytest
import torch

from checkpoints import UnreadableCheckpoint
from checkpoints.allowed import BENIGN_GLOBALS, TORCH_GLOBALS, stand_ins
from checkpoints.pickles import UNSUPPORTED_BY_TORCH, scan_pickle


def saved_pickle(value, protocol=2):
    stream = io.BytesIO()
    torch.save(value, stream, pickle_protocol=protocol)
    with zipfile.ZipFile(stream) as archive:
        return archive.read("archive/data.pkl")


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_state_dict_is_safe_in_every_protocol(protocol):
    """A state_dict names only what rebuilds tensors, and every storage is seen with its size."""
    scan = scan_pickle(saved_pickle(torch.nn.Linear(3, 2).state_dict(), protocol))

    assert scan.is_safe
    assert scan.globals == ("collections.OrderedDict", "torch._utils._rebuild_tensor_v2", "torch.FloatStorage")
    assert [(one.type, one.key, one.elements) for one in scan.storages] == [("FloatStorage", "0", 6), ("FloatStorage", "1", 2)]
    assert bool(scan.unsupported) == (protocol >= 4)


@pytest.mark.parametrize("protocol", range(6))
def test_names_of_plain_pickles(protocol):
    """A class is found under its module and name in every protocol, also through Python 2's names."""
    scan = scan_pickle(pickle.dumps([argparse.Namespace(a=1), print, collections.deque([1])], protocol))

    assert {"builtins.print", "collections.deque"} <= set(scan.unsafe)
    assert "argparse.Namespace" not in scan.unsafe


def test_the_names_of_one_string_used_twice_come_from_the_memo():
    """STACK_GLOBAL reads a name that an earlier string left in the memo."""
    data = pickle.dumps(["os", "system", print], 4)
    swapped = data.replace(b"\x8c\x08builtins\x94\x8c\x05print\x94", b"h\x01h\x02")

    assert swapped != data
    assert scan_pickle(b"\x80\x04" + swapped[swapped.index(b"]") :]).unsafe == ("os.system",)


BENIGN = {
    "namespace": argparse.Namespace(lr=0.1, data=pathlib.PurePosixPath("/data")),
    "defaultdict": collections.defaultdict(list, a=[1]),
    "numpy scalars": {"acc": np.float64(0.9), "step": np.int64(3), "best": np.bool_(1)},
    "numpy arrays": [np.arange(3), np.zeros((2, 2), np.float32)],
    "times": [dt.datetime(2026, 1, 2, tzinfo=dt.UTC), dt.timedelta(seconds=3), dt.date(2026, 1, 2)],
    "sets": [frozenset({1}), {2}],
    "torch values": [torch.Size([1]), torch.float32, torch.device("cpu")],
}


@pytest.mark.parametrize("name", BENIGN)
def test_plain_values_beside_the_weights_are_allowed(name):
    """Arguments, metrics, paths and times that training scripts save are safe, in the protocol that torch.save uses."""
    scan = scan_pickle(saved_pickle(BENIGN[name]))

    assert scan.unsafe == ()
    assert scan.unsupported == ()


@pytest.mark.parametrize("dtype", [np.dtype("O"), np.dtype("U4"), np.dtype([("a", "f4")]), np.dtype("M8[s]")], ids=str)
def test_arrays_of_anything_but_numbers_are_not(dtype):
    """NumPy types that hold objects, text, records or times are refused: their state could reinterpret memory."""
    scan = scan_pickle(saved_pickle({"a": np.zeros(2, np.float32), "b": dtype}))

    assert scan.unsafe[0].startswith("numpy.dtype(")


def test_an_array_type_may_be_named_but_not_called():
    """numpy.ndarray stands in honest pickles as an argument only; a call of it could ask for any memory."""
    data = b"\x80\x02cnumpy\nndarray\n" + b"(J\xff\xff\xff\x7ftR."

    assert scan_pickle(data).unsafe == ("numpy.ndarray(…)",)


def test_a_storage_of_computed_size_is_unsafe():
    """The size of every storage must be a plain number, since it is compared with the file."""
    honest = saved_pickle({"w": torch.zeros(4)})
    computed = honest.replace(b"K\x04t", b"c__builtin__\nint\nK\x04\x85Rt", 1)

    assert computed != honest
    assert scan_pickle(computed).unsafe == ("a storage whose size is computed",)


def test_a_rebuilder_calls_only_rebuilders():
    """torch's rebuilder of tensors with attributes calls what it is given: nothing but torch's own is let through."""
    tensor = torch.zeros(1)
    vars(tensor)["note"] = "kept"
    honest = saved_pickle(tensor)
    other = honest.replace(b"ctorch._utils\n_rebuild_tensor_v2\n", b"cbuiltins\nlist\n")

    assert scan_pickle(honest).is_safe
    assert scan_pickle(other).unsafe == ("torch._tensor._rebuild_from_type_v2(…)",)


def test_bytes_are_decoded_by_no_other_codec():
    """Protocol 2 writes bytes as a call of _codecs.encode with latin1; another codec is refused."""
    assert scan_pickle(pickle.dumps(b"\xff", 2)).is_safe
    assert (
        scan_pickle(pickle.dumps(b"\xff", 2).replace(b"\x06\0\0\0latin1", b"\x06\0\0\0rot_13"))
        .unsafe[0]
        .startswith("_codecs.encode(")
    )


def test_the_allow_list_holds_nothing_that_torch_would_not_take():
    """Everything allowed is either allowed by torch's own reader or given to it by us."""
    from torch import _weights_only_unpickler

    ours = set(TORCH_GLOBALS)
    theirs = set(_weights_only_unpickler._get_allowed_globals())

    assert ours - theirs == {name for name in ours - theirs if name.startswith("torch.cuda.")}
    assert not BENIGN_GLOBALS & theirs


def test_every_benign_type_has_a_stand_in():
    """Each plain type on the list can be read: something harmless stands for it under that very name."""
    named = {entry[1] for entry in stand_ins(set(BENIGN_GLOBALS)) if isinstance(entry, tuple)}

    assert named == BENIGN_GLOBALS
    assert stand_ins(set(TORCH_GLOBALS)) == []


def test_the_opcodes_that_torch_lacks_are_known():
    """Every opcode outside UNSUPPORTED_BY_TORCH is one that torch's reader takes."""
    from torch import _weights_only_unpickler as reader

    known = {
        opcode.name
        for opcode in pickletools.opcodes
        for name in vars(reader)
        if name.isupper() and getattr(reader, name) == opcode.code.encode("latin1")
    }

    assert {opcode.name for opcode in pickletools.opcodes} - known - UNSUPPORTED_BY_TORCH == set()
    assert known & UNSUPPORTED_BY_TORCH == set()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\x80\x02]", "pickle exhausted before seeing STOP"),
        (b"\x80\x02R.", "it takes more from its stack than is there"),
        (b"\x80\x02h\x05.", "it asks for memo entry 5, which was never stored"),
        (b"\x80\x02X\xff\xff\xff\x7fabc", "expected 2147483647 bytes"),
        (b"", "pickle exhausted before seeing STOP"),
    ],
)
def test_what_is_no_pickle_is_unreadable(data, said):
    """A stream that ends early or misuses its stack is reported as damaged, with the place."""
    with pytest.raises(UnreadableCheckpoint, match=said):
        scan_pickle(data)


def test_what_follows_stop_is_left_to_the_caller():
    """The scan stops where a reader stops, and says where that is."""
    assert scan_pickle(pickle.dumps(7, 2) + b"more").end == len(pickle.dumps(7, 2))
    assert scan_pickle(b"skip" + pickle.dumps(7, 2), start=4).value == 7
