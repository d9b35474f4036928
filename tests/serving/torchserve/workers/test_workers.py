"""Queue, batches, timeouts, deaths and scaling, with workers that are a small program without torch."""

import asyncio
import os
import re
import signal
import stat
import sys
import time
from typing import Any

import pytest

from serving.errors import ClientLeft
from serving.torchserve.errors import InternalServerException, ServiceUnavailableException

NO_WORKER = (
    'Model "m" has no worker to serve inference request. Please use scale workers API to add workers. '
    "If this is a sequence inference, please check if it is closed, or expired; or exceeds maxSequenceJobQueueSize"
)


def header(reply, name):
    return dict(reply.headers)[name]


async def refused(workers, asked, kind: Any = InternalServerException, **more):
    with pytest.raises(kind) as error:
        await workers.predict(asked, **more)
    return error.value


async def begun(workers, asked):
    """A prediction that a worker is at work on."""
    task = asyncio.ensure_future(workers.predict(asked))
    while not any(place.worker and place.worker._batch for place in workers._places):  # noqa: ASYNC110 - it tells nobody
        await asyncio.sleep(0)
    return task


def gone(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_job_is_answered(run_fake, job, heard):
    """A worker's reply comes back with its headers, and its times are told."""

    async def test(workers):
        reply = await workers.predict(job("hello"), version="1.0")
        assert (reply.body, reply.status, header(reply, "batch")) == (b"hello", 200, "1")
        ((model, version, queue_s, latency_s),) = heard.requests
        assert (model, version) == ("m", "1.0")
        assert 0 <= queue_s < latency_s

    run_fake(test)
    assert [worker for worker, _ in heard.loaded] == ["W-9000-m_1.0"]


def test_requests_that_wait_share_a_batch(run_fake, job):
    """What gathered while the worker was busy is its next batch, up to batch_size, in order."""

    async def test(workers):
        first = await begun(workers, job("sleep 0.2"))
        others = [workers.predict(job(f"job {number}")) for number in range(10)]
        replies = [await first, *await asyncio.gather(*others)]
        assert [header(reply, "batch") for reply in replies] == ["1"] + ["8"] * 8 + ["2"] * 2
        assert [reply.body for reply in replies[1:]] == [b"job %d" % number for number in range(10)]

    run_fake(test, batch_size=8)


def test_requests_that_arrive_together_share_a_batch(run_fake, job):
    """An idle worker is given what one turn of the loop brought."""

    async def test(workers):
        replies = await asyncio.gather(*(workers.predict(job("x")) for _ in range(5)))
        assert {header(reply, "batch") for reply in replies} == {"5"}

    run_fake(test, batch_size=8)


def test_idle_worker_does_not_wait_for_more(run_fake, job):
    """A lone request is answered at once, whatever maxBatchDelay is."""

    async def test(workers):
        began = time.perf_counter()
        await workers.predict(job("x"))
        assert time.perf_counter() - began < 5

    run_fake(test, batch_size=8, max_batch_delay_ms=60_000)


def test_strict_delay_waits_for_more(run_fake, job):
    """With strict_batch_delay an idle worker waits for maxBatchDelay, unless its batch is full before."""

    async def test(workers):
        began = time.perf_counter()
        first = asyncio.ensure_future(workers.predict(job("x")))
        await asyncio.sleep(0.05)
        replies = await asyncio.gather(first, workers.predict(job("y")))
        assert {header(reply, "batch") for reply in replies} == {"2"}
        assert time.perf_counter() - began >= 0.3
        began = time.perf_counter()
        replies = await asyncio.gather(*(workers.predict(job("x")) for _ in range(4)))
        assert {header(reply, "batch") for reply in replies} == {"4"}
        assert time.perf_counter() - began < 0.3

    run_fake(test, batch_size=4, max_batch_delay_ms=300, strict_batch_delay=True)


def test_workers_take_turns(run_fake, job):
    """Two workers answer side by side."""

    async def test(workers):
        replies = await asyncio.gather(*(workers.predict(job("sleep 0.05")) for _ in range(4)))
        assert len({header(reply, "pid") for reply in replies}) == 2
        assert [info.id for info in workers.infos()] == ["9000", "9001"]

    run_fake(test, workers=2)


def test_queue_is_bounded(run_fake, job):
    """More than job_queue_size requests do not wait: they are refused with TorchServe's words."""

    async def test(workers):
        running = await begun(workers, job("sleep 0.2"))
        waiting = [asyncio.ensure_future(workers.predict(job("x"))) for _ in range(3)]
        await asyncio.sleep(0)
        assert (workers.pending, workers.remaining) == (3, 0)
        error = await refused(workers, job("x"), ServiceUnavailableException)
        assert (str(error), error.status) == (NO_WORKER, 503)
        error = await refused(workers, job("x"), ServiceUnavailableException, version="2.0")
        assert str(error) == NO_WORKER.replace('Model "m" has', 'Model "m" Version 2.0" has')
        await asyncio.gather(running, *waiting)

    run_fake(test, job_queue_size=3)


def test_small_queue_does_not_keep_idle_workers_idle(run_fake, job):
    """As many requests as there are idle workers are taken at once, even where one may wait."""

    async def test(workers):
        await asyncio.gather(*(workers.predict(job("sleep 0.05")) for _ in range(4)))

    run_fake(test, workers=3, job_queue_size=1)


def test_without_workers_requests_are_refused(run_fake, job):
    """With no worker there is nothing to wait for."""

    async def test(workers):
        assert str(await refused(workers, job("x"), ServiceUnavailableException)) == NO_WORKER
        with pytest.raises(ServiceUnavailableException) as error:
            await workers.describe()
        assert str(error.value) == (
            'Model "m" has no worker to serve describe request. Please use scale workers API to add workers.'
        )
        assert workers.is_healthy
        assert workers.is_ready
        assert workers.infos() == []

    run_fake(test, workers=0)


def test_describe_asks_the_handler_alone(run_fake, job):
    """The handler is asked what it is in a batch of one, between others."""

    async def test(workers):
        running = await begun(workers, job("sleep 0.1"))
        before, described, after = await asyncio.gather(workers.predict(job("x")), workers.describe(), workers.predict(job("y")))
        assert described == {"described": "True"}
        assert [header(reply, "batch") for reply in (before, after)] == ["1", "1"]
        await running

    run_fake(test, batch_size=8)


def test_client_that_left_is_dropped_from_the_queue(run_fake, job):
    """A job whose client leaves while it waits is not given to the worker."""

    async def test(workers):
        running = await begun(workers, job("sleep 0.5"))
        left = asyncio.Event()
        waiting = asyncio.ensure_future(workers.predict(job("x"), left.wait))
        stays = asyncio.ensure_future(workers.predict(job("y"), asyncio.Event().wait))
        await asyncio.sleep(0)
        left.set()
        with pytest.raises(ClientLeft):
            await waiting
        assert not running.done()
        assert workers.pending == 1
        cancelled = asyncio.ensure_future(workers.predict(job("z")))
        await asyncio.sleep(0)
        cancelled.cancel()
        await asyncio.wait({cancelled})
        assert workers.pending == 1
        assert header(await stays, "batch") == "1"
        await running

    run_fake(test, batch_size=8)


def test_client_timeout_is_answered(run_fake, job):
    """A job that waits longer than clientTimeoutInMills is answered 503; TorchServe leaves it without an answer."""

    async def test(workers):
        running = await begun(workers, job("sleep 0.3"))
        error = await refused(workers, job("x"), ServiceUnavailableException)
        assert str(error) == 'Model "m" had no idle worker within clientTimeoutInMills, 50 ms. Please ask again later.'
        assert not running.done()
        assert (await running).body == b"sleep 0.3"

    run_fake(test, client_timeout_ms=50)


@pytest.mark.parametrize(("code", "status"), [(503, 503), (507, 507), (413, 507), (599, 599), (42, 500), (1000, 500)])
def test_failed_batch_fails_every_job(run_fake, job, code, status, caplog):
    """Every job of a batch gets the worker's code and message, and the id of the traceback in the log; the worker goes on."""

    async def test(workers):
        printed = "Traceback (most recent call last):|  File|ValueError: x"
        asked = [workers.predict(job(f"fail {code} {printed}")), workers.predict(job("x"))]
        errors: list[Any] = await asyncio.gather(*asked, return_exceptions=True)
        assert [(type(error), str(error), error.status) for error in errors] == [(InternalServerException, "as told", status)] * 2
        (told,) = [record for record in caplog.records if hasattr(record, "traceback_id")]
        assert {error.traceback_id for error in errors} == {told.traceback_id}
        assert told.getMessage() == "ValueError: x"
        error = await refused(workers, job(f"fail {code}"))
        assert error.traceback_id is None

    run_fake(test, batch_size=8)


def test_stream_is_read_part_by_part(run_fake, job):
    """The first part is the reply, the others follow; a batch's streams do not mix."""

    async def test(workers):
        replies = await asyncio.gather(workers.predict(job("stream 3")), workers.predict(job("stream 3")))
        for reply in replies:
            assert (reply.body, header(reply, "ts_stream_next")) == (b"part 0", "true")
        parts = [[part async for part in reply.more] for reply in replies]
        assert parts == [[b"part 1", b"part 2", b"stream 3"]] * 2
        assert (await workers.predict(job("x"))).more is None

    run_fake(test, batch_size=2)


def test_client_that_leaves_a_stream_holds_nobody_up(run_fake, job):
    """The other streams of the batch go on to their ends, and the worker with its next batch."""

    async def test(workers):
        leaves, stays = await asyncio.gather(workers.predict(job("stream 100")), workers.predict(job("stream 100")))
        await leaves.more.aclose()
        assert len([part async for part in stays.more]) == 100
        assert [part async for part in leaves.more] == []
        await workers.predict(job("x"))

    run_fake(test, batch_size=2)


def test_stream_breaks_off_where_its_worker_dies(run_fake, job):
    """The parts that came are given, then the error."""

    async def test(workers):
        asked = job("stream 2")
        both = type(asked)(asked.request_id, (), (*asked.inputs, type(asked.inputs[0])("more", "", b"and die")))
        reply = await workers.predict(both)
        assert (reply.body, await anext(reply.more)) == (b"part 0", b"part 1")
        with pytest.raises(InternalServerException) as error:
            await anext(reply.more)
        assert str(error.value) == "Worker died."

    run_fake(test)


@pytest.mark.parametrize(("number", "status"), [(9, 507), (15, 500), (11, 500)])
def test_worker_that_dies_fails_its_batch_only(run_fake, job, number, status):
    """Jobs in flight get 500 `Worker died.`, 507 where it was killed; those that wait are answered by the next worker."""

    async def test(workers):
        (before,) = workers.infos()
        dies = await begun(workers, job(f"kill {number}"))
        waits = asyncio.ensure_future(workers.predict(job("x")))
        with pytest.raises(InternalServerException) as error:
            await dies
        assert (str(error.value), error.value.status) == ("Worker died.", status)
        assert (await waits).body == b"x"
        (after,) = workers.infos()
        assert (before.id, before.start_time) == (after.id, after.start_time)
        assert before.pid != after.pid
        assert gone(before.pid)

    run_fake(test)


def test_worker_that_does_not_answer_is_killed(run_fake, job):
    """After responseTimeout the job gets 500 `Worker died.`, and another worker takes over."""

    async def test(workers):
        began = time.perf_counter()
        error = await refused(workers, job("hang"))
        assert (str(error), error.status) == ("Worker died.", 500)
        assert 0.3 <= time.perf_counter() - began < 5
        assert (await workers.predict(job("x"))).body == b"x"

    run_fake(test, response_timeout_s=0.3)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("wrong", "the worker's answer is not one to its batch, and is killed"),
        ("large 2000", "the worker's answer has a value of 2000 bytes; max_response_size is 1000, and is killed"),
    ],
)
def test_worker_with_a_broken_answer_is_killed(run_fake, job, body, told, caplog):
    """An answer to another question, or one that is too large, is never handed out."""

    async def test(workers):
        error = await refused(workers, job(body))
        assert (str(error), error.status) == ("Worker died.", 500)
        assert told in [record.getMessage() for record in caplog.records]
        assert (await workers.predict(job("x"))).body == b"x"

    run_fake(test, host={"max_response_bytes": 1000})


