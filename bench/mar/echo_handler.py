"""The handler of the archive whose workers are killed. It needs nothing of torch: the worker imports it all the same."""

import os
import time
from collections.abc import Mapping, Sequence
from typing import Any


class EchoHandler:
    """A request is two numbers: its own, and the milliseconds that its batch takes at least. The answer: its own, our process.

    A batch sleeps and does not compute, so that the cores are left to the server and to workers that start.
    """

    def initialize(self, context: Any) -> None:
        """There is nothing to load."""

    def handle(self, data: Sequence[Mapping[str, Any]], context: Any) -> list[bytes]:  # noqa: ARG002 - TorchServe's signature
        """One answer for each request of a batch."""
        asked = [bytes(row["body"]).split() for row in data]
        time.sleep(max(int(pause_ms) for _, pause_ms in asked) / 1000)
        return [b"%s %d" % (number, os.getpid()) for number, _ in asked]
