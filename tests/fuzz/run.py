"""All fuzzing, two targets at a time: `python -m tests.fuzz.run --runs 1000000 --to docs/fuzzing.md`, or `make fuzz`.

Ends with code 1 if anything was found, or if there were fewer inputs than asked for. What is found stays in build/fuzz, and
belongs, made small, into tests/hostile/http/make_hostile.py.
"""

import argparse
import json
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.fuzz import raw_targets, targets

PROJECT = Path(__file__).parents[2]
FOLDER = PROJECT / "build" / "fuzz"
TARGETS = {**targets.TARGETS, **raw_targets.TARGETS}
MARKS = ("<!-- numbers -->\n", "<!-- end of numbers -->\n")

SLOW = {"management": 0.03, "names": 0.03, "application": 0.03}
"""Targets that run a whole server for every input: their share of all inputs."""
HTTP = 0.08
OPENAPI = 0.005
_OVER = 1.005
"""A little more than was asked for: some programs stop a few inputs early."""


def commands(runs: int, folder: Path) -> list[list[str]]:
    """What is run, the longest first."""
    decoders = [name for name in TARGETS if name not in SLOW]
    each = (1 - sum(SLOW.values()) - HTTP - OPENAPI) / len(decoders)
    shares = {**SLOW, **dict.fromkeys(decoders, each)}
    python = [sys.executable, "-m"]
    return [
        [*python, "tests.fuzz.fuzz_http", str(int(runs * HTTP * _OVER)), str(folder)],
        [*python, "tests.fuzz.fuzz_openapi", str(int(runs * OPENAPI * _OVER)), str(folder)],
        *(
            [*python, "tests.fuzz.fuzz_decoders", name, str(int(runs * share * _OVER)), str(folder)]
            for name, share in shares.items()
        ),
    ]


def run_all(made: Sequence[Sequence[str]], jobs: int, folder: Path) -> list[str]:
    """Runs the commands, so many at a time; what went wrong with them themselves."""

    def run(command: Sequence[str]) -> str | None:
        name = command[3] if command[2].endswith("decoders") else command[2].rpartition("_")[2]
        began = time.perf_counter()
        with (folder / f"{name}.log").open("w") as log:
            code = subprocess.run(command, cwd=PROJECT, stdout=log, stderr=subprocess.STDOUT, check=False).returncode
        print(f"{name}: {time.perf_counter() - began:.0f} s{f', exit code {code}' if code else ''}", flush=True)
        return f"{name} ended with code {code}: see {folder / name}.log" if code else None

    with ThreadPoolExecutor(jobs) as pool:
        return [problem for problem in pool.map(run, made) if problem is not None]


def read(folder: Path) -> list[dict[str, Any]]:
    """The numbers of every target."""
    names = [*TARGETS, "http-requests", "http-heads", "http-garbage", "http-pipelines", "http-slow", "openapi"]
    return [json.loads((folder / f"{name}.json").read_text()) for name in names if (folder / f"{name}.json").exists()]


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The numbers as they stand in the page."""
    lines = ["| target | inputs | taken | seconds | slowest input | memory | found |", "|---|--:|--:|--:|--:|--:|---|"]
    for row in rows:
        slowest = f"{row['slowest_s'] * 1e3:.1f} ms ({row['slowest_bytes']:,} bytes)" if row["slowest_bytes"] else ""
        grown = f"{(row['end_kib'] - row['warm_kib']) / 1024:+.1f} MiB of {row['warm_kib'] / 1024:.0f}" if row["warm_kib"] else ""
        found = "; ".join(row["findings"]) or "nothing"
        taken = f"{row['taken']:,}" if row["taken"] else ""
        lines.append(f"| {row['target']} | {row['inputs']:,} | {taken} | {row['seconds']:,.0f} | {slowest} | {grown} | {found} |")
    inputs, seconds = sum(row["inputs"] for row in rows), sum(row["seconds"] for row in rows)
    lines.append(f"| all | {inputs:,} | | {seconds:,.0f} | | | |")
    return "\n".join(lines) + "\n"


def write(page: Path, text: str) -> None:
    """Puts the numbers between the page's marks."""
    before, _, rest = page.read_text().partition(MARKS[0])
    _, _, after = rest.partition(MARKS[1])
    page.write_text(before + MARKS[0] + text + MARKS[1] + after)


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1_000_000)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--to", type=Path, help="a page whose numbers are replaced")
    asked = parser.parse_args()
    folder = asked.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    for old in (*folder.glob("*.json"), *folder.glob("*-broken-*")):
        old.unlink()
    began = time.perf_counter()
    problems = run_all(commands(asked.runs, folder), asked.jobs, folder)
    rows = read(folder)
    text = table(rows)
    inputs = sum(row["inputs"] for row in rows)
    versions = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    print(f"\n{text}\n{inputs:,} inputs in {time.perf_counter() - began:,.0f} s; {versions}")
    if asked.to is not None:
        write(asked.to, f"{time.strftime('%Y-%m-%d')}, {versions}, {asked.jobs} targets at a time:\n\n{text}")
    problems += [f"{row['target']}: {finding}" for row in rows for finding in row["findings"]]
    if inputs < asked.runs:
        problems.append(f"{inputs:,} inputs; {asked.runs:,} were asked for")
    for problem in problems:
        print(f"FOUND  {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
