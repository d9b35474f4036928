"""One process's part of a load, on servers that behave in every way that servers do."""

import asyncio

import numpy as np
import pytest

from bench.client.load import Request

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
BUSY = b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"


def post(size=0):
    """A request with so many bytes of body."""
    return Request(b"POST / HTTP/1.1\r\nHost: here\r\nContent-Length: %d\r\n\r\n" % size + bytes(size), rows=1)


async def ok(_number):
    return OK


def test_a_connection_is_kept(answering, fire_here):
    """One connection, all requests, and all bytes of theirs are counted."""
    server = answering(ok)
    told, latencies_s = fire_here(server, post())
    count = told["offered"]
    assert server.connections == 1
    assert count == len(latencies_s) == told["rows"] > 10
    assert (told["errors"], told["received_bytes"]) == ({}, len(OK) * count)
    assert told["sent_bytes"] == len(post().content) * count
    assert server.requests - count in {0, 1}  # the last may end after the window


def test_every_connection_asks(answering, fire_here):
    """Each is open from the beginning to the end."""
    server = answering(ok)
    told, _ = fire_here(server, post(), connections=16)
    assert server.connections == 16
    assert told["offered"] > 100


def test_a_refusal_is_an_error_and_the_load_goes_on(answering, fire_here):
    """Every third answer is a 503: counted by its status, and the connection stays."""

    async def answer(number):
        return OK if number % 3 else BUSY

    server = answering(answer)
    told, latencies_s = fire_here(server, post())
    assert told["errors"] == {"status 503": told["offered"] // 3}
    assert len(latencies_s) == told["offered"] - told["offered"] // 3
    assert server.connections == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\n\r\nto the end",
    ],
    ids=["said", "HTTP/1.0", "to the end"],
)
@pytest.mark.parametrize("rate_per_s", [None, 200])
def test_a_server_may_close_after_each_answer(serving, fire_here, answer, rate_per_s):
    """The next request takes a new connection at once, and nothing counts as an error."""

    async def once(server, reader, writer):
        await server.request(reader)
        writer.write(answer)

    server = serving(once)
    told, _ = fire_here(server, post(), connections=4, rate_per_s=rate_per_s)
    assert told["errors"] == {}
    assert 5 < told["offered"] <= server.connections


def test_a_server_may_close_what_nobody_uses(serving, fire_here):
    """An idle connection that the server leaves is opened again, and is no error."""

    async def leaving(server, reader, writer):
        await server.request(reader)
        writer.write(OK)
        await writer.drain()
        await asyncio.sleep(0.005)

    server = serving(leaving)
    told, latencies_s = fire_here(server, post(), connections=16, rate_per_s=100, duration_s=0.2)
    assert told["errors"] == {}
    assert len(latencies_s) == told["offered"] > 5


def test_an_answer_may_come_slowly_and_in_chunks(serving, fire_here):
    """Byte by byte, or chunked: its latency ends with the last of it."""
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"

    async def slow(server, reader, writer):
        while await server.request(reader):
            for place, byte in enumerate(chunked):
                writer.write(bytes([byte]))
                await writer.drain()
                if place % 10 == 0:
                    await asyncio.sleep(0.002)

    told, latencies_s = fire_here(serving(slow), post(), duration_s=0.2)
    assert told["errors"] == {}
    assert latencies_s.min() > 0.012
    assert told["received_bytes"] == len(chunked) * len(latencies_s)


def test_garbage_is_counted_and_not_asked_for_in_a_hurry(answering, fire_here):
    """What is no HTTP ends the connection, and the next is opened after a pause that grows."""

    async def answer(_number):
        return b"SSH-2.0-whatever\r\n"

    server = answering(answer)
    told, _ = fire_here(server, post(), duration_s=0.2)
    assert set(told["errors"]) == {"malformed answer"}
    assert 2 < told["offered"] < 8  # after 10, 20, 40, 80 ms
    assert told["offered"] - server.connections in {0, 1, -1}


def test_more_than_was_asked_for_is_malformed(answering, fire_here):
    """Two answers to one request: which one is meant cannot be known."""

    async def answer(_number):
        return OK + OK

    told, latencies_s = fire_here(answering(answer), post())
    assert set(told["errors"]) == {"malformed answer"}
    assert not len(latencies_s)


@pytest.mark.parametrize("rate_per_s", [None, 100])
def test_no_answer_is_a_timeout(serving, fire_here, rate_per_s):
    """The connection is given up; a request of an open loop that never found one times out too."""

    async def silent(server, reader, _writer):
        while await server.request(reader):
            pass

    server = serving(silent)
    told, latencies_s = fire_here(server, post(), connections=2, timeout_s=0.05, rate_per_s=rate_per_s, duration_s=0.2)
    assert told["errors"] == {"timeout": told["offered"]}
    assert told["offered"] > 4
    assert not len(latencies_s)
    assert server.requests >= 4


def test_a_request_that_is_closed_on_has_failed(serving, fire_here):
    """A connection that ends in the middle of an answer, or before it."""

    async def half(server, reader, writer):
        writer.write(OK[: await server.request(reader) % 2 and 20])

    told, _ = fire_here(serving(half), post())
    assert set(told["errors"]) == {"connection closed"}


def test_a_large_body_goes_in_parts(serving, fire_here):
    """Many times what a socket takes at once; every byte arrives."""
    size = 30_000_000

    async def digest(server, reader, writer):
        while head := await reader.readuntil(b"\r\n\r\n"):
            assert b"%d" % size in head
            left = size
            while left:
                left -= len(await reader.read(left))
            server.requests += 1
            writer.write(OK)

    server = serving(digest)
    told, latencies_s = fire_here(server, post(size), duration_s=0.2)
    assert told["errors"] == {}
    assert 1 <= len(latencies_s) <= server.requests
    assert told["sent_bytes"] == told["offered"] * len(post(size).content)


@pytest.mark.parametrize("closes", [True, False])
def test_an_answer_may_come_before_the_body_is_sent(serving, fire_here, closes):
    """A 413 after the head is the answer, whether the server closes or waits; the rest of the body stays unsent."""

    async def too_large(_server, reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Large\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        if not closes:
            await asyncio.sleep(10)

    told, _ = fire_here(serving(too_large), post(30_000_000))
    assert told["errors"] == {"status 413": told["offered"]}
    assert 0 < told["sent_bytes"] < told["offered"] * 30_000_000


def test_a_rate_beyond_capacity_shows_in_the_latencies(answering, fire_here):
    """600 requests a second for a server of 200: each waits longer than the one before, and every one is waited for."""
    one = asyncio.Lock()

    async def answer(_number):
        async with one:
            await asyncio.sleep(0.005)
        return OK

    told, latencies_s = fire_here(answering(answer), post(), connections=8, rate_per_s=600, duration_s=0.2)
    first, second = np.array_split(latencies_s, 2)
    assert told["offered"] == len(latencies_s) > 70
    assert np.median(second) > 2 * np.median(first)
    assert latencies_s[-1] > 0.15  # 120 requests take 0.6 s
    assert told["offered"] - 20 < told["waited"] < told["offered"]  # nearly all found eight connections in use


def test_requests_that_find_a_connection_do_not_wait(answering, fire_here):
    """Only those that found none free are told to have waited; in a closed loop, none is."""
    server = answering(ok)
    assert fire_here(server, post(), connections=32, rate_per_s=200)[0]["waited"] == 0
    assert fire_here(server, post(), connections=2)[0]["waited"] == 0
