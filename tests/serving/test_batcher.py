"""The batcher's rules, with an engine that a test holds back and a clock that jumps to the next timer."""

import asyncio
import gc
import random
import selectors
import weakref
from typing import Any

import numpy as np
import pytest

from artifact.signature import Dim, Signature, TensorSpec
from serving.batcher import LONG_CALL_S, Batcher, BatchLimits, Job, OnLoop
from serving.errors import ClientLeft, DeadlinePassed, QueueFull
from serving.joined import JoinedEngine


class JumpingLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock stands still while there is work, and jumps to the next timer when there is none."""

    def __init__(self):
        self.now = 0.0
        super().__init__(self._JumpingSelector(self))

    def time(self):
        return self.now

    class _JumpingSelector(selectors.DefaultSelector):
        def __init__(self, loop):
            super().__init__()
            self._loop = loop

        def select(self, timeout=None):
            if timeout is None:
                raise RuntimeError("nothing is left to do, and somebody waits")
            self._loop.now += timeout
            return super().select(0)


class Held:
    """An instance whose calls end when the test says so. Its answer to a row is the row's value, doubled."""

    def __init__(self):
        self.calls: list[Any] = []

    def start(self, requests, rows, done):
        self.calls.append((requests, rows, done))

    def finish(self, seconds=0.01, error=None):
        requests, _, done = self.calls.pop(0)
        done([error or {"y": request["x"] * 2} for request in requests], seconds)

    @property
    def running(self):
        return [rows for _, rows, _ in self.calls]

    def close(self):
        self.calls.clear()


class Doubling:
    """An engine that answers at once."""

    name = "onnx"

    def run(self, inputs):
        return {"y": inputs["x"] * 2}


def on_the_loop() -> Any:
    specs = (TensorSpec("x", "float32", ("batch",)),), (TensorSpec("y", "float32", ("batch",)),)
    return JoinedEngine(Doubling(), Signature(*specs, {"batch": Dim(1, 8)}), lambda rows: rows)


class Counted:
    def __init__(self):
        self.calls = []

    def executed(self, rows, infer_s):
        self.calls.append((rows, infer_s))


def make_batcher(*instances, max_rows=8, max_queue_rows=100, arriving=lambda: 0, **limits) -> Any:
    limits.setdefault("full_rows", max_rows)
    runs = instances or OnLoop(on_the_loop(), arriving)
    return Batcher(runs, BatchLimits(max_rows, max_queue_rows, **limits), Counted(), asyncio.get_running_loop().time)


def job(rows=1, first=0, group=(), level=0):
    x = np.arange(first, first + rows, dtype=np.float32)
    return Job({"x": x}, rows, group, asyncio.get_running_loop().create_future(), level)


def answer(done):
    return done.future.result()["y"].tolist()


async def turns(count=5):
    """Lets the loop go through what is ready."""
    for _ in range(count):
        await asyncio.sleep(0)


def run(coroutine):
    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        return runner.run(coroutine)


def test_requests_of_one_turn_are_one_call():
    """On the event loop, all that arrived in a turn is joined, without any timer."""

    async def scenario():
        batcher = make_batcher()
        jobs = [job(first=i) for i in range(5)]
        for one in jobs:
            batcher.put(one)
        await turns()
        assert [answer(one) for one in jobs] == [[0], [2], [4], [6], [8]]
        assert [rows for rows, _ in batcher._metrics.calls] == [5]

    run(scenario())


def test_an_idle_engine_is_given_at_once_what_is_there():
    """The first request does not wait for others; those that come while it runs are the next call."""

    async def scenario():
        held = Held()
        batcher = make_batcher(held)
        first, *others = [job(first=i) for i in range(4)]
        batcher.put(first)
        await turns()
        for one in others:
            batcher.put(one)
        await turns()
        assert held.running == [[1]]
        assert batcher.queued_rows == 3
        held.finish()
        assert held.running == [[1, 1, 1]], "the next call begins before the answers are given out"
        held.finish()
        assert [answer(one) for one in (first, *others)] == [[0], [2], [4], [6]]
        assert batcher.queued_rows == 0

    run(scenario())


