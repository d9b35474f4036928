"""Real servers for the load generator: each does what a test writes for it, on a loop of its own in a thread."""

import asyncio
import contextlib
import re
import threading
import time

import pytest

from bench.client import firing
from bench.client.__main__ import arrivals
from bench.client.firing import Firing
from bench.client.plan import Plan
from bench.client.tally import Tally, Window

DEADLINE_S = 20


class ServerInThread:
    """What is told to the tests: where it listens, how many connections it took, how many requests it read."""

    def __init__(self, handle):
        self._handle, self._open = handle, set()
        self.connections = self.requests = 0
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()
        self._server = self.call(asyncio.start_server(self._connected, "127.0.0.1", 0, backlog=128))
        self.port = self._server.sockets[0].getsockname()[1]

    def call(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(DEADLINE_S)

    def die(self):
        """As a process does: nothing listens any more, all connections are closed. To be called on the loop."""
        self._server.close()
        for task, writer in self._open:
            writer.transport.abort()
            task.cancel()

    async def request(self, reader):
        """Reads one request, and returns its number."""
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(int(re.findall(rb"Content-Length: (\d+)", head)[0]))
        self.requests += 1
        return self.requests

    async def _connected(self, reader, writer):
        self.connections += 1
        self._open.add(here := (asyncio.current_task(), writer))
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await self._handle(self, reader, writer)
        self._open.discard(here)
        writer.close()

    def close(self):
        async def end():
            self.die()
            await asyncio.sleep(0)

        self.call(end())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(DEADLINE_S)
        self.loop.close()


@pytest.fixture
def serving():
    """A function that starts a server by `async handle(server, reader, writer)`, one call per connection."""
    with contextlib.ExitStack() as stack:
        yield lambda handle: stack.enter_context(contextlib.closing(ServerInThread(handle)))


@pytest.fixture
def answering(serving):
    """The same by `async answer(number)`, which gives the bytes of the answer to the request with that number."""

    def start(answer):
        async def handle(server, reader, writer):
            while True:
                writer.write(await answer(await server.request(reader)))

        return serving(handle)

    return start


@pytest.fixture
def fire_here():
    """A function that runs one process's part of a load in this one: the numbers told, and the latencies."""

    def fire(server, request, *, connections=1, duration_s=0.1, rate_per_s=None, timeout_s=5.0):
        plan = Plan((2, "127.0.0.1", server.port), [], 0, connections, duration_s, 0.0, rate_per_s, timeout_s, (0, 0), "")
        tally = Tally()
        opened = firing.opened(plan.address, connections)
        begin_s = time.monotonic()
        Firing(plan, [request], opened, arrivals(plan, begin_s), tally).run(lambda _now_s: None)
        found = tally.measured(Window(begin_s, begin_s + duration_s, by_due=rate_per_s is not None))
        return found.told, found.latencies_s

    return fire
