"""Rows into shared memory and outputs out of it: a front end's side and an engine process' side, over real sockets."""

import asyncio
import contextlib
import gc
import os
import random
import socket
import tracemalloc
import weakref
from typing import Any

import numpy as np
import pytest

import serving.joined
import serving.processes.channels
import serving.processes.intake
from artifact.errors import DeviceLost, EngineFailed, InvalidInput, OutOfMemory
from artifact.signature import DTYPES, Dim, Signature, TensorSpec
from serving.batcher import Batcher, BatchLimits, Job, OnLoop
from serving.errors import BodyTooLarge, ClientLeft, DeadlinePassed, EngineLost, QueueFull
from serving.joined import JoinedEngine, Padding
from serving.processes.arena import PLACE_BYTES, Arena
from serving.processes.channels import Channels
from serving.processes.intake import Intake
from serving.processes.slots import DONE, Slots

DEADLINE_S = 30
TO_CLOSE: list[Any] = []
ROWS = Signature(
    (TensorSpec("x", "float32", ("batch", 4), (0, 1000)),), (TensorSpec("y", "float32", ("batch", 4)),), {"batch": Dim(1, 8)}
)


class Doubling:
    """An engine that answers at once, each input under the name of the output beside it."""

    name = "onnx"

    def __init__(self, signature=ROWS):
        self._names = [(given.name, spec.name) for given, spec in zip(signature.inputs, signature.outputs, strict=True)]
        self.seen: list[Any] = []

    def run(self, inputs):
        self.seen.append(inputs)
        return {out: np.add(inputs[name], inputs[name], dtype=inputs[name].dtype) for name, out in self._names}


class Held:
    """An instance whose calls end when the test says so."""

    def __init__(self):
        self.calls: list[Any] = []

    def start(self, requests, rows, done):
        self.calls.append((requests, rows, done))

    def finish(self, *errors):
        requests, rows, done = self.calls.pop(0)
        outcomes = [{"y": request["x"] * 2} for request in requests]
        done([*errors, *outcomes[len(errors) :]], 0.01)
        return rows

    def close(self):
        self.calls.clear()


class Ignored:
    def executed(self, rows, infer_s):
        pass


class Far:
    """An engine process' side: a batcher, and the intakes that it has."""

    def __init__(self, signature=ROWS, runs=None, max_rows=8, **limits):
        self.slots = Slots(signature)
        limits.setdefault("max_queue_rows", 1000)
        padding = Padding(signature, (), max_rows)
        runs = runs or OnLoop(JoinedEngine(Doubling(signature), signature, padding), lambda: 0)
        self.batcher: Any = Batcher(runs, BatchLimits(max_rows, full_rows=max_rows, **limits), Ignored())
        self.intakes: list[Any] = []

    def connect(self, channels, engine=0):
        here, there = socket.socketpair()
        intake = Intake(there, self.slots, self.batcher, self.intakes.remove)
        self.intakes.append(intake)
        TO_CLOSE.extend((intake, channels))
        channels.connect(engine, here)
        return intake

    def die(self):
        """As a killed process: its sockets are closed, and nothing else is."""
        for intake in self.intakes:
            intake._stream.close()


def job(rows=1, first=0, *, level=0, timeout_s=0.0, **inputs):
    inputs = inputs or {"x": np.arange(first, first + 4 * rows, dtype=np.float32).reshape(rows, 4)}
    made = Job(inputs, rows, (), asyncio.get_running_loop().create_future(), level)
    made.timeout_s = timeout_s
    return made


def run(scenario):
    async def bounded():
        try:
            async with asyncio.timeout(DEADLINE_S):
                await scenario()
        finally:
            while TO_CLOSE:
                TO_CLOSE.pop().close()

    asyncio.run(bounded())


async def until(condition):
    """Lets the loop run until it is so."""
    while not condition():  # noqa: ASYNC110 - what it waits for is not made for tests
        await asyncio.sleep(0.001)