def test_rows_count_and_not_requests():
    """A call takes requests while their rows fit, in the order of their arrival."""

    async def scenario():
        held = Held()
        batcher = make_batcher(held, max_rows=8)
        for rows in (8, 3, 4, 2, 1):
            batcher.put(job(rows))
        await turns()
        seen = [held.running[0]]
        while batcher.queued_rows:
            held.finish()
            seen.append(held.running[0])
        assert seen == [[8], [3, 4], [2, 1]]

    run(scenario())


def test_a_large_request_is_split_and_joined_again():
    """A request of more rows than a call may have is several calls, and one answer in its own order."""

    async def scenario():
        held = Held()
        batcher = make_batcher(held, max_rows=8)
        large, small = job(20), job(1, first=100)
        batcher.put(large)
        batcher.put(small)
        await turns()
        seen = []
        while held.calls:
            seen.append(held.running[0])
            held.finish()
        await turns()
        assert seen == [[8], [8], [4, 1]]
        assert answer(large) == [2 * i for i in range(20)]
        assert answer(small) == [200]
        assert large.started_at <= large.ended_at

    run(scenario())


def test_a_part_that_fails_fails_its_request_and_drops_the_rest():
    """Where one part of a split request fails, the request fails with that error, and its other parts do not run."""

    async def scenario():
        held = Held()
        batcher = make_batcher(held, max_rows=2)
        large = job(6)
        batcher.put(large)
        await turns()
        held.finish(error=ValueError("this part"))
        await turns()
        with pytest.raises(ValueError, match="this part"):
            large.future.result()
        assert batcher.queued_rows == 0
        held.finish()
        await turns()
        assert held.calls == []

    run(scenario())


def test_shapes_that_differ_are_not_joined():
    """Requests of another group wait for a call of their own, and keep their order."""

    async def scenario():
        held = Held()
        batcher = make_batcher(held)
        for group in ("a", "b", "a", "b"):
            batcher.put(job(group=group))
        await turns()
        assert held.running == [[1, 1]]
        held.finish()
        assert held.running == [[1, 1]]

    run(scenario())


def test_a_higher_level_goes_first():
    """Priority 1 (level 0) runs before what came earlier at a lower level; a call is filled up from below."""

    async def scenario():
        held = Held()
        batcher = make_batcher(held, max_rows=2, priority_levels=2)
        batcher.put(job())
        await turns()
        low, high, low2 = job(first=1, level=1), job(first=2, level=0), job(first=3, level=1)
        for one in (low, high, low2):
            batcher.put(one)
        held.finish()
        assert [requests[0]["x"][0] for requests, _, _ in held.calls] == [2]
        held.finish()
        assert answer(high) == [4]
        assert answer(low) == [2]
        assert not low2.future.done()

    run(scenario())


def test_a_deadline_passes_while_waiting():
    """A request that still waits at its deadline fails at that moment, not when the engine is free; its rows are gone."""

    async def scenario():
        held, loop = Held(), asyncio.get_running_loop()
        batcher = make_batcher(held)
        running, waiting = job(), job(5)
        for one in (running, waiting):
            one.timeout_s = 2.0
            batcher.put(one)
            await turns()
        with pytest.raises(DeadlinePassed, match="the deadline passed while the request waited"):
            await waiting.future
        assert loop.time() == pytest.approx(2.0)
        assert batcher.queued_rows == 0
        held.finish()
        assert answer(running) == [0], "what runs is answered"
        assert held.calls == []

    run(scenario())


def test_a_deadline_keeps_no_job():
    """However far the deadline lies, a job that was refused, was answered in parts, or whose client left, is let go at once."""

    async def scenario():
        held = Held()
        batcher = make_batcher(held, max_rows=4, max_queue_rows=12)
        seen = []

        def late(rows):
            one = job(rows)
            one.timeout_s = 1e9
            seen.append(weakref.ref(one))
            return one

        answered, gone = late(6), late(2)
        batcher.put(answered)
        batcher.put(gone)
        batcher.leave(gone)
        assert gone.future.exception() is not None
        with pytest.raises(QueueFull):
            batcher.put(late(20))
        await turns()
        while held.calls:
            held.finish()
            await turns()
        assert len(answer(answered)) == 6
        del answered, gone
        await turns()
        gc.collect()
        assert [ref() for ref in seen] == [None] * 3

    run(scenario())


