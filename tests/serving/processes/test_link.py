"""Messages between two processes: in order, whole, with their descriptors, and to the last word of one that ends."""

import asyncio
import errno
import os
import resource
import socket

import pytest

from serving.processes.link import Link

DEADLINE_S = 30


def run(scenario):
    """Runs a scenario with the two ends of a link, and their sockets."""

    async def bounded():
        here, there = socket.socketpair()
        one, other = Link(here), Link(there)
        try:
            async with asyncio.timeout(DEADLINE_S):
                await scenario(one, other)
        finally:
            one.close()
            other.close()

    asyncio.run(bounded())


def test_messages_arrive_as_they_were_sent():
    """Heads, bodies of any size and descriptors, in order, in both directions at once; nobody waits who sends."""
    bodies = [b"", b"small", os.urandom(8 << 20), bytes(1 << 20), b"last"]

    async def scenario(one, other):
        reading, writing = os.pipe()
        try:
            for number, body in enumerate(bodies):
                fds = [reading, writing] if number % 2 else []
                one.send({"kind": "there", "number": number}, body, fds)
                other.send({"kind": "back", "number": number}, body)
            for number, body in enumerate(bodies):
                there, back = await other.receive(), await one.receive()
                assert (there.head, there.body) == ({"kind": "there", "number": number}, body)
                assert (back.head["number"], back.body, back.fds) == (number, body, [])
                assert [os.fstat(fd) for fd in there.fds] == [os.fstat(fd) for fd in (reading, writing)[: 2 * (number % 2)]]
                for fd in there.fds:
                    os.close(fd)
        finally:
            os.close(reading)
            os.close(writing)

    run(scenario)


def test_last_words_are_heard():
    """What a process said before it ended arrives, although something is sent to it in between."""

    async def scenario(one, other):
        other.send({"kind": "trouble"})
        other.close()
        one.send({"kind": "totals"}, fds=[0])
        message = await one.receive()
        assert message.head == {"kind": "trouble"}
        assert await one.receive() is None
        assert not one.is_open

    run(scenario)


def test_half_a_message_is_none():
    """A process that ends in the middle of a message has not sent it."""

    async def scenario(one, other):
        one.send({"kind": "whole"})
        one.send({"kind": "half"}, bytes(4 << 20))
        one._socket.shutdown(socket.SHUT_WR)  # as a killed process: what waits to be sent is lost
        assert (await other.receive()).head == {"kind": "whole"}
        assert await other.receive() is None

    run(scenario)


def test_a_lost_descriptor_ends_the_link(caplog):
    """A process that may not open another file cannot take a descriptor, and is told so: it does not go on without it."""

    async def scenario(one, other):
        one.send({"kind": "connect"}, fds=[0])
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        free = os.dup(0)
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
        try:
            with pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
                os.dup(0)
            assert await other.receive() is None
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    run(scenario)
    assert caplog.messages == ["a descriptor was lost on its way to this process, which has as many open as it may (ulimit -n)"]