def is_right(done):
    return np.array_equal(done.future.result()["y"], done.inputs["x"] * 2)


def channels_to(*fars, arena_bytes=1 << 20, max_queue_rows=1000, signature=ROWS) -> Any:
    channels = Channels(signature, arena_bytes, max_queue_rows)
    for number, far in enumerate(fars):
        far.connect(channels, number)
    return channels


def all_free(channels):
    return all(channel._places.is_empty for channel in channels._channels.values())


def test_rows_go_there_and_outputs_come_back():
    """Each request has its own outputs, the engine's times are the job's, and all slots are free again."""

    async def scenario():
        channels = channels_to(Far())
        jobs = [job(1 + i % 8, first=i) for i in range(50)]
        for one in jobs:
            channels.put(one)
        assert channels.queued_rows == sum(one.rows for one in jobs)
        await asyncio.gather(*(one.future for one in jobs))
        assert all(map(is_right, jobs))
        assert all(0 < one.started_at <= one.ended_at for one in jobs)
        assert channels.queued_rows == 0
        assert all_free(channels)
        assert channels.on_loop is False
        assert channels.run_alone(jobs[0].inputs, 1) is None

    run(scenario)


@pytest.mark.parametrize("dtype", sorted(set(DTYPES) - {"bool"}))
def test_every_dtype_arrives_as_it_was(dtype):
    """Elements of every size, from arrays that are not aligned, several inputs and outputs of different shapes."""
    signature = Signature(
        (TensorSpec("a", dtype, ("batch", 3)), TensorSpec("b", "bool", ("batch",)), TensorSpec("c", "uint8", ("batch", "n", 2))),
        (TensorSpec("d", dtype, ("batch", 3)), TensorSpec("e", "bool", ("batch",)), TensorSpec("f", "uint8", ("batch", "n", 2))),
        {"batch": Dim(1, 8), "n": Dim(1, 5)},
    )

    async def scenario():
        channels = channels_to(Far(signature), signature=signature)
        body = bytes([0, *np.arange(6, dtype=dtype).tobytes()])
        unaligned = np.ndarray((2, 3), dtype, body, 1)
        b, c = np.array([True, False]), np.arange(12, dtype=np.uint8).reshape(2, 3, 2)
        one = job(2, c=c, a=unaligned, b=b)
        channels.put(one)
        outputs = await one.future
        assert list(outputs) == ["d", "e", "f"]
        assert outputs["d"].dtype == dtype
        np.testing.assert_array_equal(outputs["d"], unaligned + unaligned)
        np.testing.assert_array_equal(outputs["e"], b)
        np.testing.assert_array_equal(outputs["f"], c * 2)
        assert all_free(channels)

    run(scenario)


def test_a_model_without_rows_has_scalars():
    """Inputs without dimensions, and outputs without them, of a model that joins nothing."""
    signature = Signature(
        (TensorSpec("a", "float64", ()), TensorSpec("b", "int32", (2,))),
        (TensorSpec("c", "float64", ()), TensorSpec("d", "int32", (2,))),
    )

    async def scenario():
        channels = channels_to(Far(signature, max_rows=1), signature=signature)
        one, two = (job(1, a=np.array(i + 0.5), b=np.array([i, 7], np.int32)) for i in range(2))
        channels.put(one)
        channels.put(two)
        outputs = await two.future
        assert (outputs["c"].shape, outputs["c"].item(), outputs["d"].tolist()) == ((), 3.0, [2, 14])
        assert (await one.future)["c"].item() == 1.0
        assert all_free(channels)

    run(scenario)