def test_jobs_that_were_given_up_do_not_pile_up():
    """Below a level that is always full, expired jobs are swept out of the queue, and keep no arrays meanwhile."""

    async def scenario():
        held = Held()
        batcher = make_batcher(held, max_rows=1, priority_levels=2)
        batcher.put(job())
        await turns()
        batcher.put(job())
        for _ in range(2000):
            low = job(level=1)
            batcher.put(low)
            batcher.leave(low)
            assert low.future.exception() is not None
            assert low.inputs == {}
        assert sum(map(len, batcher._levels)) <= 257
        assert batcher.queued_rows == 1

    run(scenario())


def test_a_call_is_cut_to_a_preferred_size():
    """Where as many rows wait, a call has the largest preferred size among them; where fewer wait, all of them."""

    async def scenario():
        held = Held()
        batcher = make_batcher(held, max_rows=16, preferred=(8, 4))
        for _ in range(15):
            batcher.put(job())
        await turns()
        seen = [sum(held.running[0])]
        while batcher.queued_rows:
            held.finish()
            seen.append(sum(held.running[0]))
        assert seen == [8, 4, 3]

    run(scenario())


def test_the_queue_is_bounded_by_rows():
    """Beyond `max_queue_rows` a request is refused at once, with the seconds after which the queue should be done."""

    async def scenario():
        held = Held()
        batcher = make_batcher(held, max_rows=4, max_queue_rows=10)
        batcher.put(job(4))
        await turns()
        held.finish(seconds=2.0)  # 2 rows a second
        for _ in range(3):
            batcher.put(job(4))
            await turns()
        with pytest.raises(QueueFull) as refused:
            batcher.put(job(3))
        assert str(refused.value) == "8 rows wait and 3 more would be over max_queue_rows (10); ask again later"
        assert refused.value.retry_after_s == 4
        batcher.put(job(2))

    run(scenario())


def test_a_client_that_leaves_frees_its_rows():
    """Rows that wait for a client that left never run, and others may take their place."""

    async def scenario():
        held = Held()
        batcher = make_batcher(held, max_rows=4, max_queue_rows=4)
        batcher.put(job())
        await turns()
        gone = job(4)
        batcher.put(gone)
        batcher.leave(gone)
        assert isinstance(gone.future.exception(), ClientLeft)
        assert batcher.queued_rows == 0
        stays = job(4, first=10)
        batcher.put(stays)
        held.finish()
        assert held.running == [[4]]
        held.finish()
        assert answer(stays) == [20, 22, 24, 26]

    run(scenario())


def test_a_delay_waits_for_a_fuller_call_and_no_longer():
    """With a delay, an idle engine waits for the full rows, at most so long from the first request's arrival."""

    async def scenario():
        held, loop = Held(), asyncio.get_running_loop()
        batcher = make_batcher(held, max_rows=8, full_rows=4, max_delay_s=0.5)
        batcher.put(job())
        await asyncio.sleep(0.2)
        batcher.put(job())
        await turns()
        assert held.calls == []
        await asyncio.sleep(0.3 + 1e-6)
        await turns()
        assert held.running == [[1, 1]]
        held.finish()
        began = loop.time()
        for _ in range(4):
            batcher.put(job())
        await turns()
        assert held.running == [[1, 1, 1, 1]]
        assert loop.time() == began, "full rows do not wait"

    run(scenario())


def test_instances_run_side_by_side():
    """Two instances have a call each; the first to end takes the next."""

    async def scenario():
        one, two = Held(), Held()
        batcher = make_batcher(one, two, max_rows=1)
        jobs = [job(first=i) for i in range(3)]
        for each in jobs:
            batcher.put(each)
        await turns()
        assert (one.running, two.running) == ([[1]], [[1]])
        one.finish()
        assert one.running == [[1]]
        two.finish()
        one.finish()
        assert sorted(answer(each)[0] for each in jobs) == [0, 2, 4]

    run(scenario())


