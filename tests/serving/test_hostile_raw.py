"""Hostile pictures, texts and forms to a real server: an answer that is due, in bounded memory, and the server is as it was."""

import contextlib
import http.client
import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from artifact.operations import RawLimits
from bench.processes import process_status
from tests.fuzz import mutate_raw, raw_models, raw_seeds
from tests.fuzz.raw_targets import Raw
from tests.hostile.raw import json_bodies, multipart, pictures, png, texts

ANSWER_S = 30
"""By then every answer is there, however slow the machine is; most take milliseconds."""
MIB = 1 << 20
LIMITS = RawLimits()
SMALL = 48 * MIB
"""What a server may need beside the body itself where nothing is decoded: threads begin, buffers are kept."""
BYTES_PER_PIXEL = 16
"""As docs/operations.md has it: the most that decoding takes."""
BYTES_PER_LETTER = 512
"""The most that tokenising takes for a byte of text: a token has its text, its places and three numbers."""
DECODE_THREADS = 2
COPIES = 8
"""Of a body: the bytes that arrived, the request, JSON's text, base64's bytes, and while each becomes the next one."""
MOST_MESSAGE_BYTES = 2048
JSON = {"pictures": json_bodies.IMAGES, "words": json_bodies.TEXTS, "pairs": json_bodies.PAIRS, "rows": json_bodies.ROWS}


SEEDS = [wire.encode() for make in raw_seeds.KINDS.values() for wire in make(0)]


@pytest.fixture(scope="module")
def handlers():
    made = Raw()
    yield made
    made.close()


@pytest.fixture(scope="module")
def server(start_server, tmp_path_factory):
    root = raw_models.write_repository(tmp_path_factory.mktemp("raw"))
    with start_server(root, "--decode-threads", str(DECODE_THREADS), "--log-format", "json") as running:
        good_picture(running)
        good_text(running)
        yield running


def post(server, path, body, content_type):
    """Status, body and the growth of the server's memory at its highest, in bytes."""
    before = memory_after_reset(server.process.pid)
    status, answer = ask(server, path, body, content_type)
    return status, answer, highest(server.process.pid) - before


def ask(server, path, body, content_type):
    """Status and body."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=ANSWER_S)
    try:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # refused before its end
            connection.request("POST", path, body, {"Content-Type": content_type.encode("latin-1")})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def memory_after_reset(pid):
    """The process's memory now, in bytes; its highest mark is set back to it."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    return highest(pid, "VmRSS")


def highest(pid, name="VmHWM"):
    return process_status(pid, name) << 10


def good_picture(server):
    status, body, _ = post(server, "/predictions/pictures", png.many_colours(), "image/png")
    assert status == 200, body
    return json.loads(body)


def good_text(server):
    for model in ("words", "pieces"):
        status, body, _ = post(server, f"/predictions/{model}", b"a sentence of the model", "text/plain")
        assert status == 200, body


def require(found, hostile, body, model):
    """The status is one that is due, the message is short and says why, and no more memory was needed than is allowed."""
    status, answer, grown = found
    shown = answer[:300]
    assert status in hostile.statuses | ({413} if len(body) > 64 * MIB else set()), (status, shown)
    document = json.loads(answer)
    if status != 200:
        assert len(answer) < MOST_MESSAGE_BYTES
        assert document["code"] == status
        assert re.search(hostile.says, document["message"]) or status not in hostile.statuses, shown
    at_work = {"pictures": LIMITS.image_pixels * BYTES_PER_PIXEL, "rows": 0}.get(model, LIMITS.text_bytes * BYTES_PER_LETTER)
    most = SMALL + COPIES * len(body) + (0 if status == 413 and model == "pictures" else at_work)
    assert grown < most, f"{grown // MIB} MiB more for {len(body)} bytes"


@pytest.mark.parametrize("name", pictures.FILES)
def test_a_hostile_picture(server, name):
    """Each gets the answer that is due."""
    hostile = pictures.FILES[name]
    body = hostile.make()

    require(post(server, "/predictions/pictures", body, pictures.content_type(name)), hostile, body, "pictures")