def test_requests_of_other_shapes_are_not_joined():
    """Only requests that differ in rows alone are one call."""
    signature = Signature(
        (TensorSpec("x", "float32", ("batch", "n")),),
        (TensorSpec("y", "float32", ("batch", "n")),),
        {"batch": Dim(1, 8), "n": Dim(1, 9)},
    )

    async def scenario():
        far = Far(signature)
        channels = channels_to(far, signature=signature)
        jobs = [job(2, x=np.full((2, 1 + i % 3), i, np.float32)) for i in range(9)]
        for one in jobs:
            channels.put(one)
        await asyncio.gather(*(one.future for one in jobs))
        assert all(map(is_right, jobs))
        assert {array["x"].shape for array in far.batcher._here.engine._engine.seen} == {(6, 1), (6, 2), (6, 3)}

    run(scenario)


def test_a_request_larger_than_a_call_is_split():
    """A request of more rows than a call may have has one answer, in its own order."""

    async def scenario():
        channels = channels_to(Far())
        one = job(30)
        channels.put(one)
        await one.future
        assert is_right(one)
        assert all_free(channels)

    run(scenario)


def test_an_error_is_its_own_requests():
    """Errors arrive as what they are, with their text; neighbours are answered; one nobody foresaw is a failed engine."""

    async def scenario():
        held = Held()
        channels = channels_to(Far(runs=[held]), max_queue_rows=100)
        errors = [InvalidInput("ü" * 9000), EngineFailed("no"), OutOfMemory("none left"), ZeroDivisionError("by 0")]
        first, *others = [job() for _ in range(6)]
        channels.put(first)
        await until(lambda: held.calls)
        for one in others:
            channels.put(one)
        held.finish()
        await until(lambda: held.calls)
        held.finish(*errors)
        outcomes = await asyncio.gather(*(one.future for one in (first, *others)), return_exceptions=True)
        assert is_right(first)
        assert is_right(others[-1])
        assert [(type(error), str(error)) for error in outcomes[1:5]] == [
            (InvalidInput, "ü" * 4000),
            (EngineFailed, "no"),
            (OutOfMemory, "none left"),
            (EngineFailed, "ZeroDivisionError: by 0"),
        ]
        assert all_free(channels)

    run(scenario)


def test_a_full_queue_says_when_to_ask_again():
    """The engine process' own limit, and its Retry-After; the front end's, so that what it has sent is bounded."""

    async def scenario():
        held = Held()
        channels = channels_to(Far(runs=[held], max_queue_rows=2))
        jobs = [job() for _ in range(4)]
        for one in jobs:
            channels.put(one)
        with pytest.raises(QueueFull) as caught:
            await jobs[3].future
        assert str(caught.value) == "2 rows wait and 1 more would be over max_queue_rows (2); ask again later"
        assert caught.value.retry_after_s == 1
        channels.close()

        silent = Channels(ROWS, 1 << 20, 20)  # 2 calls of 8 rows may run
        here, there = socket.socketpair()
        silent.connect(0, here)
        TO_CLOSE.extend((silent, there))
        for _ in range(36):
            silent.put(job())
        with pytest.raises(QueueFull, match=r"^36 rows wait and 1 more would be over max_queue_rows \(20\)"):
            silent.put(job())

    run(scenario)


def test_deadlines_and_priorities_hold_there():
    """A request whose deadline passes while it waits fails; of those that wait, the highest level is served first."""

    async def scenario():
        held = Held()
        channels = channels_to(Far(runs=[held], max_rows=1, priority_levels=3))
        first, low, high, late = job(), job(level=2), job(level=1), job(level=2, timeout_s=1e-9)
        for one in (first, low, high, late):
            channels.put(one)
        with pytest.raises(DeadlinePassed, match=r"^the deadline passed while the request waited$"):
            await late.future
        held.finish()
        held.finish()
        await high.future
        assert not low.future.done()
        held.finish()
        await low.future
        assert all_free(channels)

    run(scenario)


