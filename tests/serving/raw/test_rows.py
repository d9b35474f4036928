"""The rows of a request at work: in their order, within bounds, and no longer than anybody waits for them."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import PIL.Image
import pytest

from artifact.operations import RawLimits
from artifact.operations.errors import BadImage, TooLarge
from artifact.operations.images.resize import resized
from serving.errors import ClientLeft, DeadlinePassed, QueueFull
from serving.messages import Request
from serving.protocols.asked import Limits
from serving.protocols.predictions import PredictionsCodec
from serving.raw import bounds
from serving.raw.bounds import Bounds
from serving.raw.rows import Rows
from serving.raw.version import Beside, RawVersion
from tests.fuzz.raw_models import MODELS
from tests.hostile.raw import png

DEADLINE_S = 60
LIMITS = Limits(max_rows=4)


@pytest.fixture
def pool():
    with ThreadPoolExecutor(2) as threads:
        yield threads


def made(rows, pool):
    return asyncio.run(asyncio.wait_for(rows.made(pool), DEADLINE_S))


def test_their_order(pool):
    """Whichever thread ends first, the tensors are in the order of the rows."""
    first_waits = threading.Event()

    def prepare(index, row):
        first_waits.wait(DEADLINE_S) if index == 0 else first_waits.set()
        return {"x": row["x"]}

    rows = [{"x": letter} for letter in "abcd"]
    assert made(Rows(rows, prepare, 2), pool) == rows


def test_no_more_threads_than_are_allowed(pool):
    """Of a pool, only so many work on one request."""
    working, most = set(), []

    def prepare(index, _):
        working.add(index)
        most.append(len(working))
        working.discard(index)
        return {}

    made(Rows([{}] * 50, prepare, 1), pool)
    assert max(most) == 1


def test_nothing_begins_after_a_failure(pool):
    """The failed row's error is the request's, and those behind it are left alone."""
    begun = []

    def prepare(index, _):
        begun.append(index)
        if index == 1:
            raise BadImage("row 1")
        return {}

    with pytest.raises(BadImage, match="row 1"):
        made(Rows([{}] * 1000, prepare, 1), pool)
    assert begun == [0, 1]


def request(*texts):
    body = b'{"inputs":{"text":[%s]}}' % b",".join(b'"%s"' % text.encode() for text in texts)
    return Request("POST", "/predictions/words", "", {"content-type": "application/json"}, body)


async def no_urls(_):
    return []


async def staying():
    await asyncio.Event().wait()


class Served:
    """The model of words, whose only thread is busy until `goes_on`."""

    def __init__(self, pool):
        model = MODELS["words"]
        operations, _ = model.made()
        self.raw = RawVersion(("words", 1), operations, model.signature, LIMITS, {})
        self.codec = PredictionsCodec("words", 1, model.signature, LIMITS)
        self.beside = Beside(pool, 1, no_urls)
        self.goes_on = threading.Event()
        self.busy = pool.submit(self.goes_on.wait, DEADLINE_S)

    def ask(self, *texts, leaving=staying):
        return asyncio.ensure_future(self.raw.asked("predictions", self.codec, request(*texts), leaving, self.beside))


@pytest.fixture
def one_thread():
    with ThreadPoolExecutor(1) as threads:
        yield threads


def test_a_full_queue(one_thread):
    """Requests that wait for a thread are refused once they are as many as rows may wait; those that wait are answered."""

    async def ask():
        served = Served(one_thread)
        waiting = [served.ask("a") for _ in range(LIMITS.max_rows)]
        with pytest.raises(QueueFull, match=r"4 rows wait to be made tensors and 1 more would be over max_queue_rows \(4\)"):
            await served.ask("b")
        served.goes_on.set()
        return [asked.rows for asked in await asyncio.wait_for(asyncio.gather(*waiting), DEADLINE_S)]

    assert asyncio.run(ask()) == [1] * LIMITS.max_rows


def test_a_client_that_leaves(one_thread):
    """Its request, which waits behind another, is dropped: it is never read."""

    async def ask():
        served = Served(one_thread)
        gone = asyncio.Event()
        first = served.ask("a")
        left = served.ask("b", leaving=gone.wait)
        await asyncio.sleep(0)
        gone.set()
        with pytest.raises(ClientLeft):
            await asyncio.wait_for(left, DEADLINE_S)
        served.goes_on.set()
        await asyncio.wait_for(first, DEADLINE_S)
        return (await served.ask("c", "d")).rows

    assert asyncio.run(ask()) == 2


def test_a_deadline_passes_in_the_queue(one_thread):
    """A request whose time is over while it waits for a thread is dropped, by its own time or the setting's."""

    async def ask():
        served = Served(one_thread)
        stated = request("a")
        stated.headers = {**dict(stated.headers.items()), "x-timeout-ms": "50"}
        waiting = served.raw.asked("predictions", served.codec, stated, staying, served.beside)
        with pytest.raises(DeadlinePassed, match="time passed before its rows were tensors"):
            await asyncio.wait_for(waiting, DEADLINE_S)
        served.raw.default_timeout_s = 0.05
        with pytest.raises(DeadlinePassed):
            await asyncio.wait_for(served.ask("b"), DEADLINE_S)
        served.raw.default_timeout_s = None
        served.goes_on.set()
        return (await asyncio.wait_for(served.ask("c"), DEADLINE_S)).rows

    assert asyncio.run(ask()) == 1


