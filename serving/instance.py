"""Where an engine call runs that is too long for the event loop: in a thread of its own."""

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from serving.joined import JoinedEngine, Outcome
from serving.protocols.asked import Arrays

Done = Callable[[list[Outcome], float], None]
"""Called on the event loop, with the outcome of each request and the seconds that the call took."""


class Instance(Protocol):
    """Runs one call at a time."""

    def start(self, requests: Sequence[Arrays], rows: Sequence[int], done: Done) -> None:
        """Begins a call; `done` is told its end."""
        ...

    def close(self) -> None:
        """Lets the engine go. No call runs, and none follows."""
        ...


class ThreadInstance:
    """Runs in a thread of its own: ONNX Runtime and PyTorch let the event loop go on meanwhile (they release the GIL)."""

    def __init__(self, engine: JoinedEngine, name: str, loop: asyncio.AbstractEventLoop) -> None:
        self._engine = engine
        self._loop = loop
        self._calls: queue.SimpleQueue[tuple[Sequence[Arrays], Sequence[int], Done] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def start(self, requests: Sequence[Arrays], rows: Sequence[int], done: Done) -> None:
        """See `Instance`."""
        self._calls.put((requests, rows, done))

    def close(self) -> None:
        """See `Instance`. The thread ends by itself."""
        self._calls.put(None)

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            requests, rows, done = call
            began = time.perf_counter()
            outcomes = self._engine.run(requests, rows)
            self._loop.call_soon_threadsafe(done, outcomes, time.perf_counter() - began)
            del call, requests, rows, done, outcomes  # an idle thread keeps no request's arrays
