"""One served version: how long it lives, and where its calls run."""

import asyncio
import weakref
from typing import Any, cast

import pytest

from serving.batcher import Batcher  # noqa: TC001 - as every import: at the top
from serving.model import ServedModel, load_model
from serving.protocols.asked import Limits
from serving.settings import ModelSettings


async def load(artifact, **settings) -> ServedModel:
    return await load_model(("mlp", 1), artifact, ModelSettings(**settings), Limits(), lambda: 0)


@pytest.mark.parametrize("execution", ["auto", "loop", "thread"])
def test_a_version_that_left_leaves_its_memory(mlp_artifact, execution):
    """When a version is retired, its engine goes at once, not with some later garbage collection."""

    async def scenario():
        served = await load(mlp_artifact, execution=execution)
        loaded: Any = served.artifact.engine
        engine = weakref.ref(loaded._session)
        del loaded
        await served.retire()
        await asyncio.sleep(0)
        del served
        for _ in range(200):  # an instance's thread ends by itself
            if engine() is None:
                return
            await asyncio.sleep(0.01)
        pytest.fail("something still holds the engine")

    asyncio.run(scenario())


def test_small_calls_run_on_the_loop(mlp_artifact):
    """The warm-up of a small network says: on the event loop, with one thread, up to the largest batch; it can be overruled."""

    async def scenario():
        measured = (await load(mlp_artifact)).execution
        assert (measured.on_loop, measured.threads, measured.instances, measured.max_rows) == (True, 1, 1, 16)
        assert list(measured.warm_up.seconds) == [1, 2, 4, 8, 16]
        assert str(measured).startswith(
            "calls run on the event loop, 1 engine thread(s) each, at most 16 rows joined; measured: "
        )
        forced = (await load(mlp_artifact, execution="thread", instances=2, threads=3)).execution
        assert (forced.on_loop, forced.threads, forced.instances) == (False, 3, 2)

    asyncio.run(scenario())


def test_rows_are_limited_and_padded_as_set(mlp_artifact):
    """`max_batch_rows` limits a call, and preferred sizes pad what is below them."""

    async def scenario():
        served = await load(mlp_artifact, max_batch_rows=8, preferred_batch_sizes=(4, 8), execution="thread")
        limits = cast("Batcher", served.batcher)._limits
        assert (served.most_rows, limits.max_rows, limits.preferred) == (8, 8, (8, 4))
        padded = served._calls.joined()._padded
        assert [padded(rows) for rows in range(1, 9)] == [4, 4, 4, 4, 8, 8, 8, 8]
        await served.retire()

    asyncio.run(scenario())
