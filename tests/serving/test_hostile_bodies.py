"""Whatever is sent: never a 500, a crash, a hang, or a wrong number. `make fuzz` says the same of a million inputs."""

import asyncio
import contextlib
import re
import runpy
import socket
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz import fuzz_http, seeds
from tests.fuzz.models import MODELS, make_repository
from tests.fuzz.mutate import mutated
from tests.fuzz.targets import Application, Decoders
from tests.fuzz.wire import Wire

HOSTILE = Path(__file__).parents[1] / "hostile" / "http"
FILES = runpy.run_path(str(HOSTILE / "make_hostile.py"))["FILES"]
SEEDS = [wire.encode() for make in seeds.KINDS.values() for wire in make(0)]
UNTIL_IT_WAITS_S = 0.3
ANSWER_S = 20

few = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def server(start_server, tmp_path_factory):
    with start_server(make_repository(tmp_path_factory.mktemp("models")), *fuzz_http.FLAGS) as running:
        yield running


@pytest.fixture(scope="module")
def decoders():
    return Decoders()


@pytest.fixture(scope="module")
def application():
    started = Application()
    yield started
    started.close()


def answer_to(port, data):
    """The status of the first answer; None, if the connection ends without one. A request that has no end is ended."""
    with socket.create_connection(("127.0.0.1", port), UNTIL_IT_WAITS_S) as connection:
        connection.sendall(data)
        try:
            answer = connection.recv(1 << 16)
        except TimeoutError:
            connection.shutdown(socket.SHUT_WR)
            connection.settimeout(ANSWER_S)
            answer = connection.recv(1 << 16)
    status = re.match(rb"HTTP/1\.1 (\d{3}) ", answer)
    return None if status is None else int(status[1])


def require_good_answer(server):
    """A good request has its good answer: the server is as it was."""
    asyncio.run(fuzz_http.probe(server, ANSWER_S))


def test_the_files_are_what_their_script_makes():
    """The files on disk are byte for byte those of make_hostile.py, each is told of in the README, and there is no other."""
    on_disk = {path.name for path in HOSTILE.glob("*.http")}
    told = set(re.findall(r"^\| `([^`]+)` \|", (HOSTILE / "README.md").read_text(), re.MULTILINE))

    assert on_disk == FILES.keys() == told
    for name, (data, _) in FILES.items():
        assert (HOSTILE / name).read_bytes() == data, name


@pytest.mark.parametrize("name", FILES)
def test_a_hostile_request(server, name):
    """Each gets the answer that is due, and the server answers afterwards."""
    data, expected = FILES[name]

    assert answer_to(server.port, data) in expected
    require_good_answer(server)


@pytest.mark.parametrize("name", FILES)
def test_a_hostile_request_to_the_handlers(decoders, application, name):
    """The decoders take what they should take and nothing else, and no handler fails, under any ASGI server."""
    data, _ = FILES[name]
    decoders(data)
    application(data)


@few
@given(
    model=st.sampled_from(sorted(MODELS)),
    path=st.sampled_from(["/v2/models/{}/infer", "/predictions/{}"]),
    headers=st.dictionaries(
        st.sampled_from(["content-type", "accept", "content-encoding", "inference-header-content-length", "x-timeout-ms"]),
        st.sampled_from([seeds.JSON, seeds.NPY, seeds.RAW, "0", "9", "gzip"]) | st.text("\x20\x41\x7e\xfc,;=*/", max_size=8),
    ),
    body=st.binary(max_size=300),
)
def test_any_bytes(decoders, model, path, headers, body):
    """Arbitrary bytes under arbitrary headers are refused, or are just what the reference reads in them."""
    decoders(Wire(target=path.format(model), headers=tuple(headers.items()), body=body).encode())


@settings(few, max_examples=1000)
@given(seed=st.sampled_from(SEEDS), change=st.integers(0, 2**64 - 1))
def test_damaged_requests_to_the_decoders(decoders, seed, change):
    """A good request with some damage is refused for a reason, or read as Python's own JSON and NumPy read it, and answered."""
    decoders(mutated(seed, change))


@settings(few, max_examples=300)
@given(seed=st.sampled_from(SEEDS), change=st.integers(0, 2**64 - 1))
def test_damaged_requests_to_the_application(application, seed, change):
    """Any request to any path, management too, has an answer that is not the server's fault."""
    application(mutated(seed, change))


@pytest.mark.parametrize("kind", fuzz_http.KINDS_OF_HOSTILITY)
def test_hostile_bytes_to_a_server(server, tmp_path, kind):
    """Damaged requests, heads that contradict themselves, garbage, and pipelines, sixteen at a time: no 500, and no growth."""
    target = fuzz_http.Server(server.process, server.port, server.log)
    seen = asyncio.run(fuzz_http.fuzz(kind, 600, target, tmp_path, seed=1))

    assert (seen.inputs >= 600, seen.findings) == (True, [])


def test_slow_connections(server, tmp_path):
    """More connections than are let in, none of which sends a whole request, keep nobody out for long."""
    seen = asyncio.run(fuzz_http.hold_slowly(fuzz_http.Server(server.process, server.port, server.log), tmp_path))

    assert seen.findings == []


def test_nothing_failed(server):
    """After all of the above the log has no line of an error."""
    with contextlib.closing(server.log.open()) as lines:
        assert [line for line in lines if '"level":"ERROR"' in line] == []