def test_a_client_that_leaves_takes_its_rows_along():
    """What waits is dropped, and its slot is free; what runs finishes first, and nobody hears of it."""

    async def scenario():
        held = Held()
        far = Far(runs=[held])
        channels = channels_to(far)
        running, waiting = job(), job()
        channels.put(running)
        await until(lambda: held.calls)
        channels.put(waiting)
        channels.leave(waiting)
        with pytest.raises(ClientLeft):
            await waiting.future
        running.future.cancel()
        channels.leave(running)
        await until(lambda: far.batcher.queued_rows == 0)
        assert not all_free(channels)
        held.finish()
        await until(lambda: all_free(channels))
        channels.leave(running)  # once more is nothing
        assert channels.queued_rows == 0

    run(scenario)


def test_a_slot_is_kept_while_a_part_of_its_request_runs():
    """A divided request that fails at its first part is told of it when its other part has ended, which reads the slot."""

    async def scenario():
        one, other = Held(), Held()
        channels = channels_to(Far(runs=[one, other], max_rows=2))
        large = job(4)
        channels.put(large)
        await until(lambda: one.calls and other.calls)
        one.finish(EngineFailed("no"))
        channels.leave(large)
        for _ in range(20):
            await asyncio.sleep(0)
        assert not large.future.done()
        assert not all_free(channels)
        other.finish()
        with pytest.raises(EngineFailed, match="no"):
            await large.future
        assert all_free(channels)

    run(scenario)


def test_slots_are_the_back_pressure():
    """Where no slot is free a request is refused; one that fits no slot at all is told which setting says so."""

    async def scenario():
        held = Held()
        channels = channels_to(Far(runs=[held], max_rows=1), arena_bytes=1024)
        first, second = job(), job()  # 192 bytes each
        channels.put(first)
        for one in (job(), job(), job(), second):
            channels.put(one)
        with pytest.raises(QueueFull, match=r"^5 rows wait, and no slot of slots_bytes \(1024\) is free; ask again later$"):
            channels.put(job())
        with pytest.raises(BodyTooLarge) as caught:
            channels.put(job(100))
        assert str(caught.value) == (
            "a request of 100 rows needs 3264 bytes of shared memory for its inputs and outputs; slots_bytes is 1024"
        )
        await until(lambda: held.calls)
        held.finish()
        await first.future
        channels.put(job())

    run(scenario)


def test_what_the_system_does_not_take_waits_here():
    """Far more records than a socket holds, while nobody reads there, and answers while nobody reads here: none is lost."""

    async def scenario():
        channels = Channels(ROWS, 16 << 20, 1 << 20)
        here, there = socket.socketpair()
        here.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        there.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        channels.connect(0, here)
        jobs = [job(first=i % 100) for i in range(20_000)]
        for one in jobs:
            channels.put(one)
        await until(lambda: channels._channels[0]._stream._is_blocked)
        far = Far(max_queue_rows=1 << 20)
        far.intakes.append(Intake(there, far.slots, far.batcher, far.intakes.remove))
        TO_CLOSE.extend((far.intakes[0], channels))
        await asyncio.gather(*(one.future for one in jobs))
        assert all(map(is_right, jobs))
        assert all_free(channels)

    run(scenario)


def test_the_least_busy_engine_process_is_asked():
    """Rows count, not requests; where two have as many, it is their turn one after the other."""

    async def scenario():
        helds = [Held(), Held(), Held()]
        channels = channels_to(*(Far(runs=[held]) for held in helds))
        for rows in (5, 3, 1, 1, 1, 2):
            channels.put(job(rows))
        assert sorted(channel.rows for channel in channels._channels.values()) == [3, 5, 5]
        assert [channel.rows for channel in channels._by_rows()] == [3, 5, 5]
        channels.put(job(2))
        first = {id(channels._by_rows()[0]) for _ in range(3)}
        assert len(first) == 3

    run(scenario)