def test_worker_that_answers_unasked_is_killed(run_fake, job, until, caplog):
    """An answer that nobody asked for ends its worker; what it had answered stands."""

    async def test(workers):
        (info,) = workers.infos()
        assert (await workers.predict(job("twice"))).body == b"twice"
        await until(lambda: gone(info.pid))
        assert "the worker's answer was not asked for, and is killed" in [record.getMessage() for record in caplog.records]
        assert (await workers.predict(job("x"))).body == b"x"

    run_fake(test)


def test_twenty_kills_under_load(run_fake, job, until, heard):
    """Of requests during twenty kills each is answered or gets `Worker died.`, none hangs, and a worker is back in no time."""

    async def test(workers):
        outcomes, stop = [], False

        async def client():
            while not stop:
                try:
                    reply = await asyncio.wait_for(workers.predict(job("sleep 0.001")), 30)
                    outcomes.append(reply.body)
                except InternalServerException as error:
                    outcomes.append((str(error), error.status))

        clients = [asyncio.ensure_future(client()) for _ in range(32)]
        for _ in range(20):
            await until(lambda: all(info.status == "READY" for info in workers.infos()))
            victim, before, loaded = workers.infos()[0].pid, len(outcomes), len(heard.loaded)
            killed_at = time.perf_counter()
            os.kill(victim, signal.SIGKILL)
            await until(lambda known=loaded: len(heard.loaded) > known)
            assert time.perf_counter() - killed_at < 5
            await until(lambda known=before: len(outcomes) > known + 32)
            assert gone(victim)
        stop = True
        await asyncio.wait_for(asyncio.gather(*clients), 30)
        assert set(outcomes) <= {b"sleep 0.001", ("Worker died.", 507)}
        assert outcomes.count(("Worker died.", 507)) >= 20
        assert workers.is_ready

    run_fake(test, workers=2, batch_size=8)


