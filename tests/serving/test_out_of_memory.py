"""A device without memory for a batch: that batch is told so, and the next ones are smaller."""

import asyncio
import logging
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from artifact.errors import OutOfMemory
from artifact.signature import Dim, Signature, TensorSpec
from serving.batcher import Batcher, BatchLimits, Job, OnLoop
from serving.calls import Calls
from serving.execution import prepare
from serving.instance import ThreadInstance
from serving.joined import JoinedEngine, Padding
from serving.settings import ModelSettings

DEADLINE_S = 30
ANY = Dim(1, 16)


def rows_signature(dim):
    return Signature((TensorSpec("x", "float32", ("batch",)),), (TensorSpec("y", "float32", ("batch",)),), {"batch": dim})


class Small:
    """An engine on a device that has memory for a few rows."""

    name = "torchscript"

    def __init__(self, fits):
        self.fits = fits
        self.given = []

    def run(self, inputs):
        self.given.append(len(inputs["x"]))
        if len(inputs["x"]) > self.fits:
            raise OutOfMemory(f"no memory for {len(inputs['x'])} rows")
        return {"y": inputs["x"] * 2}


class Ignored:
    def executed(self, rows, infer_s):
        pass


def made(engine, dim=ANY, preferred=(), threads=0) -> tuple[Any, Any]:
    signature = rows_signature(dim)
    padding = Padding(signature, preferred, 16)
    cuts = []

    def cut(most):
        cuts.append(padding.cut(most))
        return cuts[-1]

    joined = [JoinedEngine(engine, signature, padding) for _ in range(threads or 1)]
    loop = asyncio.get_running_loop()
    runs = [ThreadInstance(one, "small", loop) for one in joined] if threads else OnLoop(joined[0], lambda: 0)
    descending = tuple(reversed(preferred))
    limits = BatchLimits(16, 1000, descending[0] if preferred else 16, preferred=descending)
    return Batcher(runs, limits, Ignored(), cut=cut), cuts


def job(rows, first=0):
    x = np.arange(first, first + rows, dtype=np.float32)
    return Job({"x": x}, rows, (), asyncio.get_running_loop().create_future())


async def outcomes(batcher, *jobs):
    for one in jobs:
        batcher.put(one)
    return await asyncio.gather(*(one.future for one in jobs), return_exceptions=True)


def is_right(one):
    return np.array_equal(one.future.result()["y"], one.inputs["x"] * 2)


def run(scenario):
    asyncio.run(asyncio.wait_for(scenario(), DEADLINE_S))


@pytest.mark.parametrize("threads", [0, 1, 2])
def test_a_batch_without_memory_is_told_whole_and_the_next_are_half(threads):
    """No request of the batch is tried alone; those that waited are answered, divided where they are too large by now."""

    async def scenario():
        engine = Small(5)
        batcher, cuts = made(engine, threads=threads)
        jobs = [job(4, first=i) for i in range(4)] + [job(16), job(7, first=3), job(40)]
        found = await outcomes(batcher, *jobs)
        failed = [one for one, outcome in zip(jobs, found, strict=True) if isinstance(outcome, OutOfMemory)]
        answered = [one for one in jobs if one not in failed]
        assert all(map(is_right, answered))
        assert cuts == [8, 4]
        assert batcher._limits.max_rows == 4
        assert batcher.queued_rows == 0
        again = [job(16, first=9), job(3)]
        await outcomes(batcher, *again)
        assert all(map(is_right, again))
        assert len([rows for rows in engine.given if rows > 8]) <= 1 + threads, "what was asked for was not tried again"
        batcher.close()

    run(scenario)


def test_it_is_never_fewer_than_the_model_takes():
    """Sizes stay those that were proven, padding too; where not even the fewest fit, every batch is told so."""

    async def scenario():
        engine = Small(3)
        batcher, cuts = made(engine, Dim(4, 16, 4), preferred=(8, 16))
        for _ in range(4):
            (outcome,) = await outcomes(batcher, job(2))
            assert isinstance(outcome, OutOfMemory)
        assert engine.given == [8, 8, 4, 4]
        assert cuts == [8, 4, 4, 4]

        engine.fits = 4
        one = job(3)
        await outcomes(batcher, one)
        assert is_right(one)

    run(scenario)


def test_a_request_that_is_alone_halves_too():
    """The way past the queue notices it as well."""

    async def scenario():
        batcher, cuts = made(Small(1))
        with pytest.raises(OutOfMemory):
            batcher.run_alone({"x": np.zeros(2, np.float32)}, 2)
        assert cuts == [8]

    run(scenario)


def test_each_halving_is_told_once(mlp_artifact, caplog):
    """The log says which version, on what, and how many rows a call has from now on."""

    async def scenario():
        prepared = prepare(mlp_artifact, ModelSettings(execution="loop"))
        engine = Small(3)
        loaded = replace(prepared.artifact, engine=engine)
        calls = Calls("mlp", 1, replace(prepared, artifact=loaded), ModelSettings(execution="loop"))
        name = loaded.signature.inputs[0].name

        def run_engine(inputs):
            if len(inputs[name]) > engine.fits:
                raise OutOfMemory("none")
            return prepared.artifact.engine.run(inputs)

        engine.run = run_engine
        batcher = calls.batcher(Ignored(), lambda: 0)
        rows = prepared.artifact.cases[0].inputs[name][:1]
        for count in (16, 16, 8, 8, 4, 2):
            one = Job({name: np.repeat(rows, count, axis=0)}, count, (), asyncio.get_running_loop().create_future())
            await outcomes(batcher, one)
        batcher.close()

    with caplog.at_level(logging.WARNING, "stateserve"):
        run(scenario)
    assert [record.getMessage() for record in caplog.records] == [
        "mlp version 1: cpu has no memory for calls of 16 rows: from now on a call has 8 at most",
        "mlp version 1: cpu has no memory for calls of 8 rows: from now on a call has 4 at most",
        "mlp version 1: cpu has no memory for calls of 4 rows: from now on a call has 2 at most",
    ]