def test_what_was_not_begun_goes_to_another_engine_process():
    """When a process ends, what it had begun with is lost, and what waited is answered by another; a third time none is."""

    async def scenario():
        dying, living = Held(), Held()
        far, other = Far(runs=[dying]), Far(runs=[living])
        channels = channels_to(far)
        begun, waiting, left = job(), job(first=5), job()
        channels.put(begun)
        await until(lambda: dying.calls)
        channels.put(waiting)
        channels.put(left)
        await until(lambda: far.batcher.queued_rows == 2)
        other.connect(channels, 1)
        left.future.cancel()
        far.die()
        with pytest.raises(EngineLost, match=r"^the engine's process ended while it had the request; ask again$"):
            await begun.future
        await until(lambda: living.calls)
        second = job()
        channels.put(second)
        await until(lambda: other.batcher.queued_rows == 1)
        assert living.finish() == [1]
        await waiting.future
        assert is_right(waiting)
        await until(lambda: living.calls)
        living.finish()
        await second.future
        assert all_free(channels)

    run(scenario)


def test_a_client_that_left_is_not_asked_for_again():
    """What waited in a process that ended goes to no other one, where its client has left; nor does what cannot be written."""

    async def scenario():
        dying, living = Held(), Held()
        far, other = Far(runs=[dying]), Far(runs=[living])
        channels = channels_to(far)
        begun, left, broken, waiting = job(), job(), job(), job(first=5)
        channels.put(begun)
        await until(lambda: dying.calls)
        for one in (left, broken, waiting):
            channels.put(one)
        await until(lambda: far.batcher.queued_rows == 3)
        other.connect(channels, 1)
        channels.leave(left)
        broken.inputs = {"x": np.zeros((1, 5), np.float32)}
        far.die()
        with pytest.raises(ClientLeft):
            await left.future
        with pytest.raises(ValueError, match="broadcast"):
            await broken.future
        await until(lambda: living.calls)
        assert living.finish() == [1]
        await waiting.future
        assert is_right(waiting)
        assert all_free(channels)

    run(scenario)


def test_half_an_answer_is_none():
    """An engine process that ends in the middle of an answer has not given it; what it had answered before, it has."""

    async def scenario():
        channels = Channels(ROWS, 1 << 20, 100)
        here, there = socket.socketpair()
        channels.connect(0, here)
        TO_CLOSE.append(channels)
        answered, half = job(), job()
        for one in (answered, half):
            channels.put(one)
        place = half.sent.start // PLACE_BYTES
        with there:
            records = [Slots(ROWS).answered.pack(DONE, 0, at, 0, 1.0, 2.0, 1, 4) for at in (0, place)]
            there.sendall(b"".join(records)[:-1])
        await answered.future
        assert (answered.started_at, answered.ended_at) == (1.0, 2.0)
        with pytest.raises(EngineLost):
            await half.future

    run(scenario)


def test_a_burst_does_not_keep_its_memory(monkeypatch):
    """Shared memory that no slot has needed for a while goes back to the system; what is in use, or lent, is left alone."""
    monkeypatch.setattr(serving.processes.channels, "_TRIM_S", 0.01)
    monkeypatch.setattr(Arena, "close_descriptor", lambda arena: kept.append(arena.descriptor))
    kept: list[int] = []
    signature = Signature(
        (TensorSpec("x", "float32", ("batch", 50_000)),), (TensorSpec("y", "float32", ("batch", 50_000)),), {"batch": Dim(1, 8)}
    )

    async def scenario():
        held = Held()
        far = Far(signature, runs=[held], max_rows=1)
        channels = channels_to(far, arena_bytes=16 << 20, signature=signature)

        def shared_bytes():
            return 512 * os.fstat(kept[0]).st_blocks

        jobs = [job(1, x=np.full((1, 50_000), i, np.float32)) for i in range(20)]
        for index in range(20):
            channels.put(jobs[index])
        for _ in range(20):
            await until(lambda: held.calls)
            held.finish()
        await until(jobs[-1].future.done)
        burst_bytes = shared_bytes()
        assert burst_bytes > 20 * 400_000
        are_right = [bool((one.future.result()["y"] == 2 * i).all()) for i, one in enumerate(jobs)]
        assert are_right == [True] * 20
        second = jobs[1].future.result()["y"]
        jobs.clear()
        await until(lambda: shared_bytes() < burst_bytes / 5)
        assert (second == 2).all()
        assert shared_bytes() > second.nbytes

    try:
        run(scenario)
    finally:
        for descriptor in kept:
            os.close(descriptor)