def test_back_off_goes_on_until_it_has_lasted_too_long(run_fake, job, until, tmp_path, caplog):
    """A worker that does not come up is tried again, ever later, then given up: what waits is refused, the model is unhealthy."""
    caplog.set_level("INFO", "stateserve")
    (broken := tmp_path / "broken").write_text("")

    async def test(workers):
        broken.unlink()
        assert await workers.scale(1, 1)
        broken.write_text("")
        os.kill(workers.infos()[0].pid, signal.SIGKILL)
        await until(lambda: not workers.is_ready)
        assert workers.is_healthy
        waits = asyncio.ensure_future(workers.predict(job("x")))
        await until(lambda: not workers.is_healthy)
        with pytest.raises(ServiceUnavailableException) as error:
            await waits
        assert str(error.value) == NO_WORKER
        waited = [re.findall(r"again in (\d+) s", record.getMessage()) for record in caplog.records]
        assert [int(seconds) for found in waited for seconds in found] == [0, 1, 1]
        assert "no further attempt to start the worker is made" in [record.getMessage() for record in caplog.records]
        broken.unlink()
        assert await workers.scale(1, 1)
        assert workers.is_healthy
        assert (await workers.predict(job("x"))).body == b"x"

    run_fake(test, workers=0, handler=f"unless {broken}", max_retry_timeout_s=1.5)


