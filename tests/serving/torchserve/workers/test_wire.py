"""The bytes between us and the worker, held against TorchServe's own reader and writer."""

import socket
import struct
import threading
import warnings

import pytest

from serving.torchserve.jobs import Input, Job, Reply
from serving.torchserve.workers.wire import BrokenAnswer, Decoder, Load, _kept_labels, batch_message, load_message

END = struct.pack("!i", -1)


def sized(value):
    return struct.pack("!i", len(value)) + value


def reply(request_id, body, headers=((b"dummy", b"1"),), status=200):
    listed = b"".join(sized(name) + sized(value) for name, value in headers)
    return b"".join(
        (
            sized(request_id),
            sized(b"text/x"),
            struct.pack("!i", status),
            sized("Grün".encode()),
            struct.pack("!i", len(headers)),
            listed,
            sized(body),
        )
    )


def answer(*replies, code=200):
    return struct.pack("!i", code) + sized(b"Prediction success") + b"".join(replies) + END


WHOLE = answer(reply(b"a", b"one"), reply(b"b", b"", headers=(), status=404)) + answer(code=507)


@pytest.fixture(scope="module")
def torchserve_reads():
    """What TorchServe's own worker reads of a message."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # ts leaves its version's file open
        from ts.protocol.otf_message_handler import retrieve_msg

    def read(message):
        ours, its = socket.socketpair()
        with ours, its:
            sending = threading.Thread(target=ours.sendall, args=(message,))
            sending.start()
            found = retrieve_msg(its)
            sending.join()
            return found

    return read


def test_load_is_read_by_torchserve(torchserve_reads):
    """Every field of a load arrives as it was given."""
    load = Load("m", "/models/ä", 8, "h.py:f", gpu=3, envelope="json", limit_max_image_pixels=False)
    command, found = torchserve_reads(load_message(load))
    assert command == b"L"
    assert found == {
        "modelName": b"m",
        "modelPath": "/models/ä".encode(),
        "batchSize": 8,
        "handler": b"h.py:f",
        "gpu": 3,
        "envelope": b"json",
        "limitMaxImagePixels": False,
    }


def test_no_gpu_is_not_told(torchserve_reads):
    """A worker without a GPU hears of none, so that a handler finds gpu_id None."""
    _, found = torchserve_reads(load_message(Load("m", "/m", 1, "h")))
    assert "gpu" not in found
    assert found["limitMaxImagePixels"] is True


def test_batch_is_read_by_torchserve(torchserve_reads):
    """Jobs arrive in order, with their headers and inputs, decoded by their content type; large values, too."""
    jobs = [
        Job("1", (("x-foo", "ü"),), (Input("body", "application/json", b'{"a": 1}'),)),
        Job("2", (), (Input("data", "", b"\x00" * 300_000), Input("text", "text/plain", "ß".encode()))),
        Job("3", (("describe", "True"),), ()),
    ]
    command, found = torchserve_reads(b"".join(batch_message(jobs)))
    assert command == b"I"
    assert [one["requestId"] for one in found] == [b"1", b"2", b"3"]
    assert found[0]["headers"] == [{"name": b"X-Foo", "value": "ü".encode()}]
    assert found[0]["parameters"] == [{"name": "body", "contentType": "application/json", "value": {"a": 1}}]
    assert [part["value"] for part in found[1]["parameters"]] == [bytearray(300_000), "ß"]
    assert found[2]["headers"] == [{"name": b"describe", "value": b"True"}]
    assert found[2]["parameters"] == []


def test_text_that_is_no_utf_8_cannot_harm(torchserve_reads):
    """What cannot be written as UTF-8, which the worker would die of, is replaced."""
    _, found = torchserve_reads(b"".join(batch_message([Job("1", (("x", "\udcff"),), (Input("\udcff", "", b"v"),))])))
    assert found[0]["headers"] == [{"name": b"X", "value": b"?"}]
    assert found[0]["parameters"][0]["name"] == "?"


@pytest.mark.parametrize(
    ("given", "spelled"),
    [
        ("content-type", "Content-Type"),
        ("x-request-id", "X-Request-Id"),
        ("host", "Host"),
        ("url_path", "url_path"),
        ("explain", "explain"),
        ("describe", "describe"),
        ("ts_request_sequence_id", "ts_request_sequence_id"),
    ],
)
def test_header_names_are_spelled_as_clients_do(torchserve_reads, given, spelled):
    """HTTP's headers are in Title-Case, TorchServe's own as they are."""
    _, found = torchserve_reads(b"".join(batch_message([Job("1", ((given, "v"),), ())])))
    assert found[0]["headers"] == [{"name": spelled.encode(), "value": b"v"}]


def test_answer_is_read():
    """Code, message, and each reply's status, phrase, content type, headers and body."""
    first, second = Decoder(100, 2).feed(WHOLE)
    assert (first.code, first.message) == (200, "Prediction success")
    assert first.replies == [
        ("a", Reply(b"one", 200, "Grün", "text/x", [("dummy", "1")])),
        ("b", Reply(b"", 404, "Grün", "text/x", [])),
    ]
    assert (second.code, second.replies) == (507, [])


