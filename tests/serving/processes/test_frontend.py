"""A front end is a real process here; control is written in the test, and says what the real one would."""

import asyncio
import contextlib
import itertools
import json
import mmap
import os
import signal
import socket
import subprocess
import sys
import tracemalloc
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
import pytest

import artifact
from artifact import read_manifest
from artifact.signature import Dim, Signature, TensorSpec
from bench.processes import free_port, server_environment
from serving.errors import EngineLost, ModelNotReady
from serving.messages import Request
from serving.processes.attached import Order, attached
from serving.processes.channels import Channels
from serving.processes.handing_on import HandingOn
from serving.processes.link import Link
from serving.protocols.asked import Limits
from serving.settings import ModelSettings, Settings

DEADLINE_S = 60
ROW = {"inputs": {"x": [[1, 2, -3, 4]]}}


@dataclass
class FrontEnd:
    """The other side of a front end: what control sends it, and what it hears."""

    process: subprocess.Popen
    link: Link
    requests: Link
    port: int
    log: Path
    answer: Any = None
    heard: list = field(default_factory=list)
    handed_on: list = field(default_factory=list)
    _asks: Any = field(default_factory=itertools.count)
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    async def read(self):
        while (message := await self.link.receive()) is not None:
            self.heard.append(message.head)
            self._news.set()

    async def serve(self):
        while (message := await self.requests.receive()) is not None:
            self.handed_on.append(message)
            self._news.set()
            if message.head["kind"] == "request" and self.answer is not None:
                head, body = self.answer(message)
                self.requests.send({"kind": "answer", "ask": message.head["ask"], **head}, body)

    async def until(self, condition):
        """Waits until the condition gives something, and gives it."""

        async def found():
            while not (value := condition()):
                self._news.clear()
                await self._news.wait()
            return value

        return await asyncio.wait_for(found(), DEADLINE_S)

    async def until_so(self, condition):
        """Waits for something that happens here, not there."""
        async with asyncio.timeout(DEADLINE_S):
            while not condition():
                await self.ask("barrier")

    async def hear(self, **members):
        """The first message that has these members."""
        return await self.until(lambda: next((head for head in self.heard if members.items() <= head.items()), None))

    async def ask(self, kind, **members):
        """The reply to a message."""
        ask = next(self._asks)
        fds = members.pop("fds", ())
        self.link.send({"kind": kind, "ask": ask, **members}, fds=fds)
        return await self.hear(ask=ask)

    async def ended(self):
        return await asyncio.to_thread(self.process.wait, DEADLINE_S)


