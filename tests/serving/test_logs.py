"""The log: one JSON object or one line of text per event, and nobody ever waits for it."""

import json
import logging
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from serving.logs import JsonFormatter, LogLines, TextFormatter, accepted_id, request_ids

PROJECT = Path(__file__).parents[2]
EPOCH = "1970-01-01T00:00:00.123Z"


def record(message="it is %s", *args, **more):
    made = logging.makeLogRecord({"name": "stateserve", "levelname": "INFO", "levelno": 20, "msg": message, "args": args, **more})
    made.created = 0.1234
    return made


def failure():
    error = ValueError("first\nsecond\x1b[31m")
    return type(error), error, None


def run(code, *, fds=()):
    """What a process that runs this code, its log configured, writes to stderr."""
    return subprocess.run(
        [sys.executable, "-c", f"import logging, sys\nfrom serving import logs\nlog = logging.getLogger('stateserve')\n{code}"],
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        pass_fds=fds,
    )


def test_json():
    """A line is an object with time, level, logger, message, and what `extra` gave; what takes one of our names gets a `_`."""
    line = JsonFormatter().format(record("it is %s", "há\n", request_id="a-1", duration_ms=1.5, time=3, rows=np.int64(7)))

    assert line == (
        f'{{"time":"{EPOCH}","level":"INFO","logger":"stateserve","message":"it is há\\n",'
        '"request_id":"a-1","duration_ms":1.5,"time_":3,"rows":7}'
    )


def test_json_takes_anything():
    """What JSON has no form for is written as text; text that is no UTF-8 and large integers are no error."""
    line = JsonFormatter().format(record("\ud800", where=Path("/x"), size=1 << 70, of={1: {2}}))

    assert json.loads(line) == {
        "time": EPOCH,
        "level": "INFO",
        "logger": "stateserve",
        "message": "\ud800",
        "where": "/x",
        "size": 1 << 70,
        "of": {"1": "{2}"},
    }


def test_json_traceback():
    """An exception is a `traceback` in the same line."""
    line = JsonFormatter().format(record("failed", exc_info=failure()))

    assert "\n" not in line
    assert json.loads(line)["traceback"] == "ValueError: first\nsecond\x1b[31m"


def test_text():
    """A line of text has time, level, logger, message, and `extra` as key=value; control characters are escaped."""
    line = TextFormatter().format(record("it is %s", "1970 ERROR\nforged\x1b[31m", request_id="a\nb", rows=3))

    assert line == f"{EPOCH} INFO     stateserve: it is 1970 ERROR\\nforged\\x1b[31m request_id=a\\nb rows=3"


def test_text_traceback():
    """The lines of a traceback follow, indented, so that none looks like a line of the log."""
    first, *rest = TextFormatter().format(record("failed", exc_info=failure(), stack_info="Stack:\n  x")).split("\n")

    assert first == f"{EPOCH} INFO     stateserve: failed"
    assert {line[:4] for line in rest} == {"    "}
    assert rest[-4:] == ["    ValueError: first", "    second\\x1b[31m", "    Stack:", "      x"]


@pytest.fixture
def pipe():
    """The two ends of a pipe."""
    reading, writing = os.pipe()
    yield reading, writing
    os.close(writing)
    os.close(reading)


def collect(reading, lines):
    """A thread that reads the pipe until it has seen `end`, and keeps the lines."""

    def read():
        with open(reading, encoding="utf-8", closefd=False) as stream:
            for line in stream:
                if line == "end\n":
                    return
                lines.append(line)

    thread = threading.Thread(target=read)
    thread.start()
    return thread


def test_who_logs_never_waits(pipe):
    """Where nobody reads, lines are dropped and counted, and nobody waits; where there is room again, their number is told."""
    reading, writing = pipe
    handler, lines = LogLines(writing), []
    for number in range(6000):
        handler.handle(record(f"{number:04} {'x' * 1000}"))
    reader = collect(reading, lines)
    handler.flush()
    handler.handle(record("end"))
    reader.join()
    notices = [line for line in lines if line.endswith(" log lines were dropped: stderr was not read fast enough\n")]
    numbers = [int(line[:4]) for line in lines if line not in notices]

    assert lines[-1] in notices
    assert numbers == sorted(set(numbers))
    assert sum(int(line.split()[0]) for line in notices) == handler.dropped_lines == 6000 - len(numbers) > 1500


def test_which_of_several_processes(pipe):
    """Every line says whose it is; what is written at once is whole lines, and no more than a pipe takes from one of several."""
    reading, writing = pipe
    lines = LogLines(writing)
    lines.setFormatter(JsonFormatter())
    lines.process = "front end 2"
    for number in range(100):
        lines.emit(record("line %d of some length, so that many of them are more than a pipe takes at once", number))
    lines.flush()
    written = [json.loads(line) for line in os.read(reading, 1 << 20).splitlines()]

    assert [line["message"].split()[1] for line in written] == [str(number) for number in range(100)]
    assert {line["process"] for line in written} == {"front end 2"}
    assert list(written[0])[:5] == ["time", "level", "logger", "message", "process"]


def test_a_pipe_that_does_not_block(pipe):
    """A descriptor that someone made non-blocking loses nothing."""
    reading, writing = pipe
    os.set_blocking(writing, False)
    handler, lines = LogLines(writing), []
    for number in range(300):
        handler.handle(record(f"{number:04} {'x' * 1000}"))
    reader = collect(reading, lines)
    handler.handle(record("end"))
    reader.join()

    assert [int(line[:4]) for line in lines] == list(range(300))


