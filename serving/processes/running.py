"""The processes that this one has started and that have not ended, and the work that goes on about them."""

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any

from serving.processes.children import Child
from serving.processes.figures import ENGINE, FRONT_END, Started
from serving.processes.watch import end_when_silent

log = logging.getLogger("stateserve")


class Processes:
    """All of them, each watched. `ending`: none is replaced any more. `restarts` are those that were started again, by kind."""

    def __init__(self) -> None:
        self.ending = False
        self.restarts: Counter[str] = Counter({FRONT_END: 0, ENGINE: 0})
        self.listed: Sequence[Started] = ()
        self._kinds: dict[Child, str] = {}
        self._works: set[asyncio.Task[Any]] = set()

    def add(self, child: Child, kind: str, lost: Callable[[], None]) -> None:
        """Keeps a process in sight; `lost` is called when it has ended, before anybody who waits for that goes on."""
        self._kinds[child] = kind
        self._list()

        def has_ended(_: object) -> None:
            del self._kinds[child]
            self._list()
            lost()

        child.ended.add_done_callback(has_ended)
        self.begin(end_when_silent(child))

    def begin(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        """Does the work beside everything else; `close` waits for it. That it failed is told, since nobody else would."""
        task = asyncio.create_task(work)
        self._works.add(task)
        task.add_done_callback(self._has_done)
        return task

    def kill(self) -> None:
        """Ends every process at once."""
        self.ending = True
        for child in self._kinds:
            child.kill()

    async def close(self) -> None:
        """Ends every process, and returns when all have ended, and all work with them."""
        self.kill()
        while self._works:
            await asyncio.wait(self._works)

    def _has_done(self, task: "asyncio.Task[None]") -> None:
        self._works.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.critical("the work on another process failed", exc_info=error)

    def _list(self) -> None:
        self.listed = tuple(Started(kind, child.name, child.pid) for child, kind in self._kinds.items())


@contextlib.contextmanager
def ended_on_error() -> Iterator[list[Child]]:
    """Ends the processes that are put into the list where what they are for fails, or is given up."""
    started: list[Child] = []
    try:
        yield started
    except BaseException:
        for child in started:
            child.kill()
        raise
