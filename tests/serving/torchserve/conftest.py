"""A registry as the server has it, whose workers are a program that speaks their protocol without torch."""

import asyncio
import json
import sys
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import uvloop

from serving.messages import Request
from serving.repository import Repository
from serving.settings import Settings
from serving.torchserve.registry.management import Management
from serving.torchserve.registry.models import Models
from serving.torchserve.registry.snapshots import Snapshots
from serving.torchserve.workers.host import WorkerHost, socket_folder
from serving.torchserve.workers.workers import Workers

FAKE_WORKER = Path(__file__).parent / "workers" / "fake_worker.py"
DEADLINE_S = 60


class Unheard:
    """Nobody wants to know what workers do."""

    def worker_line(self, line):
        return bool(line)

    def worker_loaded(self, worker, load_s):
        pass

    def worker_thread(self, thread_s):
        pass

    def inferred(self, model, version, queue_s, latency_s):
        pass


@dataclass
class Registry:
    """The models of one store, and the management API over them."""

    store: Path
    settings: Settings
    models: Models
    management: Management

    async def ask(self, method, target, body=b"", **headers):
        """Status and body, as JSON where it is; errors are raised."""
        parts = urlsplit(target)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        answer = await self.management.answer(Request(method, unquote(parts.path), parts.query, named, body))
        is_json = ("content-type", "application/json") in answer.headers and answer.body.strip()
        return answer.status, json.loads(answer.body) if is_json else answer.body


def write_mar(path, name, version="1.0", handler="good", config=None, **model):
    """An archive for the workers that are not real: `handler` says how they load."""
    manifest = {"runtime": "python", "model": {"modelName": name, "modelVersion": version, "handler": handler, **model}}
    if config is not None:
        manifest["model"]["configFile"] = "model-config.yaml"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("MAR-INF/MANIFEST.json", json.dumps(manifest))
        if config is not None:
            archive.writestr("model-config.yaml", config)
    return path


async def no_artifacts(*_):
    raise AssertionError("nothing is there to be loaded")


async def until(condition):
    """Waits until it is so; fails where it does not become so."""
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end
        await asyncio.sleep(0.002)


@pytest.fixture(scope="session", name="until")
def until_fixture():
    return until


@pytest.fixture(scope="session", name="write_mar")
def write_mar_fixture():
    return write_mar


@pytest.fixture
def store(tmp_path):
    folder = tmp_path / "store"
    folder.mkdir()
    return folder


@pytest.fixture
def with_registry(store, tmp_path, monkeypatch):
    """A function that runs `test(registry)` in a loop of its own, with settings; all is ended after it.

    `start=False` leaves `models.start` to the test; `artifacts` makes the model repository; `snapshots` is where those are
    written.
    """
    unpacked = tmp_path / "unpacked"
    unpacked.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(unpacked))

    def run(test, *, start=True, artifacts=None, snapshots=None, tokens=None, gpus=0, **settings):
        async def whole():
            held = Settings(**{"model_store": store, "repository": tmp_path / "repository", "enable_model_api": True, **settings})
            host = WorkerHost(
                socket_folder(), Unheard(), Path("metrics.yaml"), command=(sys.executable, "-S", str(FAKE_WORKER)), gpus=gpus
            )
            written = None if snapshots is None else Snapshots(held, snapshots)
            models = Models(held, lambda mar, name, how: Workers(mar, name, how, host), gpus=gpus, snapshots=written)
            management = Management(models, held, artifacts(held) if artifacts else Repository(held, no_artifacts), tokens)
            try:
                if start:
                    await models.start()
                await test(Registry(store, held, models, management))
            finally:
                await models.close()
                host.close()
            assert host.workers == 0
            assert list(unpacked.iterdir()) == []

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(whole())

    return run