def test_pictures_that_end_too_early(server):
    """Whatever the byte at which a file ends, it is refused as no whole picture; what is whole is taken."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=ANSWER_S)
    with contextlib.closing(connection):
        for title, data in [*((name, data) for name, data in pictures.GOOD.items()), *pictures.truncated()]:
            connection.request("POST", "/predictions/pictures", data, {"Content-Type": "image/png"})
            answer = connection.getresponse()
            message = answer.read()
            assert answer.status == (400 if "cut off" in title else 200), (title, message)


@pytest.mark.parametrize("model", ["words", "pieces"])
@pytest.mark.parametrize("name", texts.FILES)
def test_a_hostile_text(server, model, name):
    """Each gets the answer that is due, from both kinds of tokenizer."""
    hostile = texts.FILES[name]
    body = hostile.make()

    require(post(server, f"/predictions/{model}", body, "text/plain"), hostile, body, model)


@pytest.mark.parametrize("name", multipart.FILES)
def test_a_hostile_form(server, name):
    """Each gets the answer that is due, and no name of a file is ever used as one."""
    hostile = multipart.FILES[name]
    body = hostile.make()

    require(post(server, "/predictions/pictures", body, multipart.CONTENT_TYPE), hostile, body, "pictures")
    assert not Path("/tmp/hostile").exists()


@pytest.mark.parametrize("name", multipart.CONTENT_TYPES)
def test_a_content_type_that_is_none(server, name):
    """A form whose boundary is missing, or is another, is refused as the client's fault, or read by the one that is meant."""
    status, answer, _ = post(server, "/predictions/pictures", multipart.form(multipart.part()), multipart.CONTENT_TYPES[name])

    assert status in {200, 400, 415}, answer


@pytest.mark.parametrize(("model", "name"), [(model, name) for model, files in JSON.items() for name in files])
def test_hostile_json(server, model, name):
    """Each gets the answer that is due."""
    hostile = JSON[model][name]
    body = hostile.make()

    require(post(server, f"/predictions/{model}", body, "application/json"), hostile, body, model)


def test_few_bytes_that_become_many(server):
    """Three hundred kilobytes of tiny pictures, which would be two gigabytes of tensors, are refused before one is decoded."""
    rows = multipart.Hostile("", lambda: multipart.form(*[multipart.part()] * 4000), frozenset({413}), "max_body_bytes")
    body = rows.make()

    require(post(server, "/predictions/large", body, multipart.CONTENT_TYPE), rows, body, "rows")


def test_many_at_once(server):
    """However many ask at the same time, no more pictures than there are threads for it are decoded at the same time."""
    body = pictures.FILES["webp-animated-large-canvas"].make()
    before = memory_after_reset(server.process.pid)
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(ask, server, "/predictions/pictures", body, "image/webp") for _ in range(4)]
        statuses = {future.result()[0] for future in asked}

    assert statuses == {200}
    assert highest(server.process.pid) - before < SMALL + DECODE_THREADS * LIMITS.image_pixels * BYTES_PER_PIXEL


def test_it_is_as_it_was(server):
    """After all of the above good ones get the answers that they had, no file of the process's is left open, and no line tells
    of an error.
    """
    again = good_picture(server)
    good_text(server)

    assert again["predictions"] == good_picture(server)["predictions"]
    names = [str(path.readlink()) for path in Path(f"/proc/{server.process.pid}/fd").iterdir()]
    assert not [name for name in names if "passwd" in name]
    assert [line for line in server.log_lines() if line["level"] == "ERROR"] == []


@settings(max_examples=1500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.sampled_from(SEEDS), change=st.integers(0, 2**64 - 1))
def test_damaged_requests(handlers, seed, change):
    """A good request with some damage is refused for a reason, or its tensors are just what the signature declares."""
    handlers(mutate_raw.mutated(seed, change))


def test_good_requests_are_taken(handlers):
    """What damage begins with is taken, but for a URL that nothing allows: a handler that refused everything would not pass."""
    taken = handlers.taken
    for seed in SEEDS:
        handlers(seed)

    assert handlers.taken - taken == len(SEEDS) - 1
