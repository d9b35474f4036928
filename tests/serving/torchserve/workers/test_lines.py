"""What a worker prints, and what becomes of it."""

import logging
from typing import Any

import pytest

from serving.torchserve.workers.lines import Lines

TRACEBACK = b"""Invoking custom service failed.
Traceback (most recent call last):
  File "service.py", line 1, in predict
    ret = f()
          ^^^
KeyError: 'a'

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "h.py", line 2, in handle
RuntimeError: Error(s) in loading state_dict for M:
\tMissing key(s) in state_dict: "w".
"""


@pytest.fixture
def lines(caplog):
    caplog.set_level(logging.INFO, "stateserve.model")
    metrics, started = [], []

    def metric(line):
        metrics.append(line)
        return "Failed" not in line

    made: Any = Lines({"model": "m", "worker": "9000"}, metric, lambda: started.append(True))
    made.metrics, made.started = metrics, started
    return made


def test_lines_are_logged_with_their_worker(lines, caplog):
    """Every line is a line of the log, whose fields say which worker printed it."""
    lines.feed(b"Loading\r\nRe")
    lines.feed(b"ady \xff\n\n")
    assert [record.getMessage() for record in caplog.records] == ["Loading", "Ready \ufffd"]
    assert (caplog.records[0].model, caplog.records[0].worker) == ("m", "9000")


def test_metrics_are_not_logged(lines, caplog):
    """Metrics go to who reads them; what that one does not take is a line as others are."""
    lines.feed(b"[METRICS]HandlerTime.ms:1|#Level:Model\n[METRICS]Failed to update metric\nBackend received inference at: 17\n")
    assert lines.metrics == ["[METRICS]HandlerTime.ms:1|#Level:Model", "[METRICS]Failed to update metric"]
    assert [record.getMessage() for record in caplog.records] == ["[METRICS]Failed to update metric"]


def test_start_is_told_once(lines):
    """The worker's own line says that it listens."""
    lines.feed(b"Torch worker started.\nTorch worker started.\n")
    assert lines.started == [True]


@pytest.mark.parametrize("size", [1, 7, 50, 1000])
def test_traceback_is_one_line_with_an_id(lines, caplog, size):
    """A traceback with its causes is one line of the log: its error, and the whole of it beside an id."""
    data = TRACEBACK + b"Next\n"
    if size == 1000:
        for start in range(0, len(data), size):
            lines.feed(data[start : start + size])
        first, traceback, last = caplog.records
        assert first.getMessage() == "Invoking custom service failed."
        assert traceback.getMessage() == "RuntimeError: Error(s) in loading state_dict for M:"
        assert traceback.traceback == TRACEBACK.decode().partition("\n")[2].rstrip()
        assert traceback.traceback_id == lines.traceback_id
        assert len(lines.traceback_id) == 16
        assert last.getMessage() == "Next"
    else:  # cut within: nothing is lost
        for start in range(0, len(data), size):
            lines.feed(data[start : start + size])
        told = "\n".join(getattr(record, "traceback", record.getMessage()) for record in caplog.records)
        assert "KeyError: 'a'" in told
        assert "RuntimeError: Error(s) in loading state_dict for M:" in told
        assert told.endswith("Next")


def test_long_lines_and_many_lines_are_bounded(lines, caplog):
    """A line without end is cut into lines, and of very many lines most are dropped, and counted."""
    lines.feed(b"x" * 100_000)
    assert caplog.records
    caplog.clear()
    lines.feed(b"line\n" * 50_000)
    assert len(caplog.records) <= 2002  # a second may have begun meanwhile


def test_what_has_no_end_is_told_at_the_end(lines, caplog):
    """What a dying worker printed last is not lost."""
    lines.feed(b"Traceback (most recent call last):\n  File")
    lines.flush()
    assert [record.getMessage() for record in caplog.records] == ["a traceback that ends without its error"]