@pytest.mark.parametrize(("handler", "status"), [("dies", 500), ("fails", 500), ("oom", 507)])
def test_failed_start_is_told(run_fake, handler, status):
    """A worker that does not load its model fails the scaling, with 507 for want of memory."""

    async def test(workers):
        with pytest.raises(InternalServerException) as error:
            await workers.scale(1, 1)
        assert str(error.value) == "Failed to start workers for model m version: 1.0"
        assert error.value.status == status
        assert workers.is_healthy
        assert not workers.is_ready

    run_fake(test, workers=0, handler=handler)


def test_worker_that_ends_before_it_listens(run_fake):
    """It is told how it ended, and no time is blamed."""

    async def test(workers):
        workers._host.command = (sys.executable, "-S", "-c", "raise SystemExit(3)")
        with pytest.raises(InternalServerException) as error:
            await workers.scale(1, 1)
        assert str(error.value.__cause__) == "a worker did not come up: it did not listen; it ended with exit code 3"

    run_fake(test, workers=0)


def test_slow_start_is_ended(run_fake):
    """A worker that does not load within startupTimeout is killed, and its process is gone."""

    async def test(workers):
        with pytest.raises(InternalServerException) as error:
            await workers.scale(1, 1)
        assert "it did not load its model within 0.2 s" in str(error.value.__cause__)

    run_fake(test, workers=0, handler="slow", startup_timeout_s=0.2)