@pytest.mark.parametrize(
    ("protocol", "body", "headers", "raw"),
    [
        ("predictions", b'{"inputs": {"input_ids": [[1]], "attention_mask": [[1]]}}', {}, False),
        ("predictions", b'{"inputs": {"text": "a"}}', {}, True),
        ("predictions", b"a", {"content-type": "text/plain"}, True),
        ("predictions", b"\0", {"content-type": "application/octet-stream"}, False),
        ("oip", b'{"id": "BYTES", "inputs": [{"datatype": "INT64"}]}', {}, False),
        ("oip", b'{"inputs": [{"datatype" : "BYTES"}]}', {}, True),
        ("oip", b'{"inputs": []}"datatype":"BYTES"', {"inference-header-content-length": "14"}, False),
    ],
)
def test_which_requests_may_be_raw(protocol, body, headers, raw):
    """Others are read as for any model, and wait behind no picture."""
    model = MODELS["words"]
    operations, _ = model.made()
    version = RawVersion(("words", 1), operations, model.signature, LIMITS, {})

    assert version.may_be_raw(protocol, Request("POST", "/", "", headers, body)) is raw


def test_pixels_that_resizing_makes():
    """A picture of one pixel's width becomes a long one: all of a request are bounded together."""
    few = Bounds(replace(LIMITS, raw=RawLimits(image_pixels=125)), (), 0)
    limits = RawLimits(budget=few.pixels)
    long = PIL.Image.new("L", (60, 1))

    assert resized(long, (10, 60), PIL.Image.Resampling.BILINEAR, limits).size == (60, 10)
    with pytest.raises(TooLarge, match="the pictures are resized to more than 1000 pixels together: send fewer rows"):
        resized(long, (20, 60), PIL.Image.Resampling.BILINEAR, limits)


def test_tensors_of_all_rows_together():
    """A small body does not become tensors that are larger than a body may be; one row alone is the model's own affair."""
    model = MODELS["pictures"]
    operations, _ = model.made()
    found = Bounds.of(model.signature, operations.raw_inputs, replace(LIMITS, max_body_bytes=6000))
    row = {"image": png.plain()}

    found.require([row])
    with pytest.raises(TooLarge, match="2 rows make tensors of 6144 bytes; one request may make 6000"):
        found.require([row] * 2)


def test_pixels_of_all_rows_together(monkeypatch):
    """Several pictures, each small enough, are too many where decoding all of them is; a damaged one is told by its place."""
    monkeypatch.setattr(bounds, "PICTURES", 1)
    model = MODELS["pictures"]
    operations, _ = model.made()
    limits = replace(LIMITS, raw=replace(LIMITS.raw, image_pixels=200))
    found = Bounds.of(model.signature, operations.raw_inputs, limits)
    row = {"image": png.plain()}

    with pytest.raises(TooLarge, match="more than 200 pixels together"):
        found.require([row] * 4)
    with pytest.raises(BadImage, match=r"^row 1: the picture is no JPEG"):
        found.require([row, {"image": b"nothing"}])
