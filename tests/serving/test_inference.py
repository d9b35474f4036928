"""The prediction handlers: what is large is read and written in one thread, and what is not here is said so."""

import asyncio
import threading

import numpy as np
import pytest

from serving.body import Arrivals
from serving.inference import SMALL_BYTES, Inference, NotHere, Route
from serving.messages import Answer, Request
from serving.metrics import VersionMetrics
from serving.protocols.asked import Asked
from serving.served import ServedVersion
from serving.settings import ModelSettings, Settings

LARGE = b"0" * (SMALL_BYTES + 1)
ROUTE = Route("predictions", "m", None)


class Codec:
    """Remembers which threads read and wrote."""

    def __init__(self):
        self.threads = []

    def decode(self, request):
        self.threads.append(threading.get_ident())
        return Asked({"x": np.zeros(1)}, 1, (), len(request.body))

    def parsed_bytes(self, request):
        return len(request.body)

    def encode(self, asked, outputs):
        self.threads.append(threading.get_ident())
        return Answer(200, b"%d of %d" % (asked.reply, outputs["y"].nbytes))


class Queue:
    """Answers at once, with as many bytes as it is told to."""

    on_loop, queued_rows = False, 0

    def __init__(self, size_bytes):
        self.size_bytes = size_bytes

    def run_alone(self, inputs, rows):  # noqa: ARG002 - a Batcher's
        return None

    def put(self, job):
        job.future.set_result({"y": np.zeros(self.size_bytes, np.uint8)})

    def leave(self, job):
        pass

    def close(self):
        pass


class Versions:
    """One version, or none that is here."""

    def __init__(self, served=None):
        self.served = served
        self.failed = []

    def find(self, name, version=None):
        if self.served is None or (name, version) != ("m", None):
            raise NotHere
        return self.served

    def request_failed(self, reason):
        self.failed.append(reason)


async def never():
    await asyncio.Event().wait()


def asked(inference, body):
    return inference.answer(ROUTE, Request("POST", "/predictions/m", "", {}, body), "id", never)


@pytest.mark.parametrize("body", [b"small", LARGE], ids=["small", "large"])
@pytest.mark.parametrize("size_bytes", [1, SMALL_BYTES + 1])
def test_what_is_large_goes_through_one_thread(body, size_bytes):
    """Small bodies and outputs stay on the event loop; all large ones share one thread, which ends with `close`."""

    async def run():
        codec = Codec()
        served = ServedVersion(("m", 1), {"predictions": codec}, Queue(size_bytes), VersionMetrics("m", 1), ModelSettings())
        inference = Inference(Versions(served), Versions(), Arrivals(60), Settings())
        answers = await asyncio.gather(*(asked(inference, body) for _ in range(8)))
        inference.close()
        assert {answer.body for answer in answers} == {b"%d of %d" % (len(body), size_bytes)}
        assert (served.in_flight, served.metrics.totals().answered["predictions"]) == (0, 8)
        here = threading.get_ident()
        assert (here in codec.threads) == (body != LARGE or size_bytes <= SMALL_BYTES)
        assert len({*codec.threads} - {here}) == (body == LARGE or size_bytes > SMALL_BYTES)

    asyncio.run(run())


def test_after_its_end_it_begins_anew():
    """An application may be started again after its end: what is large has a thread then, too."""

    async def run():
        served = ServedVersion(("m", 1), {"predictions": Codec()}, Queue(1), VersionMetrics("m", 1), ModelSettings())
        inference = Inference(Versions(served), Versions(), Arrivals(60), Settings())
        for _ in range(2):
            assert (await asked(inference, LARGE)).status == 200
            inference.close()

    asyncio.run(run())


def test_a_version_that_is_elsewhere():
    """It is no failure of the request: nothing is counted, and whoever asks is told."""

    async def run():
        versions = Versions()
        inference = Inference(versions, versions, Arrivals(60), Settings())
        with pytest.raises(NotHere):
            await asked(inference, b"{}")
        inference.close()
        assert versions.failed == []

    asyncio.run(run())
