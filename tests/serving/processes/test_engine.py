"""An engine process: a real one, asked by a front end's side over real sockets."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import artifact
from artifact.errors import EngineUnavailable
from bench.processes import server_environment
from serving import execution, plan
from serving.batcher import Job
from serving.errors import EngineLost
from serving.plan import Plan
from serving.processes.channels import Channels
from serving.processes.facts import calls_of, execution_of
from serving.processes.link import Link
from serving.settings import ModelSettings
from serving.warm_up import WarmUp

DEADLINE_S = 60


class Engine:
    """An engine process, as control sees it."""

    def __init__(self, process, link):
        self.process = process
        self.link = link
        self.unasked = []

    async def prepare(self, directory, number=0, device="cpu", **settings):
        asked = ModelSettings(**settings).model_dump(mode="json")
        where = {"name": "mlp", "version": 1, "directory": str(directory), "device": device, "number": number}
        self.link.send({"kind": "prepare", "settings": asked, **where})
        answer = await self.link.receive()
        assert answer is not None
        return answer.head

    async def ask(self, kind, fds=(), **more):
        """The answer to this, past what the process says by itself."""
        self.link.send({"kind": kind, "ask": 7, **more}, fds=fds)
        while (message := await self.link.receive()) is not None:
            if message.head.get("ask") == 7:
                return message.head
            self.unasked.append(message.head)
        raise EOFError("the engine process has ended")

    async def connect(self, channels, number=0):
        here, there = socket.socketpair()
        with there:
            channels.connect(number, here)
            assert (await self.ask("connect", [there.fileno()], frontend=0))["kind"] == "connected"

    async def ended(self):
        return await asyncio.to_thread(self.process.wait, DEADLINE_S)


def run(scenario):
    """Runs a scenario that starts engine processes by `await start()`; all are ended after it."""

    async def bounded():
        async with contextlib.AsyncExitStack() as stack, asyncio.timeout(DEADLINE_S):

            def start() -> Any:
                here, there = socket.socketpair()
                with there:
                    command = [sys.executable, "-u", "-m", "serving.processes.engine", str(there.fileno())]
                    process = subprocess.Popen(
                        command, env=server_environment(), pass_fds=[there.fileno()], stderr=subprocess.DEVNULL
                    )
                stack.callback(process.wait, DEADLINE_S)
                stack.callback(process.kill)
                link = Link(here)
                stack.callback(link.close)
                return Engine(process, link)

            await scenario(start, stack)

    asyncio.run(bounded())


def make_channels(directory, stack, arena_bytes=1 << 20):
    channels = Channels(artifact.read_manifest(directory).signature, arena_bytes, 1000)
    stack.callback(channels.close)
    return channels


def job(rows, seed: int = 0, **inputs: Any):
    inputs = inputs or {"x": np.random.default_rng(seed).uniform(-1, 1, (rows, 4)).astype(np.float32)}
    return Job(inputs, rows, (), asyncio.get_running_loop().create_future(), 0)


@pytest.mark.parametrize("where", ["process", "thread"])
def test_it_answers_as_the_artifact_alone(mlp_artifact, where):
    """Every answer is what the artifact gives, on its loop and in a thread; control is told what was done."""

    async def scenario(start, stack):
        loaded = artifact.load(mlp_artifact, threads=1)
        (spec,) = loaded.signature.inputs
        inputs = next(case.inputs for case in loaded.cases)[spec.name][:1]
        engine = start()
        ready = await engine.prepare(mlp_artifact, execution=where, threads=1)
        found = execution_of(ready["execution"])
        assert (ready["kind"], ready["engine"], ready["device"]) == ("ready", "onnx", "cpu")
        assert (ready["content_id"], Plan(**ready["planned"])) == (loaded.manifest.content_id, found.plan)
        assert (found.on_loop, found.instances) == (where == "process", 1)
        channels = make_channels(mlp_artifact, stack)
        await engine.connect(channels)
        jobs = [job(rows, 0, **{spec.name: np.repeat(inputs, rows, axis=0)}) for rows in (1, 2, 3, 40)]
        for one in jobs:
            channels.put(one)
        answers = await asyncio.gather(*(one.future for one in jobs))
        expected = loaded.run({spec.name: inputs})
        for one, outputs in zip(jobs, answers, strict=True):
            for name, array in outputs.items():
                np.testing.assert_allclose(array, np.repeat(expected[name], one.rows, axis=0), rtol=1e-5, atol=1e-6)
        totals = await engine.ask("totals")
        assert sum(rows * calls.count for rows, calls in calls_of(totals["calls"]).items()) == 46
        assert totals["queued_rows"] == 0
        engine.link.send({"kind": "stop"})
        assert await engine.ended() == 0

    run(scenario)


def test_only_what_is_short_with_all_its_rows_runs_on_its_loop(mlp_artifact, monkeypatch):
    """Beside HTTP, small calls on the loop are better than large ones in a thread; an engine process takes the large ones."""
    monkeypatch.setattr(execution, "warm_up", lambda *_: WarmUp({1: 1e-4, 16: 1e-2}))
    beside, alone = (execution.prepare(mlp_artifact, ModelSettings(execution=where)).execution for where in ("auto", "process"))
    assert (beside.on_loop, beside.max_rows) == (True, 1)
    assert (alone.on_loop, alone.max_rows) == (False, 16)
    monkeypatch.setattr(execution, "warm_up", lambda *_: WarmUp({1: 1e-4, 16: 2e-4}))
    assert execution.prepare(mlp_artifact, ModelSettings(execution="process")).execution.on_loop


def test_devices_are_those_that_an_engine_can_use_here(mlp_artifact, monkeypatch):
    """`auto` and `cuda` are every GPU that a format's library can run on; one that is named and cannot be used is told."""
    manifest = artifact.read_manifest(mlp_artifact)
    monkeypatch.setattr(plan, "cuda_devices", lambda name: ["cuda:0", "cuda:1"] if name == "torchscript" else [])

    def found(**settings):
        return plan.devices(ModelSettings(**settings), manifest)

    assert found() == found(device="cuda") == ("cuda:0", "cuda:1")
    assert found(device="cuda:1,cuda:0,cuda:1") == ("cuda:1", "cuda:0")
    assert found(device="cpu") == found(engine="onnx") == ("cpu",)
    with pytest.raises(EngineUnavailable) as caught:
        found(device="cuda:0,cuda:7")
    assert str(caught.value).startswith("device=cuda:0,cuda:7, but ")
    assert str(caught.value).endswith("cannot run on cuda:7 here; the GPUs that can be used are: cuda:0, cuda:1")
    with pytest.raises(EngineUnavailable, match=r"device=cuda, but onnx cannot run on cuda here; .* are: none$"):
        found(device="cuda", engine="onnx")