@pytest.mark.parametrize("size", range(1, len(WHOLE) + 1))
def test_answer_is_read_in_pieces_of_any_size(size):
    """However the bytes are cut, the same answers are found."""
    decoder, found = Decoder(100, 2), []
    for start in range(0, len(WHOLE), size):
        found += decoder.feed(WHOLE[start : start + size])
    assert found == Decoder(100, 2).feed(WHOLE)


@pytest.mark.usefixtures("torchserve_reads")
def test_torchserve_writes_what_is_read():
    """An answer of TorchServe's own writer is read, with what its handler set."""
    from ts.context import Context, RequestProcessor
    from ts.protocol.otf_message_handler import create_predict_response

    context = Context("m", "/m", {}, 2, None, "0")
    context.request_processor = [RequestProcessor({}), RequestProcessor({})]
    context.set_response_content_type(0, "image/png")
    context.set_response_status(code=201, phrase="Made", idx=0)
    data = create_predict_response([b"\x89PNG", {"a": 1}], {0: "x", 1: "y"}, "Prediction success", 200, context)
    (found,) = Decoder(1000, 2).feed(bytes(data))
    assert found.replies == [
        ("x", Reply(b"\x89PNG", 201, "Made", "image/png", [("content-type", "image/png")])),
        ("y", Reply(b'{\n  "a": 1\n}', 200, "", "", [])),
    ]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (answer(reply(b"a", bytes(101))), "the worker's answer has a value of 101 bytes; max_response_size is 100"),
        (struct.pack("!ii", 200, -2), "the worker's answer has a value of -2 bytes; max_response_size is 100"),
        (answer(*[reply(b"a", b"")] * 3), "the worker's answer has more than 2 replies"),
        (
            answer(reply(b"a", b""))[:-4]
            + sized(b"b")
            + sized(b"")
            + struct.pack("!i", 200)
            + sized(b"")
            + struct.pack("!i", 1001),
            "the worker's answer has 1001 headers; at most 1000 are read",
        ),
    ],
)
def test_broken_answer_is_refused(data, message):
    """What is too large, or no answer, is told, in one piece or byte by byte."""
    with pytest.raises(BrokenAnswer) as refused:
        Decoder(100, 2).feed(data)
    assert str(refused.value) == message
    decoder = Decoder(100, 2)
    with pytest.raises(BrokenAnswer):
        _ = [decoder.feed(data[at : at + 1]) for at in range(len(data))]


def test_long_names_are_not_kept():
    """A client that makes up names of fields fills no memory with them."""
    before = _kept_labels.cache_info().currsize
    for number in range(8):
        batch_message([Job("id", (), (Input(f"{number:0>10000}", "", b""),))])

    assert _kept_labels.cache_info().currsize == before
