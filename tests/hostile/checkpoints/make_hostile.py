"""Make the hostile checkpoints in this folder again: python tests/hostile/checkpoints/make_hostile.py

Everything is written byte by byte with the standard library: no real writer would write these. The pickles would, if they were
run, create a file named `stateserve-hostile-marker` in the current folder; nothing else.
"""

import io
import json
import pickle
import struct
import zipfile
from pathlib import Path

HERE = Path(__file__).parent
MARKER = "stateserve-hostile-marker"
COMMAND = f"touch {MARKER}"
WHEN = (1980, 1, 1, 0, 0, 0)
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C


class Runs:
    """Pickled, it is a call of os.system."""

    def __reduce__(self):
        import os

        return os.system, (COMMAND,)


def text(content: str) -> bytes:
    return pickle.BINUNICODE + struct.pack("<I", len(content)) + content.encode()


def short_text(content: str) -> bytes:
    return pickle.SHORT_BINUNICODE + bytes([len(content)]) + content.encode()


def pickle_through_memo() -> bytes:
    """STACK_GLOBAL whose two names were put in the memo, dropped, and fetched again in another order."""
    call = (
        pickle.BINGET + b"\1" + pickle.BINGET + b"\0" + pickle.STACK_GLOBAL + short_text(COMMAND) + pickle.TUPLE1 + pickle.REDUCE
    )
    names = short_text("system") + pickle.MEMOIZE + pickle.POP + short_text("os") + pickle.MEMOIZE + pickle.POP
    return pickle.PROTO + b"\4" + names + call + pickle.STOP


def pickle_with_computed_name() -> bytes:
    """STACK_GLOBAL whose module name is the result of a call: no scan can tell what it imports."""
    module = b"c_codecs\nencode\n" + short_text("os") + short_text("latin1") + pickle.TUPLE2 + pickle.REDUCE
    return pickle.PROTO + b"\4" + module + short_text("system") + pickle.STACK_GLOBAL + short_text(COMMAND) + b"\x85R."


def pickle_with_inst() -> bytes:
    return b"".join([b"(", b"V", COMMAND.encode(), b"\n", b"ios\nsystem\n", b"."])


def pickle_with_extension() -> bytes:
    return pickle.PROTO + b"\2" + pickle.EXT1 + b"\7" + b")R."


def pickle_with_escaped_name() -> bytes:
    """A GLOBAL whose module, with escapes undone, would be an allowed one; readers take it as it stands."""
    return pickle.PROTO + b"\2" + b"c" + rb"collection\x73" + b"\nOrderedDict\n" + b")R."


def pickle_with_object_dtype() -> bytes:
    """A numpy.dtype of number type whose state claims that its elements are pointers to objects."""
    state = pickle.dumps((3, "<", None, None, None, -1, -1, 63), protocol=2)[2:-1]
    made = b"cnumpy\ndtype\n" + b"(" + b"X\2\0\0\0f8" + b"\x89\x88" + b"tR"
    return pickle.PROTO + b"\2" + made + state + b"b."


