"""The load: `wrk`, one thread or several, a fixed number of connections that each wait for an answer before they ask again."""

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.errors import FailedLoad, LoadToolMissing
from bench.payloads import Body

_ANSWER_TIMEOUT_S = 10
_SPARE_S = 60
_ERRORS = ("connect", "read", "write", "status", "timeout")

_SCRIPT = """\
local ffi = require("ffi")
ffi.cdef[[
typedef struct { long seconds; long nanoseconds; } moment;
int clock_gettime(int clock, moment *now);
]]
local now, workers = ffi.new("moment"), {}
local MONOTONIC = 1
answered_s = {}

function setup(thread) table.insert(workers, thread) end

function init(arguments)
  local file = assert(io.open(arguments[1], "rb"))
  wrk.method, wrk.body = "POST", file:read("*a")
  file:close()
  if arguments[2] == "stamped" then
    response = function()
      ffi.C.clock_gettime(MONOTONIC, now)
      answered_s[#answered_s + 1] = tonumber(now.seconds) + tonumber(now.nanoseconds) * 1e-9
    end
  end
end

function done(summary, latency, requests)
  local errors, stamps = summary.errors, workers[1]:get("answered_s")
  for i, at in ipairs(stamps) do stamps[i] = string.format("%.6f", at) end
  io.write(string.format(
    '\\n{"requests": %d, "duration_us": %d, "p50_us": %d, "p99_us": %d, '
      .. '"connect": %d, "read": %d, "write": %d, "status": %d, "timeout": %d, "answered_s": [%s]}\\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    errors.connect, errors.read, errors.write, errors.status, errors.timeout, table.concat(stamps, ",")))
end
"""


@dataclass(frozen=True, slots=True)
class Load:
    """The same body, again and again, to one URL.

    `stamped`: the time of every answer is kept, which costs wrk a little; for answers that take long and come in groups, with one
    thread.
    """

    url: str
    body: Body
    connections: int
    duration_s: int
    stamped: bool = False
    threads: int = 1


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one load measured; the percentiles are wrk's own latencies, which it corrects for coordinated omission."""

    requests: int
    requests_per_s: float
    p50_ms: float
    p99_ms: float


def find_wrk() -> str:
    """The path of wrk.

    Raises:
        LoadToolMissing: it is not installed.
    """
    found = shutil.which("wrk")
    if found is None:
        raise LoadToolMissing("wrk, which makes the load, is not installed: apt-get install wrk")
    return found


def wrk_version() -> str | None:
    """What wrk calls itself, as `wrk debian/4.1.0-3`; None where it is not installed."""
    found = shutil.which("wrk")
    if found is None:
        return None
    said = subprocess.run([found, "-v"], capture_output=True, text=True, timeout=10, check=False)  # noqa: S603
    return said.stdout.partition(" [")[0].strip()


def fire(load: Load, folder: Path) -> Outcome:
    """Runs one load; `folder` takes its script and body.

    Raises:
        LoadToolMissing: wrk is not installed.
        FailedLoad: a request was not answered, or not with success.
    """
    script, content = folder / "wrk.lua", folder / "wrk.body"
    script.write_text(_SCRIPT)
    content.write_bytes(load.body.content)
    headers = [word for name, value in load.body.headers.items() for word in ("-H", f"{name}: {value}")]
    shape = [
        "-t",
        str(load.threads),
        "-c",
        str(load.connections),
        "-d",
        f"{load.duration_s}s",
        "--timeout",
        f"{_ANSWER_TIMEOUT_S}s",
    ]
    command = [find_wrk(), *shape, *headers, "-s", str(script), load.url, "--", str(content)]
    command += ["stamped"] if load.stamped else []
    limit_s = load.duration_s + _SPARE_S
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s, check=False)  # noqa: S603
    except subprocess.TimeoutExpired as cause:
        raise FailedLoad(f"wrk did not end in {limit_s} s on {load.url}, though it was to take {load.duration_s} s") from cause
    if done.returncode != 0:
        raise FailedLoad(f"wrk ended with code {done.returncode} on {load.url}: {(done.stderr or done.stdout).strip()}")
    return read_outcome(done.stdout, load.url)


def read_outcome(output: str, url: str) -> Outcome:
    """The outcome from the last line of what wrk printed, which our script wrote.

    Raises:
        FailedLoad: there were errors, or no answers at all.
    """
    said = json.loads(output.splitlines()[-1])
    failures = [f"{said[kind]} {kind}" for kind in _ERRORS if said[kind]]
    if failures or not said["requests"]:
        raise FailedLoad(f"{url}: of {said['requests']} requests failed: {', '.join(failures) or 'none was answered'}")
    rate = said["requests"] / said["duration_us"] * 1e6
    if stamps := said["answered_s"]:
        if stamps[0] == stamps[-1]:
            raise FailedLoad(f"{url}: {len(stamps)} answers at one moment say nothing of a rate; measure for longer")
        rate = steady_rate_per_s(stamps)
    return Outcome(said["requests"], rate, said["p50_us"] / 1e3, said["p99_us"] / 1e3)


def steady_rate_per_s(answered_s: list[float]) -> float:
    """Answers per second as the slope of their count over time (least squares).

    Answers of one batch come together: a count over fixed seconds would be wrong by up to a batch at either end.
    """
    times = np.asarray(answered_s) - answered_s[0]
    return float(np.polyfit(times, np.arange(len(times)), 1)[0])