def test_nobody_is_asked_twice_more():
    """A request that a second process did not begin with either is lost; without any process a request is refused at once."""

    async def scenario():
        fars = [Far(runs=[Held()]) for _ in range(3)]
        channels = channels_to(fars[0])
        first, waiting = job(), job(first=3)
        channels.put(first)
        await until(lambda: not fars[0].batcher._idle)
        channels.put(waiting)
        await until(lambda: fars[0].batcher.queued_rows == 1)
        fars[1].connect(channels, 1)
        blocking = job()
        channels.put(blocking)
        await until(lambda: not fars[1].batcher._idle)
        fars[0].die()
        await until(lambda: fars[1].batcher.queued_rows == 1)
        fars[2].connect(channels, 2)
        fars[1].die()
        for lost in (first, waiting, blocking):
            with pytest.raises(EngineLost):
                await lost.future
        fars[2].die()
        await until(lambda: not channels._channels)
        with pytest.raises(EngineLost, match=r"^no engine process of this version is there; one is being started: ask again$"):
            channels.put(job())
        Far().connect(channels, 3)
        again = job()
        channels.put(again)
        await again.future
        assert is_right(again)

    run(scenario)


def test_an_engine_process_that_has_ended_before_it_is_connected_is_none():
    """A socket whose other end is closed already is an engine process that has ended."""

    async def scenario():
        channels = Channels(ROWS, 1 << 20, 100)
        here, there = socket.socketpair()
        there.close()
        channels.connect(0, here)
        waits = job()
        with contextlib.suppress(EngineLost):
            channels.put(waits)
        with pytest.raises(EngineLost):
            await waits.future

    run(scenario)


def test_a_front_end_that_ends_takes_its_rows_along():
    """The engine process drops what waits, lets what runs finish into nothing, and lets the memory go."""

    async def scenario():
        held, gone = Held(), []
        far = Far(runs=[held])
        staying, leaving = channels_to(far), channels_to(far)
        intake = far.intakes[1]
        intake._ended = gone.append
        running, waiting, kept = job(), job(), job(first=9)
        leaving.put(running)
        await until(lambda: held.calls)
        leaving.put(waiting)
        staying.put(kept)
        await until(lambda: far.batcher.queued_rows == 2)
        leaving.close()
        for one in (running, waiting):
            with pytest.raises(EngineLost):
                await one.future
        await until(lambda: gone)
        assert far.batcher.queued_rows == 1
        assert intake._memory is None
        held.finish()
        held.finish()
        await kept.future
        assert is_right(kept)

    run(scenario)


def test_memory_goes_with_the_process_that_used_it():
    """When either side has ended, the other lets its memory go at once, not with some later garbage collection."""

    async def scenario():
        far = Far()
        channels = channels_to(far)
        one = job()
        channels.put(one)
        await one.future
        channel, intake = weakref.ref(channels._channels[0]), weakref.ref(far.intakes[0])
        TO_CLOSE.clear()
        far.die()
        await until(lambda: not channels._channels)
        assert channel() is None
        far.intakes.clear()
        assert intake() is None

        far.connect(channels)
        TO_CLOSE.clear()
        intake = weakref.ref(far.intakes[0])
        one = job()
        channels.put(one)
        await one.future
        channels.close()
        await until(lambda: not far.intakes)
        assert intake() is None

    gc.collect()
    gc.disable()
    try:
        run(scenario)
    finally:
        gc.enable()


