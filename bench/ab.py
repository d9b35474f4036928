"""The load of TorchServe's own benchmark: `ab`, a fixed number of requests over connections that are kept."""

import re
import shutil
import subprocess
from pathlib import Path

from bench.errors import FailedLoad, LoadToolMissing
from bench.payloads import Body

_LIMIT_S = 120
_RATE = re.compile(r"^Requests per second:\s+([0-9.]+)", re.MULTILINE)
_FAILED = re.compile(r"^(?:Failed requests|Non-2xx responses):\s+([1-9]\d*)", re.MULTILINE)


def find_ab() -> str:
    """The path of ab. Raises LoadToolMissing."""
    found = shutil.which("ab")
    if found is None:
        raise LoadToolMissing("ab, which makes the load, is not installed: apt-get install apache2-utils")
    return found


def requests_per_s(url: str, body: Body, connections: int, requests: int, folder: Path) -> float:
    """The rate of so many requests; answers may differ in length, as JSON numbers do.

    Raises:
        LoadToolMissing: ab is not installed.
        FailedLoad: a request was not answered, or not with success.
    """
    content = folder / "ab.body"
    content.write_bytes(body.content)
    command = [find_ab(), "-q", "-k", "-l", "-n", str(requests), "-c", str(connections), "-p", str(content)]
    command += ["-T", body.headers["Content-Type"], url]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT_S, check=False)  # noqa: S603
    except subprocess.TimeoutExpired as cause:
        raise FailedLoad(f"ab did not end in {_LIMIT_S} s on {url}, with {requests} requests") from cause
    rate, failed = _RATE.search(done.stdout), _FAILED.search(done.stdout)
    if done.returncode != 0 or rate is None or failed is not None:
        said = failed[0] if failed else (done.stderr or done.stdout).strip()
        raise FailedLoad(f"ab ended with code {done.returncode} on {url}: {said}")
    return float(rate[1])