def test_it_ends_with_control_and_with_nothing_else(mlp_artifact):
    """A terminal's and a container's signals leave it alone; when control's link ends, it ends at once."""

    async def scenario(start, _):
        engine = start()
        await engine.prepare(mlp_artifact)
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(engine.process.pid, number)
        assert (await engine.ask("totals"))["calls"] == {}
        engine.link.close()
        await engine.ended()

        preparing = start()
        preparing.link.send({"kind": "nothing it knows"})
        preparing.link.close()
        await preparing.ended()

    run(scenario)


def test_it_says_why_a_version_cannot_run(mlp_artifact, tmp_path):
    """What fails at loading is told with its kind, and the process can be ended."""

    async def scenario(start, _):
        failed = await start().prepare(tmp_path)
        assert (failed["kind"], failed["type"]) == ("failed", "NotAnArtifact")
        assert str(tmp_path) in failed["error"]
        failed = await start().prepare(mlp_artifact, device="cuda:99", engine="onnx")
        assert (failed["kind"], failed["type"]) == ("failed", "EngineUnavailable")
        engine = start()
        engine.link.send({"kind": "prepare", "settings": {"engine": "none"}, "name": "mlp", "version": 1, "number": 0})
        failed = (await engine.link.receive()).head
        assert (failed["kind"], failed["type"]) == ("failed", "ValidationError")

    run(scenario)


def test_a_killed_one_is_replaced_without_a_request_lost_in_silence(mlp_artifact):
    """Under load, every request is answered rightly or told that its process ended; with another one all works again."""

    async def scenario(start, stack):
        loaded = artifact.load(mlp_artifact, threads=1)
        (spec,) = loaded.signature.inputs
        golden = next(case.inputs for case in loaded.cases)[spec.name]
        channels = make_channels(mlp_artifact, stack)
        engines = [start(), start()]
        for number, engine in enumerate(engines):
            await engine.prepare(mlp_artifact, number, execution="process")
            await engine.connect(channels, number)
        answered = lost = 0
        is_over = False

        async def client(number):
            nonlocal answered, lost
            row = golden[number % len(golden)][None]
            expected = loaded.run({spec.name: row})
            while not is_over:
                one = job(1, 0, **{spec.name: row})
                try:
                    channels.put(one)
                    outputs = await one.future
                except EngineLost:
                    lost += 1
                    await asyncio.sleep(0)
                    continue
                for name, array in outputs.items():
                    np.testing.assert_allclose(array, expected[name], rtol=1e-5, atol=1e-6)
                answered += 1

        async def more(count):
            target = answered + count
            while answered < target:  # noqa: ASYNC110 - clients go on meanwhile
                await asyncio.sleep(0.001)

        clients = [asyncio.ensure_future(client(number)) for number in range(16)]
        await more(300)
        engines[0].process.kill()
        await engines[0].ended()
        await more(300)
        assert len(channels._channels) == 1
        engines.append(start())
        await engines[2].prepare(mlp_artifact, 2, execution="process")
        await engines[2].connect(channels, 2)
        engines[1].process.kill()
        await more(300)
        is_over = True
        await asyncio.gather(*clients)
        assert lost < 200
        assert channels.queued_rows == 0

    run(scenario)