def test_large_outputs_are_lent():
    """An output that is not copied keeps its slot as long as any array shows it, whichever thread lets it go, and no longer."""
    signature = Signature(
        (TensorSpec("x", "float32", ("batch", 50_000)),), (TensorSpec("y", "float32", ("batch", 50_000)),), {"batch": Dim(1, 8)}
    )

    async def scenario():
        far = Far(signature)
        channels = channels_to(far, arena_bytes=500_000, signature=signature)
        one = job(1, x=np.full((1, 50_000), 3, np.float32))
        channels.put(one)
        outputs = await one.future
        assert np.shares_memory(outputs["y"], np.frombuffer(channels._channels[0]._memory, np.uint8))
        part = outputs["y"][0, 10:20]
        del outputs, one
        with pytest.raises(QueueFull, match="no slot of slots_bytes"):
            channels.put(job(1, x=np.zeros((1, 50_000), np.float32)))
        channels.close()
        assert part.tolist() == [6] * 10, "the memory outlives its channel"
        far.connect(channels, 1)
        for _ in range(5):
            again = job(1, x=np.ones((1, 50_000), np.float32))
            channels.put(again)
            outputs = await again.future
            del again
            await asyncio.to_thread(outputs.clear)

    run(scenario)


def test_an_output_that_does_not_fit_fails_its_request():
    """A dimension that only outputs name has room for its largest size; more, or another dtype, is the engine's failure."""
    signature = Signature(
        (TensorSpec("x", "float32", ("batch",)),),
        (TensorSpec("y", "float32", ("batch", "found")),),
        {"batch": Dim(1, 8), "found": Dim(1, 5)},
    )

    class Finding:
        name = "onnx"

        def run(self, inputs):
            wanted = int(inputs["x"][0])
            if wanted < 0:
                return {"z": np.zeros(1)} if wanted == -1 else {"y": np.zeros((1, 2))}
            return {"y": np.full((1, wanted), 7, np.float32)}

    async def scenario():
        far = Far(signature, OnLoop(JoinedEngine(Finding(), signature, lambda rows: rows), lambda: 0))
        channels = channels_to(far, signature=signature)

        async def ask(wanted):
            one = job(1, x=np.array([wanted], np.float32))
            channels.put(one)
            return (await one.future)["y"]

        assert (await ask(3)).tolist() == [[7, 7, 7]]
        assert (await ask(0)).shape == (1, 0)
        for wanted, text in (
            (6, 'output "y" has 24 bytes; by the signature it has 20 at most'),
            (-2, 'output "y" is of float64 and shape [1, 2], which is not what the signature says'),
        ):
            with pytest.raises(EngineFailed) as caught:
                await ask(wanted)
            assert str(caught.value) == text
        assert all_free(channels)

    run(scenario)


class Counted:
    """Stands for NumPy in a module: counts what its copying functions copy."""

    def __init__(self):
        self.copied_bytes = 0

    def __getattr__(self, name):
        return getattr(np, name)

    def copyto(self, to, what):
        self.copied_bytes += to.nbytes
        np.copyto(to, what)

    def concatenate(self, arrays, out):
        self.copied_bytes += out.nbytes
        return np.concatenate(arrays, out=out)


