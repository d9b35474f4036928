"""Asks the real TorchServe, and keeps or checks its answers: `python -m tests.torchserve.record [--check] [SCENARIO ...]`.

It needs Java 17 and pip's torchserve. `--check` writes nothing, and ends with code 1 where an answer is not the kept one.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.torchserve import transcript
from tests.torchserve.archives import pack_all
from tests.torchserve.scenarios import SCENARIOS
from tests.torchserve.servers import running, torchserve
from tests.torchserve.shapes import Scenario


def main() -> int:
    """The exit code: 1 where an answer is not as it was kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--torchserve", type=Path, default=Path(sys.executable).with_name("torchserve"), metavar="PATH")
    parser.add_argument("--check", action="store_true", help="compare with what is kept")
    parser.add_argument("--keep-log", type=Path, metavar="FOLDER", help="copy each server's output there")
    parser.add_argument("scenarios", nargs="*", choices=[[], *SCENARIOS], metavar="SCENARIO")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="ts"))
    try:
        store = pack_all(folder)
        chosen = [SCENARIOS[name] for name in options.scenarios or SCENARIOS]
        return max(_one(scenario, store, options) for scenario in chosen)
    finally:
        shutil.rmtree(folder)


def _one(scenario: Scenario, store: Path, options: argparse.Namespace) -> int:
    began = time.perf_counter()
    with running(torchserve(options.torchserve), scenario, store) as server:
        try:
            answers = transcript.take(scenario, server)
        finally:
            if options.keep_log:
                shutil.copy(server.directory / "log.txt", options.keep_log / f"{scenario.name}.log")
    print(f"{scenario.name}: {len(answers)} answers in {time.perf_counter() - began:.0f} s", flush=True)
    if not options.check:
        transcript.write(scenario.name, answers)
        return 0
    kept = {answer["request"]: answer for answer in transcript.read(scenario.name)}
    wrong = [(kept.get(answer["request"]), answer) for answer in answers if kept.get(answer["request"]) != answer]
    for before, now in wrong:
        print(f"kept {json.dumps(before)}\nnow  {json.dumps(now)}\n")
    return 1 if wrong or len(kept) != len(answers) else 0


if __name__ == "__main__":
    sys.exit(main())