def test_close_ends_a_worker_that_starts(run_fake, until):
    """A worker that still loads is ended, too."""

    async def test(workers):
        scaling = asyncio.ensure_future(workers.scale(1, 1))
        await until(lambda: [info.status for info in workers.infos()] == ["UNLOADING"])
        await asyncio.sleep(0.1)
        await workers.close()
        assert await scaling  # no worker is asked for any more

    run_fake(test, workers=0, handler="slow")


def test_scaling_starts_and_ends_workers(run_fake, job):
    """Missing workers are started, those beyond the maximum are ended, the last ones first."""

    async def test(workers):
        assert await workers.scale(3, 5)
        pids = [info.pid for info in workers.infos()]
        assert len(pids) == 3
        assert await workers.scale(2, 2)
        assert [info.pid for info in workers.infos()] == pids[:2]
        assert gone(pids[2])
        assert await workers.scale(1, 2)
        assert [info.pid for info in workers.infos()] == pids[:2]
        assert await workers.scale(0, 0)
        assert workers.infos() == []
        assert await workers.scale(1, 1)
        assert (await workers.predict(job("x"))).body == b"x"

    run_fake(test)


def test_surplus_worker_answers_its_batch_first(run_fake, job):
    """A worker that is to end answers what it has begun; TorchServe's does it twice."""

    async def test(workers):
        running = await begun(workers, job("sleep 0.3"))
        waits = asyncio.ensure_future(workers.predict(job("x")))
        await asyncio.sleep(0)
        await workers.scale(0, 0)
        assert (await running).body == b"sleep 0.3"
        with pytest.raises(ServiceUnavailableException):
            await waits

    run_fake(test)


def test_close_cuts_off_what_takes_too_long(run_fake, job):
    """After its grace a worker is ended in the midst of a batch, whose jobs get `Worker died.`."""

    async def test(workers):
        (info,) = workers.infos()
        hangs = await begun(workers, job("hang"))
        await workers.close(grace_s=0.1)
        with pytest.raises(InternalServerException) as error:
            await hangs
        assert (str(error.value), error.value.status) == ("Worker died.", 500)
        assert gone(info.pid)

    run_fake(test)


def test_sockets_are_private(run_fake):
    """Workers listen in a folder that nobody else can enter."""

    async def test(workers):
        folder = workers._host.sockets.path
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert [entry.name for entry in folder.iterdir()] == ["w.9000"]

    run_fake(test)


def test_infos_say_what_is_described(run_fake):
    """A worker's record is the one of TorchServe's describe."""

    async def test(workers):
        (info,) = workers.infos()
        assert (info.id, info.status, info.gpu, info.gpu_usage) == ("9500", "READY", False, "N/A")
        assert info.memory > 1_000_000
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", info.start_time)

    run_fake(test, host={"first_id": 9500})


def test_gpus_go_round(run_fake):
    """Workers take the GPUs in turn, or those that the model names; none where it stays on the processor."""

    async def test(workers):
        host, parameters = workers._host, workers._parameters
        assert [host.next_gpu(parameters, turn) for turn in range(3)] == [0, 1, 0]
        named = type(parameters)(device_ids=(1, 5))
        assert [host.next_gpu(named, turn) for turn in range(3)] == [1, 5, 1]
        assert host.next_gpu(type(parameters)(device_type="cpu"), 0) == -1

    run_fake(test, workers=0, host={"gpus": 2})
