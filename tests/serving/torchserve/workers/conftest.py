"""Workers as the server has them: real ones, and a program that speaks their protocol without torch, which starts in no time."""

import asyncio
import json
import shutil
import sys
import time
import uuid
from pathlib import Path

import pytest
import uvloop

from serving.torchserve.archives.mar import unpack
from serving.torchserve.jobs import Input, Job
from serving.torchserve.workers.host import WorkerHost, socket_folder, torchserve_folder
from serving.torchserve.workers.workers import Parameters, Workers

HERE = Path(__file__).parent
DEADLINE_S = 60


class Heard:
    """What workers told of themselves."""

    def __init__(self):
        self.lines, self.loaded, self.requests = [], [], []

    def worker_line(self, line):
        self.lines.append(line)
        return True

    def worker_loaded(self, worker, load_s):
        self.loaded.append((worker, load_s))

    def worker_thread(self, thread_s):
        pass

    def inferred(self, model, version, queue_s, latency_s):
        self.requests.append((model, version, queue_s, latency_s))


def job(body=b"{}", content_type="text/plain", headers=(), name="body"):
    if isinstance(body, str):
        body = body.encode()
    return Job(str(uuid.uuid4()), tuple(headers), (Input(name, content_type, body),))


async def until(condition):
    """Waits until it is so; fails where it does not become so."""
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end
        await asyncio.sleep(0.002)


@pytest.fixture(scope="session", name="job")
def job_fixture():
    return job


@pytest.fixture(scope="session", name="until")
def until_fixture():
    return until


@pytest.fixture(scope="session")
def handlers():
    return HERE / "handlers"


@pytest.fixture(scope="session")
def make_mar(tmp_path_factory):
    """A function that unpacks an archive made of a handler and other files: `make_mar("m", "omnibus.py", {"a.txt": b""})`."""

    def make(name, handler, files=None, **model):
        source, into = tmp_path_factory.mktemp("source") / name, tmp_path_factory.mktemp("models")
        (source / "MAR-INF").mkdir(parents=True)
        file = handler.partition(":")[0]
        if (HERE / "handlers" / file).is_file():
            shutil.copy(HERE / "handlers" / file, source)
        for path, data in (files or {}).items():
            (source / path).write_bytes(data)
        manifest = {"runtime": "python", "model": {"modelName": name, "handler": handler, "modelVersion": "1.0", **model}}
        (source / "MAR-INF" / "MANIFEST.json").write_text(json.dumps(manifest))
        return unpack(source, into)

    return make


@pytest.fixture
def heard():
    return Heard()


@pytest.fixture(scope="module")
def new_heard():
    return Heard


@pytest.fixture
def fake_mar(make_mar):
    return make_mar("m", "fake")


@pytest.fixture
def run_fake(fake_mar, heard):
    """A function that runs `test(workers)` with workers that are fake, in a loop of its own, and ends them."""

    def run(test, workers=1, host=None, **parameters):
        async def whole():
            lent = WorkerHost(
                socket_folder(),
                heard,
                Path("metrics.yaml"),
                command=(sys.executable, "-S", str(HERE / "fake_worker.py")),
                **(host or {}),
            )
            own = Workers(fake_mar, "m", Parameters(**{"handler": "good", **parameters}), lent)
            try:
                if workers:
                    assert await own.scale(workers, workers)
                await test(own)
            finally:
                await own.close()
                assert list(lent.sockets.path.iterdir()) == []
                assert lent.workers == 0
                lent.close()

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(whole())

    return run


@pytest.fixture(scope="module")
def loop():
    """A loop that stays for a module's tests; `loop.run(coroutine)`."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        yield runner


@pytest.fixture(scope="module")
def real_host():
    return lambda heard, **more: WorkerHost(socket_folder(), heard, torchserve_folder() / "configs" / "metrics.yaml", **more)