def test_the_only_request_runs_at_once():
    """A request that is alone is answered at once, but not after a joined call, for then others are about to come."""

    async def scenario():
        batcher = make_batcher()
        outputs, began, ended = batcher.run_alone(job(3).inputs, 3)
        assert outputs["y"].tolist() == [0, 2, 4]
        assert began <= ended
        assert batcher._metrics.calls == [(3, ended - began)]
        assert batcher.run_alone(job(20).inputs, 20) is None
        for one in (job(), job()):
            batcher.put(one)
        assert batcher.run_alone(job().inputs, 1) is None, "others wait"
        await turns()
        assert batcher.run_alone(job().inputs, 1) is None, "others are about to come"
        batcher.put(job())
        await turns()
        assert batcher.run_alone(job().inputs, 1) is not None
        assert make_batcher(Held()).run_alone(job().inputs, 1) is None

    run(scenario())


def test_a_call_on_the_loop_waits_a_turn_for_bodies_that_arrive():
    """While bodies are being read, a call waits for them, but for one turn of the loop at most."""

    async def scenario():
        arriving = [1]
        batcher = make_batcher(arriving=lambda: arriving[0])
        one, two = job(), job(first=1)
        batcher.put(one)
        await turns(1)
        batcher.put(two)
        arriving[0] = 0
        await turns()
        assert [rows for rows, _ in batcher._metrics.calls] == [2]
        arriving[0] = 1
        three = job()
        batcher.put(three)
        await turns(1)
        assert not three.future.done()
        await turns(1)
        assert three.future.done(), "a body that never comes holds nobody up"

    run(scenario())


def test_a_long_call_is_the_last_on_the_loop():
    """After a call that held the loop for too long, the others run on the instance that takes over."""

    async def scenario():
        loop: Any = asyncio.get_running_loop()
        held = Held()

        class Slow(Doubling):
            def run(self, inputs):
                loop.now += 2 * LONG_CALL_S
                return super().run(inputs)

        engine = on_the_loop()
        engine._engine = Slow()
        batcher: Any = Batcher(OnLoop(engine, lambda: 0, lambda: held), BatchLimits(8, 100, 8), Counted(), loop.time)
        second = job(first=1)
        outputs, _, _ = batcher.run_alone(job().inputs, 1)
        assert outputs["y"].tolist() == [0]
        assert not batcher.on_loop
        assert batcher.run_alone(second.inputs, 1) is None
        batcher.put(second)
        await turns()
        held.finish()
        assert answer(second) == [2]
        batcher.close()

    run(scenario())


@pytest.mark.parametrize("seed", range(5))
def test_every_answer_is_its_own(seed):
    """Of 2,000 random requests, some of which leave or expire, each has its own rows back, or its own error."""
    chance = random.Random(seed)

    async def scenario():
        instances = [Held() for _ in range(chance.randint(1, 3))]
        batcher = make_batcher(*instances, max_rows=8, max_queue_rows=60, priority_levels=3)
        kept, first, refused = [], 0, 0
        for _ in range(2000):
            rows = chance.randint(1, 20)
            one = job(rows, first, chance.choice("ab"), chance.randrange(3))
            first += rows
            one.timeout_s = chance.random() if chance.random() < 0.1 else 0.0
            try:
                batcher.put(one)
            except QueueFull:
                refused += 1
            else:
                kept.append((one, [2 * i for i in range(first - rows, first)]))
                if chance.random() < 0.1:
                    batcher.leave(chance.choice(kept)[0])
            await turns(chance.randrange(3))
            instance = chance.choice(instances)
            if instance.calls and chance.random() < 0.8:
                assert sum(instance.running[0]) <= 8
                instance.finish()
        while any(instance.calls for instance in instances):
            next(instance for instance in instances if instance.calls).finish()
            await turns()
        assert batcher.queued_rows == 0
        answered = 0
        for one, expected in kept:
            error = one.future.exception()
            assert error is None or isinstance(error, (ClientLeft, DeadlinePassed))
            if error is None:
                answered += 1
                assert answer(one) == expected
        assert answered > 500
        assert refused

    run(scenario())