def torch_zip(pickled: bytes, *more: tuple[str, bytes], root: str = "archive", compression: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name, data in ((f"{root}/data.pkl", pickled), (f"{root}/version", b"3\n"), *more):
            archive.writestr(zipfile.ZipInfo(name, WHEN), data, compress_type=compression)
    return stream.getvalue()


def empty_state_dict() -> bytes:
    return pickle.dumps({}, protocol=2)


def tensor_pickle(elements: int, size: int) -> bytes:
    """{"weight": a float32 vector of `size` in storage "0" of `elements`}, in the opcodes that torch.save writes."""
    saved_id = [text("storage"), b"ctorch\nFloatStorage\n", text("0"), text("cpu"), b"J" + struct.pack("<i", elements)]
    storage = b"(" + b"".join(saved_id) + b"tQ"
    shape, stride = b"J" + struct.pack("<i", size) + b"\x85", b"K\1\x85"
    hooks = b"ccollections\nOrderedDict\n)R"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\0" + shape + stride + b"\x89" + hooks + b"tR"
    return pickle.PROTO + b"\2}" + text("weight") + tensor + b"s."


def legacy(pickled: bytes, protocol: int) -> bytes:
    parts = [pickle.dumps(value, protocol) for value in (LEGACY_MAGIC, 1001, {"little_endian": True})]
    return b"".join([*parts, pickled, pickle.dumps([], protocol)])


def safetensors(header: object, data: bytes = b"", *, length: int | None = None) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


def entry(shape: list[int], begin: int, end: int, dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def pt2(*members: tuple[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, data in (("program/archive_format", b"pt2"), ("program/models/model.json", b"{}"), *members):
            archive.writestr(zipfile.ZipInfo(name, WHEN), data)
    return stream.getvalue()


def doubled_pickle() -> bytes:
    """An honest data.pkl and a hostile one of the same name; the name is doubled by hand, since zipfile warns."""
    placeholder = torch_zip(empty_state_dict(), ("archive/DATA.PKX", pickle.dumps(Runs(), 2)))
    return placeholder.replace(b"archive/DATA.PKX", b"archive/data.pkl")


def storage_past_its_record() -> bytes:
    """A storage of 1000 elements whose record has 4: mapped, it would show the bytes of other records."""
    return torch_zip(tensor_pickle(1000, 1000), ("archive/data/0", bytes(16)), ("archive/data/1", bytes(8000)))


FILES: dict[str, bytes] = {
    **{f"runs-protocol-{protocol}.pkl": pickle.dumps(Runs(), protocol) for protocol in range(6)},
    **{f"runs-zip-protocol-{protocol}.pth": torch_zip(pickle.dumps({"w": Runs()}, protocol)) for protocol in range(6)},
    **{f"runs-legacy-protocol-{protocol}.pth": legacy(pickle.dumps({"w": Runs()}, protocol), protocol) for protocol in range(6)},
    "runs-memo.pth": torch_zip(pickle_through_memo()),
    "runs-computed-name.pth": torch_zip(pickle_with_computed_name()),
    "runs-inst.pth": torch_zip(pickle_with_inst()),
    "runs-extension.pth": torch_zip(pickle_with_extension()),
    "runs-in-storage-keys.pth": legacy(empty_state_dict(), 2)[: -len(pickle.dumps([], 2))] + pickle.dumps(Runs(), 2),
    "escaped-name.pth": torch_zip(pickle_with_escaped_name()),
    "object-dtype.pth": torch_zip(pickle_with_object_dtype()),
    "zip-doubled-pickle.pth": doubled_pickle(),
    "zip-other-case.pth": torch_zip(empty_state_dict(), ("archive/DATA.PKL", pickle.dumps(Runs(), 2))),
    "zip-two-roots.pth": torch_zip(empty_state_dict(), ("other/data.pkl", pickle.dumps(Runs(), 2))),
    "zip-after-stop.pth": torch_zip(empty_state_dict() + pickle.dumps(Runs(), 2)),
    "zip-before.pth": b"PK\3\4" + bytes(60) + torch_zip(empty_state_dict()),
    "zip-bomb.pth": torch_zip(empty_state_dict(), ("archive/data/0", bytes(50_000_000)), compression=zipfile.ZIP_DEFLATED),
    "zip-truncated.pth": torch_zip(tensor_pickle(4, 4), ("archive/data/0", bytes(16)))[:-60],
    "zip-flipped-bit.pth": torch_zip(tensor_pickle(4, 4), ("archive/data/0", b"ABCDEFGHIJKLMNOP")).replace(b"ABCD", b"ABCE", 1),
    "storage-past-its-record.pth": storage_past_its_record(),
    "tensor-past-its-storage.pth": torch_zip(tensor_pickle(4, 1000), ("archive/data/0", bytes(16))),
    "storage-missing.pth": torch_zip(tensor_pickle(4, 4)),
    "bad-offsets.safetensors": safetensors({"w": entry([4], 0, 12)}, bytes(12)),
    "overlap.safetensors": safetensors({"a": entry([2], 0, 8), "b": entry([2], 4, 12)}, bytes(12)),
    "gap.safetensors": safetensors({"a": entry([1], 0, 4), "b": entry([1], 8, 12)}, bytes(12)),
    "bytes-at-end.safetensors": safetensors({"a": entry([1], 0, 4)}, bytes(12)),
    "cut-off.safetensors": safetensors({"a": entry([4], 0, 16)}, bytes(12)),
    "oversized-header.safetensors": safetensors(b"{}", length=1 << 40),
    "doubled-key.safetensors": safetensors(b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"w":{}}', bytes(4)),
    "huge-shape.safetensors": safetensors({"w": entry([1 << 40, 1 << 40], 0, 4)}, bytes(4)),
    "negative-size.safetensors": safetensors({"w": entry([-1, -1], 0, 4)}, bytes(4)),
    "true-as-size.safetensors": safetensors(b'{"w":{"dtype":"F32","shape":[true],"data_offsets":[0,4]}}', bytes(4)),
    "unknown-dtype.safetensors": safetensors({"w": entry([1], 0, 4, "F31")}, bytes(4)),
    "deep-header.safetensors": safetensors(b'{"w":' + b"[" * 5000 + b"]" * 5000 + b"}"),
    "weights-pickled.pt2": pt2(
        (
            "program/data/weights/model_weights_config.json",
            b'{"config": {"w": {"path_name": "weight_0", "is_param": true, "use_pickle": true, "tensor_meta": null}}}',
        ),
        ("program/data/weights/weight_0", torch_zip(pickle.dumps(Runs(), 2))),
    ),
    "custom-object.pt2": pt2(("program/data/constants/opaque_obj_0", pickle.dumps(Runs(), 2))),
    "legacy-weights.pt2": pt2(("program/data/weights/model.pt", torch_zip(pickle.dumps(Runs(), 2)))),
    "sample-inputs.pt2": pt2(("program/data/sample_inputs/model.pt", torch_zip(pickle.dumps(Runs(), 2)))),
    "lfs-pointer.pth": b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 46830571\n",
    "page.pth": b"<!DOCTYPE html>\n<html><head><title>Sign in</title></head></html>\n",
    "answer.pth": b'{"error": "Repository not found"}\n',
    "empty.pth": b"",
}

if __name__ == "__main__":
    for name, data in FILES.items():
        (HERE / name).write_bytes(data)
