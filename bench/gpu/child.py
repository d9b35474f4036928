"""A stage's process: `python -m bench.gpu.child PIPE`, started by `bench.gpu.stage`."""

import json
import os
import signal
import sys
import traceback
from collections.abc import Mapping
from typing import Any

from bench.gpu.order import STAGES
from bench.gpu.stage import Asked, Stage, Work
from foundation.errors import StateserveError


def main(stages: Mapping[str, Stage] = STAGES) -> None:
    """Does the stage that a line of JSON on stdin asks for, and tells on the pipe what it finds."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that servers are ended
    pipe = int(sys.argv[1])
    os.set_inheritable(pipe, False)  # noqa: FBT003 - the system's own interface

    def tell(**said: Any) -> None:
        data = json.dumps(said).encode() + b"\n"
        while data:
            data = data[os.write(pipe, data) :]

    asked = Asked(**json.loads(sys.stdin.readline()))
    error: str | None = None
    try:
        for finding in stages[asked.stage].measure(Work.of(asked, lambda text: tell(say=text))):
            tell(found=finding)
    except StateserveError as failure:
        error = str(failure)
    except Exception as failure:  # noqa: BLE001 - whatever it is, it is written down, and the other stages go on
        traceback.print_exc()
        error = f"{type(failure).__name__}: {failure}"
    tell(ended=error)


if __name__ == "__main__":
    main()