def test_a_reader_that_has_gone(pipe):
    """Nor is it an error when who read the log has gone: what is logged then is lost."""
    reading, writing = pipe
    other_reading, other_writing = os.pipe()
    os.close(other_reading)
    handler = LogLines(other_writing)
    handler.handle(record("nobody reads this"))
    handler.flush()
    os.dup2(writing, other_writing)
    lines = []
    reader = collect(reading, lines)
    handler.handle(record("someone reads this"))
    handler.handle(record("end"))
    reader.join()
    os.close(other_writing)

    assert lines == ["someone reads this\n"]


def test_a_record_that_cannot_be_formatted(pipe):
    """A mistake in a logging call is told in its place; who made it goes on."""
    reading, writing = pipe
    handler, lines = LogLines(writing), []
    handler.handle(record("%d rows", "many", pathname="somewhere.py", lineno=3))
    handler.handle(record("end"))
    collect(reading, lines).join()

    assert lines == ["a line from somewhere.py:3 cannot be written: TypeError: %d format: a real number is required, not str\n"]


def test_a_closed_handler_still_writes(pipe):
    """logging.config closes handlers that loggers still hold; ours goes on."""
    reading, writing = pipe
    handler, lines = LogLines(writing), []
    handler.close()
    handler.handle(record("after"))
    handler.handle(record("end"))
    collect(reading, lines).join()

    assert lines == ["after\n"]


def test_everything_ends_in_one_format():
    """Our lines, granian's, uvicorn's, warnings, what ends a thread and the process: all are JSON, none is lost at exit."""
    done = run(
        """
import threading, warnings
from granian.server.embed import Server
uvicorn = logging.getLogger("uvicorn.error")
uvicorn.addHandler(logging.StreamHandler(sys.stdout))
uvicorn.propagate = False
logs.configure("json", access_log=True)
Server(None, log_dictconfig=logs.GRANIAN_LOGGING)
log.info("ours", extra={"model": "digits"})
logging.getLogger("_granian").error("granian's")
uvicorn.info("uvicorn's")
warnings.warn("a warning")
def fail(): raise KeyError("in a thread")
thread = threading.Thread(target=fail, name="engine")
thread.start()
thread.join()
logs.access("a-1", "GET", "/v2", 200, 0.0012345, model="digits", version=3)
for number in range(5000):
    log.info("last %d", number)
raise ValueError("the end")
"""
    )
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    told = {line["message"]: line for line in lines}
    warned = [line["message"] for line in lines if line["logger"] == "py.warnings"]

    assert (done.returncode, done.stdout) == (1, "")
    assert told["ours"]["model"] == "digits"
    assert told["granian's"]["logger"] == "_granian"
    assert told["uvicorn's"]["level"] == "INFO"
    assert len(warned) == 1
    assert "UserWarning: a warning" in warned[0]
    assert told["thread engine ended with an error"]["traceback"].endswith("KeyError: 'in a thread'")
    assert told["GET /v2 200"] | {"time": ""} == {
        "time": "",
        "level": "INFO",
        "logger": "stateserve.access",
        "message": "GET /v2 200",
        "request_id": "a-1",
        "method": "GET",
        "path": "/v2",
        "status": 200,
        "duration_ms": 1.234,
        "model": "digits",
        "version": 3,
    }
    assert [line["message"] for line in lines[-5001:-1]] == [f"last {number}" for number in range(5000)]
    assert (lines[-1]["message"], lines[-1]["level"]) == ("the process ended with an error", "CRITICAL")
    assert lines[-1]["traceback"].endswith("ValueError: the end")


def test_text_without_the_access_log():
    """Without the access log, a request writes nothing; granian's own set-up closes all handlers, and loses no line of ours."""
    done = run(
        """
from granian.server.embed import Server
logs.configure("text", access_log=False)
Server(None, log_enabled=False)
logs.access("a-1", "GET", "/v2", 200, 0.001)
log.info("ours", extra={"model": "digits"})
"""
    )

    assert done.stderr.partition(" ")[2] == "INFO     stateserve: ours model=digits\n"


def test_a_process_without_stderr(tmp_path):
    """A process that was started without stderr logs nowhere, not into the file that was opened in its place."""
    code = "os.close(2); os.execv(sys.executable, [sys.executable, '-c', sys.argv[1]])"
    inner = (
        f"import logging; file = open({str(tmp_path / 'opened')!r}, 'w'); from serving import logs\n"
        "logs.configure('json', access_log=False); logging.getLogger('x').error('lost')"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"import os, sys; {code}", inner],
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        timeout=60,
        check=False,
    )

    assert (done.returncode, (tmp_path / "opened").read_text()) == (0, "")


def test_request_ids():
    """Ids are short, differ within a process, and between any two makers; each is one that a client could have sent."""
    make, other = request_ids(), request_ids()
    ids = {make() for _ in range(1000)} | {other() for _ in range(1000)}

    assert len(ids) == 2000
    assert all(accepted_id(made) == made and len(made) < 20 for made in ids)


@pytest.mark.parametrize("value", ["a", "f" * 128, "trace-1/2 {3}~"])
def test_ids_of_clients(value):
    """A client's own id is kept: up to 128 printable ASCII characters."""
    assert accepted_id(value) == value


@pytest.mark.parametrize("value", [None, "", "f" * 129, "a\n", "a\tb", "\x00", "\x7f", "é", "\u2028"])
def test_ids_that_are_not_kept(value):
    """Anything else is not, since it goes into the answer's header and the log."""
    assert accepted_id(value) is None
