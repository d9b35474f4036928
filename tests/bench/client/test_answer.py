"""One answer of HTTP/1.1, in whatever pieces it comes."""

import pytest

from bench.client.answer import MAX_HEAD_BYTES, Answer, MalformedAnswer

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
WHOLE = {
    "counted": (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 200, True),
    "any case": (b"HTTP/1.1 200 OK\r\ncOnTeNt-LeNgTh :\t2 \r\n\r\nok", 200, True),
    "empty": (b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", 200, True),
    "no reason": (b"HTTP/1.1 503 \r\ncontent-length: 1\r\n\r\n!", 503, True),
    "without content": (b"HTTP/1.1 204 No Content\r\nx: y\r\n\r\n", 204, True),
    "closing": (b"HTTP/1.1 200 OK\r\nConnection: Close\r\nContent-Length: 2\r\n\r\nok", 200, False),
    "old": (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", 200, False),
    "old, kept": (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok", 200, True),
    "chunked": (CHUNKED + b"1\r\no\r\n1;why=not\r\nk\r\n0\r\n\r\n", 200, True),
    "chunked, with a trailer": (CHUNKED + b"a\r\n0123456789\r\n0\r\nmore: yes\r\n\r\n", 200, True),
    "chunked, line ends inside": (CHUNKED + b"6\r\n0\r\n\r\n0\r\n0\r\n\r\n", 200, True),
    "interim": (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 413 Large\r\nContent-Length: 0\r\n\r\n", 413, True),
    "twice the same length": (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok", 200, True),
}
USUAL = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\nX-Id: 1234567890\r\n\r\n0123456789"
MALFORMED = {
    "no HTTP": b"garbage\r\n\r\n",
    "HTTP/2": b"HTTP/2 200 OK\r\ncontent-length: 0\r\n\r\n",
    "a status of two digits": b"HTTP/1.1 20 OK\r\n\r\n",
    "bytes after the end": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok!",
    "two answers": 2 * b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "a length that is none": b"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
    "a chunk without a size": CHUNKED + b"\r\n\r\n",
    "a chunk longer than its size": CHUNKED + b"1\r\nok\r\n",
    "bytes after the last chunk": CHUNKED + b"0\r\n\r\n!",
    "a head without end": b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * (MAX_HEAD_BYTES // 6),
}


def feed(answer, data, step):
    """What each piece of so many bytes gives."""
    pieces = [data[at : at + step] for at in range(0, len(data), step)]
    return [answer.feed(bytearray(piece + b"what stood in the buffer"), len(piece)) for piece in pieces]


@pytest.mark.parametrize("step", [1000, 1, 7])
@pytest.mark.parametrize("name", WHOLE)
def test_an_answer_is_whole_with_its_last_byte(name, step):
    """In one segment, in many, and byte by byte; and the same object reads the next one."""
    data, status, keeps = WHOLE[name]
    answer = Answer()
    for _ in range(2):
        *before, last = feed(answer, data, step)
        assert (set(before) <= {0}, last, answer.keeps) == (True, status, keeps)


@pytest.mark.parametrize("step", [100_000, 13])
@pytest.mark.parametrize("name", MALFORMED)
def test_what_is_no_answer_is_refused(name, step):
    """Garbage, and what goes on after an answer's end."""
    answer = Answer()
    with pytest.raises(MalformedAnswer):
        feed(answer, MALFORMED[name], step)


@pytest.mark.parametrize("protocol", [b"HTTP/1.0", b"HTTP/1.1"])
def test_an_answer_without_a_length_goes_to_the_end(protocol):
    """It is whole once the connection is closed, and not before."""
    answer = Answer()
    assert feed(answer, protocol + b" 200 OK\r\n\r\nwhatever\r\n\r\n", 5).count(0) == 7
    assert (answer.ended(), answer.keeps) == (200, False)


def test_an_end_within_an_answer_is_not_its_end():
    """A head, counted content or chunks that are cut off."""
    for part in (b"HTTP/1.1 200", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok", CHUNKED + b"1\r\no\r\n"):
        answer = Answer()
        assert feed(answer, part, 1000) == [0]
        assert answer.ended() == 0


@pytest.mark.parametrize(
    ("after", "status", "keeps"),
    [
        (USUAL.replace(b"1234567890\r", b"0987654321\r"), 200, True),
        (USUAL.replace(b"200 OK", b"500 NO"), 500, True),
        (USUAL.replace(b"X-Id: 1234567890", b"Connection: close"), 200, False),
        (
            USUAL.replace(b"X-Id: 1234567890\r\n\r\n0123456789", b"Connection: close\r\n\r\n012345678").replace(b"10", b"9 "),
            200,
            False,
        ),
        (USUAL[:-1], 0, True),
        (USUAL.replace(b"h: 10", b"h: 11"), 0, True),
    ],
    ids=["alike", "another status", "closing", "closing, as long", "cut off", "one byte is to come"],
)
def test_an_answer_much_like_the_last_is_not_taken_for_it(after, status, keeps):
    """As long as the last, or nearly: its status, its end and its connection are its own."""
    answer = Answer()
    assert feed(answer, USUAL, 1000) == feed(answer, USUAL, 1000) == [200]
    assert (feed(answer, after, 1000), answer.keeps) == ([status], keeps)