def test_an_image_is_copied_once_on_each_side(monkeypatch):
    """A float32 image of 600 KB is copied once in the front end; in the engine process once where it is joined, else never.

    Nothing else of its size is allocated on the way, as tracemalloc sees, which knows NumPy's memory.
    """
    image = (3, 224, 224)
    image_bytes = 4 * 3 * 224 * 224
    signature = Signature(
        (TensorSpec("image", "float32", ("batch", *image), (0, 1)),),
        (TensorSpec("logits", "float32", ("batch", 10)),),
        {"batch": Dim(1, 8)},
    )
    counted = {module: Counted() for module in (serving.processes.channels, serving.processes.intake, serving.joined)}
    for module, stand_in in counted.items():
        monkeypatch.setattr(module, "np", stand_in)
    channels_np, intake_np, joined_np = counted.values()

    class Seeing:
        name = "onnx"

        def __init__(self):
            self.alone = []

        def run(self, inputs):
            (intake,) = far.intakes
            in_slot = np.shares_memory(inputs["image"], np.frombuffer(intake._memory, np.uint8))
            self.alone.append((len(inputs["image"]), in_slot))
            return {"logits": np.repeat(inputs["image"][:, 0, 0, :1], 10, axis=1)}

    engine = Seeing()

    async def ask(count):
        body = np.random.default_rng(1).random((count, *image), np.float32).tobytes()
        jobs = [job(1, image=np.ndarray((1, *image), np.float32, body, i * image_bytes)) for i in range(count)]
        tracemalloc.start()
        try:
            for one in jobs:
                channels.put(one)
            outputs = await asyncio.gather(*(one.future for one in jobs))
            return outputs, tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    async def scenario():
        nonlocal far, channels
        far = Far(signature, OnLoop(JoinedEngine(engine, signature, lambda rows: rows), lambda: 0))
        channels = channels_to(far, arena_bytes=32 << 20, signature=signature)
        await ask(1)  # what is made once
        engine.alone.clear()
        for stand_in in counted.values():
            stand_in.copied_bytes = 0

        _, peak_bytes = await ask(1)
        assert engine.alone.pop() == (1, True), "alone, the engine runs on the slot itself"
        assert (channels_np.copied_bytes, joined_np.copied_bytes) == (image_bytes, 0)
        assert peak_bytes < image_bytes / 4

        await ask(4)
        assert engine.alone.pop() == (4, False)
        assert (channels_np.copied_bytes, joined_np.copied_bytes) == (5 * image_bytes, 4 * image_bytes)
        _, peak_bytes = await ask(4)
        assert peak_bytes < image_bytes / 4, "joined rows are gathered in memory that is used again"
        assert intake_np.copied_bytes == (1 + 4 + 4) * 40, "outputs alone"

    far: Any = None
    channels: Any = None
    run(scenario)


def test_nothing_is_mixed_up():
    """Requests of all sizes from two front ends to two engine processes, some of which leave, some of which are refused."""

    async def scenario():
        chance = random.Random(7)
        fars = [Far(max_queue_rows=40) for _ in range(2)]
        fronts = [channels_to(*fars, arena_bytes=8 << 10) for _ in range(2)]
        right = refused = left = 0

        async def client(number):
            nonlocal right, refused, left
            for i in range(100):
                one = job(chance.randint(1, 12), first=number * 10 + i % 10)
                channels = fronts[number % 2]
                try:
                    channels.put(one)
                    if chance.random() < 0.1:
                        await asyncio.sleep(0)
                        channels.leave(one)
                    await one.future
                except QueueFull:
                    refused += 1
                except ClientLeft:
                    left += 1
                else:
                    assert is_right(one)
                    right += 1

        await asyncio.gather(*(client(number) for number in range(24)))
        assert right + refused + left == 2400
        assert right > 500
        assert all(map(all_free, fronts))
        assert all(channels.queued_rows == 0 for channels in fronts)

    run(scenario)


def test_a_process_whose_device_is_lost_ends():
    """The request is told that the engine failed, and then the process ends, by the way of every unforeseen error."""

    async def scenario():
        unforeseen = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: unforeseen.append(context))
        held = Held()
        channels = channels_to(Far(runs=[held]))
        asked = job()
        channels.put(asked)
        await until(lambda: held.calls)
        held.finish(DeviceLost("the GPU is gone"))
        with pytest.raises(EngineFailed, match=r"^the GPU is gone$"):
            await asked.future
        await until(lambda: unforeseen)
        assert isinstance(unforeseen[0]["exception"], DeviceLost)
        assert "handle" in unforeseen[0]

    run(scenario)