@contextlib.asynccontextmanager
async def front_end(folder, *, number=0, port=None, listen=True, **settings):
    """A front end that listens; it is killed at the end, if it has not ended."""
    port = port or free_port()
    settings = Settings.model_validate({"port": port, "frontends": 1, "repository": folder, **settings})
    pairs = [socket.socketpair() for _ in range(2)]
    theirs = [pair[1] for pair in pairs]
    log = folder / f"front-end-{number}.log"
    command = [sys.executable, "-u", "-m", "serving.processes.frontend", *(str(end.fileno()) for end in theirs)]
    with log.open("w") as output:
        process = subprocess.Popen(  # noqa: ASYNC220 - it does not wait for it
            command,
            cwd=folder,
            env=server_environment(),
            pass_fds=[end.fileno() for end in theirs],
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    for end in theirs:
        end.close()
    front = FrontEnd(process, Link(pairs[0][0]), Link(pairs[1][0]), port, log)
    works = [asyncio.create_task(front.read()), asyncio.create_task(front.serve())]
    try:
        cores = sorted(os.sched_getaffinity(0))[:1]
        listener = {"settings": settings.model_dump(mode="json"), "cores": cores, "listener": 0}
        front.link.send({"kind": "start", "number": number, **listener})
        await front.hear(kind="started")
        if listen:
            front.link.send({"kind": "listen"})
            await front.hear(kind="listening")
        yield front
    finally:
        for work in works:
            work.cancel()
        front.link.close()
        front.requests.close()
        if process.poll() is None:
            process.kill()
        process.wait(DEADLINE_S)


async def attach(front, directory, number, version, **more):
    """Attaches an artifact whose engine runs in the front ends; the reply."""
    manifest = read_manifest(directory)
    settings = more.pop("settings", {})
    order = {
        "id": number,
        "name": directory.parent.name,
        "version": version,
        "directory": str(directory),
        "place": "front ends",
        "settings": ModelSettings(**settings).model_dump(mode="json"),
        "content_id": manifest.content_id,
        "signature": manifest.signature.to_json(),
        "labels": {},
        "max_queue_rows": 128,
        "engine": "onnx",
        "threads": 1,
        "arena_bytes": 1 << 24,
        "has_operations": False,
    }
    return await front.ask("attach", **{**order, **more})


def lead(front, model, **routes):
    """Sets a model's routes; `default` is the default version's."""
    names = {"": routes.pop("default")} if "default" in routes else {}
    front.link.send({"kind": "routes", "model": model, "routes": {**names, **{n.lstrip("v"): id_ for n, id_ in routes.items()}}})


def client(front):
    return httpx.AsyncClient(base_url=f"http://127.0.0.1:{front.port}", timeout=DEADLINE_S, trust_env=False)


def not_found(message):
    """What a control that serves nothing answers."""
    return {"status": 404, "headers": [["content-type", "application/json"], ["x-from", "control"]]}, orjson.dumps(
        {"path": message.head["path"]}
    )


def logits(answer):
    return np.array(answer.json()["outputs"]["logits"], np.float32)


def expected(directory, x):
    return artifact.load(directory).run({"x": np.array(x, np.float32)})["logits"]


def test_predictions_and_what_is_handed_on(tmp_path, mlp_artifact):
    """An attached version answers once a route leads to it, bit for bit; what is not here, control answers.

    Limits, and errors of predictions, are the front end's own, and read as those of one process.
    """

    async def run():
        async with front_end(tmp_path, max_body_bytes=10_000, access_log=True) as front, client(front) as http:
            front.answer = not_found
            assert (await attach(front, mlp_artifact, 7, 1))["kind"] == "attached"
            before = await http.post("/predictions/mlp?q=1", json=ROW, headers={"x-many": "a"})
            assert (before.status_code, before.headers["x-from"], before.json()) == (404, "control", {"path": "/predictions/mlp"})
            head, body = front.handed_on[0].head, front.handed_on[0].body
            assert (head["method"], head["path"], head["query"], json.loads(body)) == ("POST", "/predictions/mlp", "q=1", ROW)
            assert (head["scheme"], head["http_version"], dict(head["headers"])["x-many"]) == ("http", "1.1", "a")
            assert {text.rpartition(":")[0] for text in (head["client"], head["server"])} == {"127.0.0.1"}

            lead(front, "mlp", default=7, v1=7)
            assert (await front.ask("barrier"))["kind"] == "barrier"
            for path in ("/predictions/mlp", "/predictions/mlp/1"):
                answer = await http.post(path, json=ROW, headers={"x-request-id": "mine"})
                assert (answer.status_code, answer.headers["x-request-id"]) == (200, "mine")
                assert logits(answer).tobytes() == expected(mlp_artifact, [[1, 2, -3, 4]]).tobytes()
            assert (await http.post("/predictions/mlp/2", json=ROW)).headers["x-from"] == "control"
            assert (await http.get("/v2/health/ready")).headers["x-from"] == "control"

            wrong = await http.post("/v2/models/mlp/infer", json={"inputs": []})
            assert (wrong.status_code, wrong.json()) == (400, {"error": "the model takes x; missing: x"})
            for path, kind in (("/predictions/mlp", "POST"), ("/v2/repository/index", "POST")):
                large = await http.request(kind, path, content=b" " * 10_001)
                told = "the body has more than 10000 bytes (setting max_body_bytes)"
                error = {"error": told} if path.startswith("/v2") else {"code": 413, "type": "BodyTooLarge", "message": told}
                assert (large.status_code, large.json()) == (413, error)
            totals = await front.ask("totals")
            assert totals["versions"]["7"]["answered"] == {"oip": 0, "predictions": 2}
            assert totals["versions"]["7"]["failed"]["bad_request"] == 1
            assert (totals["failed"]["body_too_large"], totals["failed"]["not_found"]) == (1, 0)
            front.link.send({"kind": "stop"})
            await front.hear(kind="stopped")
            assert await front.ended() == 0
            lines = [json.loads(line) for line in front.log.read_text().splitlines()]
            logged = [(line["path"], line["status"]) for line in lines if line["logger"] == "stateserve.access"]
            assert sorted(logged) == [
                ("/predictions/mlp", 200),
                ("/predictions/mlp", 413),
                ("/predictions/mlp/1", 200),
                ("/v2/models/mlp/infer", 400),
                ("/v2/repository/index", 413),
            ]
            assert {line["process"] for line in lines} == {"front end 0"}

    asyncio.run(run())


def test_routes_change_between_two_requests(tmp_path, make_repository, mlp_artifact):
    """From the routes on, every request goes to the other version; none is refused; the one before is retired, and counted."""

    async def run():
        root = make_repository({"mlp/1": mlp_artifact, "mlp/2": mlp_artifact})
        async with front_end(tmp_path) as front, client(front) as http:
            for version in (1, 2):
                await attach(front, root / "mlp" / str(version), version, version)
            lead(front, "mlp", default=1)
            seen = []

            async def ask_on():
                while seen[-20:].count("2") < 20:
                    answer = await http.post("/predictions/mlp", json=ROW)
                    assert answer.status_code == 200
                    seen.append(answer.json()["model_version"])

            asking = asyncio.gather(*(ask_on() for _ in range(4)))
            await front.until_so(lambda: len(seen) > 20)
            lead(front, "mlp", default=2)
            await front.ask("barrier")
            assert (await http.post("/predictions/mlp", json=ROW)).json()["model_version"] == "2"
            retired = await front.ask("retire", id=1)
            await asyncio.wait_for(asking, DEADLINE_S)
            last = [head for head in front.heard if head["kind"] == "totals" and "1" in head["versions"]][-1]
            assert retired["kind"] == "retired"
            assert front.heard.index(last) < front.heard.index(retired)
            assert last["versions"]["1"]["answered"]["predictions"] == seen.count("1")
            left = await front.ask("totals")
            assert (list(left["versions"]), left["versions"]["2"]["answered"]["predictions"]) == (["2"], seen.count("2") + 1)
            lead(front, "mlp")
            front.answer = not_found
            assert (await http.post("/predictions/mlp", json=ROW)).headers["x-from"] == "control"
            assert (await front.ask("retire", id=99))["kind"] == "retired"

    asyncio.run(run())


def test_a_retired_version_answers_what_entered_it(tmp_path, counting_artifact):
    """A version that is retired while requests are in it answers them all, and only then says that it is."""

    async def run():
        async with front_end(tmp_path) as front, client(front) as http:
            await attach(front, counting_artifact, 1, 7)
            lead(front, "counting", default=1)
            # The first long call holds the event loop, and is the last there: as in one process.
            await http.post("/predictions/counting", json={"inputs": {"rounds": [200_000]}})
            asked = [
                asyncio.create_task(http.post("/predictions/counting", json={"inputs": {"rounds": [400_000 + one]}}))
                for one in range(2)
            ]
            while (await front.ask("totals"))["versions"]["1"]["in_flight"] < 2:
                pass
            lead(front, "counting")
            front.link.send({"kind": "retire", "ask": "late", "id": 1})
            await front.ask("barrier")
            assert not any(head["kind"] == "retired" for head in front.heard)
            answers = await asyncio.gather(*asked)
            await front.hear(kind="retired", ask="late")
            assert [answer.status_code for answer in answers] == [200, 200]
            last = [head for head in front.heard if head["kind"] == "totals"][-1]
            assert last["versions"]["1"]["answered"]["predictions"] == 3
            assert last["versions"]["1"]["in_flight"] == 0

    asyncio.run(run())


def test_two_front_ends_share_a_port(tmp_path, mlp_artifact):
    """Connections are spread over both; their ids differ, and their totals add up to what was asked."""

    async def run():
        port = free_port()
        async with (
            front_end(tmp_path, number=0, port=port, frontends=2) as one,
            front_end(tmp_path, number=1, port=port, frontends=2) as other,
        ):
            for front in (one, other):
                await attach(front, mlp_artifact, 1, 1)
                lead(front, "mlp", default=1)
                await front.ask("barrier")

            async def ask():
                async with client(one) as http:
                    return await http.post("/predictions/mlp", json=ROW)

            answers = [await ask() for _ in range(64)]
            assert {answer.status_code for answer in answers} == {200}
            ids = [answer.headers["x-request-id"] for answer in answers]
            assert (len(set(ids)), len({id_.partition("-")[0] for id_ in ids})) == (64, 2)
            await one.until_so(lambda: sum(map(told_by_itself, (one, other))) == 64)
            counts = [(await front.ask("totals"))["versions"]["1"]["answered"]["predictions"] for front in (one, other)]
            assert (sum(counts), min(counts) > 0) == (64, True)

    asyncio.run(run())


def test_it_ends_with_control(tmp_path):
    """SIGTERM and SIGINT are for control; without control it ends at once, whichever link ends."""

    async def run():
        for link in ("link", "requests"):
            async with front_end(tmp_path) as front, client(front) as http:
                front.answer = not_found
                for number in (signal.SIGTERM, signal.SIGINT):
                    front.process.send_signal(number)
                assert (await http.get("/ping")).headers["x-from"] == "control"
                getattr(front, link).close()
                assert await front.ended() == 1

    asyncio.run(run())


def test_it_stops_when_all_is_answered(tmp_path):
    """Told that the server drains, it asks clients to leave; told to stop, it answers what is with control, and then ends."""

    async def run():
        async with front_end(tmp_path) as front, client(front) as http:
            front.answer = not_found
            assert "connection" not in (await http.get("/ping")).headers
            front.link.send({"kind": "draining"})
            await front.ask("barrier")
            assert (await http.get("/ping")).headers["connection"] == "close"
            front.answer = lambda _: ({"status": 200, "headers": [["connection", "close"]]}, b"")
            assert (await http.get("/ping")).headers.get_list("connection") == ["close"]
            front.answer = None
            asked = asyncio.create_task(http.get("/v2"))
            request = (await front.until(lambda: front.handed_on[3:]))[0]
            front.link.send({"kind": "stop"})
            await front.ask("barrier")
            assert not any(head["kind"] == "stopped" for head in front.heard)
            front.requests.send({"kind": "answer", "ask": request.head["ask"], "status": 200, "headers": [["x-from", "late"]]})
            assert (await asked).headers["x-from"] == "late"
            await front.hear(kind="stopped")
            assert await front.ended() == 0

    asyncio.run(run())


def test_a_client_that_leaves(tmp_path):
    """Control is told when the client of a handed-on request has left."""

    async def run():
        async with front_end(tmp_path) as front:
            with socket.create_connection(("127.0.0.1", front.port)) as connection:
                connection.sendall(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n")
                await front.until(lambda: front.handed_on)
            left = await front.until(lambda: front.handed_on[1:])
            assert left[0].head == {"kind": "left", "ask": front.handed_on[0].head["ask"]}

    asyncio.run(run())


def test_a_prediction_that_control_gives_back(tmp_path, mlp_artifact):
    """Where the routes arrive while a prediction is with control, it is asked here again; where none does, it is refused."""

    async def run():
        async with front_end(tmp_path) as front, client(front) as http:
            await attach(front, mlp_artifact, 1, 1)
            asked = asyncio.create_task(http.post("/predictions/mlp", json=ROW))
            request = (await front.until(lambda: front.handed_on))[0]
            lead(front, "mlp", default=1)
            await front.ask("barrier")
            front.requests.send({"kind": "answer", "ask": request.head["ask"], "again": True})
            assert logits(await asked).shape == (1, 3)
            front.answer = lambda _: ({"again": True}, b"")
            refused = await http.post("/predictions/other", json=ROW)
            message = "other is being loaded or unloaded; ask again"
            assert (refused.status_code, refused.json()) == (503, {"code": 503, "type": "ModelNotReady", "message": message})

    asyncio.run(run())


def test_a_version_that_cannot_be_attached(tmp_path, mlp_artifact, make_repository):
    """Its reason is told, and the others are served on."""

    async def run():
        damaged = make_repository({"mlp/2": mlp_artifact}) / "mlp" / "2"
        (damaged / "model.onnx").write_bytes(b"damaged")
        async with front_end(tmp_path) as front, client(front) as http:
            await attach(front, mlp_artifact, 1, 1)
            lead(front, "mlp", default=1)
            failed = await attach(front, damaged, 2, 2)
            assert (failed["kind"], "model.onnx" in failed["error"]) == ("failed", True)
            other = await attach(front, mlp_artifact, 3, 3, content_id="0" * 64)
            assert other["error"] == f"{mlp_artifact} was replaced by another artifact while it was being loaded"
            assert (await http.post("/predictions/mlp", json=ROW)).status_code == 200
            assert list((await front.ask("totals"))["versions"]) == ["1"]

    asyncio.run(run())


def test_what_it_does_not_know(tmp_path):
    """A front end that cannot go on says why, and ends with 1."""

    async def run():
        async with front_end(tmp_path) as front:
            front.link.send({"kind": "dance"})
            trouble = await front.hear(kind="trouble")
            assert trouble["error"] == "ValueError: control says 'dance', which no front end knows"
            assert await front.ended() == 1

    asyncio.run(run())


def test_an_engine_process_answers(tmp_path, mlp_artifact):
    """A version whose engine is a process of its own is answered the same, bit for bit, from tensors that are not aligned too.

    Without an engine process, requests are refused until another one is connected.
    """

    async def run():
        async with front_end(tmp_path) as front, client(front) as http:
            reply = await attach(front, mlp_artifact, 5, 1, place="engine processes")
            assert reply["kind"] == "attached"
            lead(front, "mlp", default=5)
            for number in (1, 2):
                none = await http.post("/predictions/mlp", json=ROW)
                assert (none.status_code, none.json()["type"], none.headers["retry-after"]) == (503, "EngineLost", "1")
                async with engine(front, mlp_artifact, 5, number) as process:
                    for one in range(8):
                        x = np.array([[one / 2, 2, -3, 4]], np.float32)
                        asked = {"name": "x", "datatype": "FP32", "shape": [1, 4], "parameters": {"binary_data_size": 16}}
                        head = json.dumps({"inputs": [asked]}).encode() + b" " * one
                        headers = {"inference-header-content-length": str(len(head))}
                        binary = await http.post("/v2/models/mlp/infer", content=head + x.tobytes(), headers=headers)
                        written = await http.post("/predictions/mlp", json={"inputs": {"x": x.tolist()}})
                        found = binary.json()["outputs"][0]["data"]
                        assert logits(written).tobytes() == expected(mlp_artifact, x).tobytes()
                        assert np.array(found, np.float32).tobytes() == expected(mlp_artifact, x).tobytes()
                    outside = await http.post("/predictions/mlp", json={"inputs": {"x": [[9, 0, 0, 0]]}})
                    assert (outside.status_code, outside.json()["type"]) == (400, "InvalidInput")
                    process.kill()
                    process.wait(DEADLINE_S)
                    while (await http.post("/predictions/mlp", json=ROW)).status_code == 200:
                        pass
            totals = (await front.ask("totals"))["versions"]["5"]
            assert (totals["answered"], totals["failed"]["bad_request"]) == ({"oip": 16, "predictions": 16}, 2)
            assert totals["failed"]["engine_lost"] >= 4
            other = await front.ask("connect", id=99, engine=1, fds=[0])
            assert (other["kind"], other["error"]) == ("failed", "no version of that id is here, or its engine is here too")

    asyncio.run(run())


@contextlib.asynccontextmanager
async def engine(front, directory, number, engine_number):
    """A real engine process for a version that is attached to a front end, connected to it."""
    ours, theirs = socket.socketpair()
    command = [sys.executable, "-u", "-m", "serving.processes.engine", str(theirs.fileno())]
    with (front.log.parent / "engine.log").open("w") as output, theirs:
        process = subprocess.Popen(  # noqa: ASYNC220 - it does not wait for it
            command,
            cwd=front.log.parent,
            env=server_environment(),
            pass_fds=[theirs.fileno()],
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    link = Link(ours)
    try:
        settings = ModelSettings(execution="process").model_dump(mode="json")
        order = {"name": "mlp", "version": 1, "directory": str(directory), "device": "cpu", "number": engine_number}
        link.send({"kind": "prepare", "settings": settings, **order})
        ready = await asyncio.wait_for(link.receive(), DEADLINE_S)
        assert ready is not None
        assert ready.head["kind"] == "ready", ready.head
        one, other = socket.socketpair()
        with one, other:
            link.send({"kind": "connect", "ask": 1, "frontend": 0}, fds=[one.fileno()])
            connected = await front.ask("connect", id=number, engine=engine_number, fds=[other.fileno()])
        assert connected["kind"] == "connected"
        yield process
    finally:
        link.close()
        if process.poll() is None:
            process.kill()
        process.wait(DEADLINE_S)


def test_an_image_is_copied_once():
    """From the body that granian gave to the memory that the engine process reads: one copy, wherever the image begins."""
    image = Signature(
        (TensorSpec("image", "float32", ("batch", 3, 224, 224)),),
        (TensorSpec("y", "float32", ("batch", 8)),),
        {"batch": Dim(1, 8)},
    )
    pixels = np.random.default_rng(0).random((1, 3, 224, 224), np.float32).tobytes()
    asked = {"name": "image", "datatype": "FP32", "shape": [1, 3, 224, 224], "parameters": {"binary_data_size": len(pixels)}}

    async def run():
        order = Order(("m", 1), Path(), "engine processes", ModelSettings(), "", image, {}, 128, "onnx", 1, 1 << 24)
        served = await attached(order, Limits(), lambda: 0)
        assert isinstance(served.batcher, Channels)
        ours, theirs = socket.socketpair()
        served.batcher.connect(1, ours)
        _, (arena,), _, _ = socket.recv_fds(theirs, 64, 1)
        jobs = []
        for padding in range(4):
            head = json.dumps({"inputs": [asked]}).encode() + b" " * padding
            headers = {"inference-header-content-length": str(len(head))}
            request = Request("POST", "/v2/models/m/infer", "", httpx.Headers(headers), head + pixels)
            served.codecs["oip"].decode(request)  # its plan is made once
            tracemalloc.start()
            jobs.append(served.job(served.codecs["oip"].decode(request), 0.0))
            served.batcher.put(jobs[-1])
            _, most_bytes = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            assert most_bytes < len(pixels) / 10
        with mmap.mmap(arena, 0) as memory:
            assert memory[:].count(pixels) == 4
        os.close(arena)
        served.batcher.close()
        outcomes = await asyncio.gather(*(job.future for job in jobs), return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {EngineLost}
        theirs.close()

    asyncio.run(run())


def test_handing_on_without_control():
    """What waits for control when it ends, and what comes after, is answered with 503."""

    async def run():
        ours, theirs = socket.socketpair()
        handing_on, control = HandingOn(Link(ours)), Link(theirs)
        running = asyncio.create_task(handing_on.run())
        scope = Scope()
        waiting = asyncio.create_task(handing_on(scope, b"body", for_ever))
        message = await control.receive()
        assert message is not None
        assert (message.head["path"], message.body) == ("/ping", b"body")
        control.close()
        for asked in (waiting, handing_on(scope, b"", for_ever)):
            with pytest.raises(ModelNotReady, match=r"^the server's control process has ended; ask again$"):
                await asked
        await running

    asyncio.run(run())


def told_by_itself(front):
    """How often version 1 answered, going by the latest totals that nobody asked for."""
    told = [head["versions"] for head in front.heard if head["kind"] == "totals" and head["ask"] is None]
    return next((versions["1"]["answered"]["predictions"] for versions in reversed(told) if "1" in versions), 0)


async def for_ever():
    await asyncio.Event().wait()


class Scope:
    """What granian says of a request."""

    http_version, method, scheme, path, query_string = "1.1", "GET", "http", "/ping", ""
    client, server = "127.0.0.1:5000", "127.0.0.1:8080"

    @property
    def headers(self):
        return {"host": "x"}
