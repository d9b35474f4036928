"""A process that lives and does nothing any more (stopped, or stuck) is ended, so that another takes its place."""

import asyncio
import time
from dataclasses import dataclass

from serving.processes.children import Child
from serving.processes.figures import usage

_IDLE_SHARE = 0.01
"""Less of a core than this is no work: threads that wait for a lock of the interpreter wake up, too."""


@dataclass(frozen=True, slots=True)
class Patience:
    """For how long a process may be silent, and how often it is looked at.

    One that takes no processor time either is stuck, and all that it holds with it: long enough for a slow disk, no longer than
    its clients would wait. One that computes may be in a call of an engine, which nobody can interrupt: those are long sometimes.
    """

    look_every_s: float = 5.0
    idle_s: float = 30.0
    busy_s: float = 600.0


async def end_when_silent(child: Child, patience: Patience | None = None) -> None:
    """Asks a process again and again whether it is there. Returns when it has ended, by itself or because it was silent."""
    patience = patience or Patience()
    while not await _has_ended(child, patience.look_every_s):
        answering = asyncio.create_task(child.ask({"kind": "totals"}, timeout_s=None))
        try:
            await _answer_or_end(child, answering, patience)
        finally:
            answering.cancel()
            await asyncio.gather(answering, return_exceptions=True)


async def _answer_or_end(child: Child, answering: "asyncio.Task[object]", patience: Patience) -> None:
    """Looks are counted, not seconds: should this process have been stopped itself, that was one look."""
    silent_s = idle_s = 0.0
    used_s = _used_s(child)
    while not (await asyncio.wait({answering}, timeout=patience.look_every_s))[0]:
        before_s, used_s = used_s, _used_s(child)
        is_idle = used_s - before_s < _IDLE_SHARE * patience.look_every_s
        silent_s += patience.look_every_s
        idle_s = idle_s + patience.look_every_s if is_idle else 0.0
        if idle_s >= patience.idle_s or silent_s >= patience.busy_s:
            child.kill(f"answered nothing for {silent_s:g} s, and was ended")
            await asyncio.wait({child.ended})


async def _has_ended(child: Child, timeout_s: float) -> bool:
    return bool((await asyncio.wait({child.ended}, timeout=timeout_s))[0])


def _used_s(child: Child) -> float:
    """Seconds of processor time; those of a whole core where the system does not tell."""
    found = usage(child.pid)
    return time.monotonic() if found is None else found[1]
