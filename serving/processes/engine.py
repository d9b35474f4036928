"""`python -m serving.processes.engine FD`: one engine process, which runs one version on one device for all front ends.

FD is the socket to control. It says what to prepare, and brings the front ends' sockets; when it ends, this process ends at once.
"""

import asyncio
import logging
import os
import signal
import socket
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import uvloop

from foundation.errors import StateserveError
from foundation.memory import give_back_freed_memory
from serving import logs
from serving.calls import Calls
from serving.execution import Prepared, prepare
from serving.metrics import Calls as Count
from serving.processes.facts import Json, calls_json, execution_json
from serving.processes.intake import Intake
from serving.processes.link import Link, Message
from serving.processes.parent import end_with_parent
from serving.processes.slots import Slots
from serving.settings import ModelSettings

log = logging.getLogger("stateserve")

_TOTALS_S = 0.5
_GPU_CALLS = 2
"""Calls at a time on a GPU: while one computes, the other's rows are on their way there, or its outputs back."""


class Executions:
    """The engine's calls, by rows."""

    def __init__(self) -> None:
        self.calls: dict[int, Count] = {}

    def executed(self, rows: int, infer_s: float) -> None:
        """Counts a call."""
        before = self.calls.get(rows)
        self.calls[rows] = Count(1, infer_s) if before is None else Count(before.count + 1, before.seconds + infer_s)


class Served:
    """The version that this process runs, once it is prepared."""

    def __init__(self, head: Json, prepared: Prepared, settings: ModelSettings) -> None:
        """To be made on the event loop. `head` is what control asked with."""
        self.executions = Executions()
        self.calls = Calls(head["name"], head["version"], prepared, settings)
        self.batcher = self.calls.batcher(self.executions, lambda: 0)
        self.slots = Slots(prepared.artifact.signature)
        self.intakes: set[Intake] = set()

    def connect(self, sock: socket.socket) -> None:
        """Takes a front end's requests, until it ends."""
        self.intakes.add(Intake(sock, self.slots, self.batcher, self.intakes.discard))

    def totals(self) -> Json:
        """What was done, and what waits."""
        return {"calls": calls_json(self.executions.calls), "queued_rows": self.batcher.queued_rows}


class EngineProcess:
    """Does what control asks, in order."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._loop = asyncio.get_running_loop()
        self._served: Served | None = None
        self._preparing: asyncio.Task[None] | None = None
        self._told: Json = {}
        self._loop.set_exception_handler(self._went_wrong)

    async def run(self) -> None:
        """Until control ends, or says stop."""
        while (message := await self._link.receive()) is not None:
            match message.head["kind"]:
                case "prepare":
                    self._preparing = self._loop.create_task(self._prepare(message.head))
                case "connect":
                    self._connect(message)
                case "totals":
                    self._link.send({"kind": "totals", "ask": message.head["ask"], **self._totals()})
                case "stop":
                    return

    async def _prepare(self, head: Json) -> None:
        try:
            logs.configure(head.get("log_format", "json"), access_log=False, process=f"engine {head['number']}")
            settings, device = ModelSettings.model_validate(head["settings"]), head["device"]
            calls = 1 if device == "cpu" else _GPU_CALLS
            prepared = await asyncio.to_thread(prepare, Path(head["directory"]), settings, device, calls)
            served = Served(head, prepared, settings)
        except Exception as error:  # noqa: BLE001 - whatever loading raises, control tells why the version is not served
            text = str(error) if isinstance(error, StateserveError) else f"{type(error).__name__}: {error}"
            self._link.send({"kind": "failed", "error": text, "type": type(error).__name__})
            return
        self._served = served
        give_back_freed_memory()
        self._link.send(
            {
                "kind": "ready",
                "execution": execution_json(prepared.execution),
                "engine": prepared.artifact.engine.name,
                "content_id": prepared.artifact.manifest.content_id,
                "device": prepared.execution.device,
                "planned": asdict(prepared.planned),
                "max_queue_rows": served.calls.max_queue_rows,
            }
        )
        self._loop.call_later(_TOTALS_S, self._tell_totals)

    def _connect(self, message: Message) -> None:
        served = self._served
        if served is None:
            raise RuntimeError("control connected a front end before the version was ready")
        served.connect(socket.socket(fileno=message.fds[0]))
        self._link.send({"kind": "connected", "ask": message.head["ask"]})

    def _totals(self) -> Json:
        return {"calls": {}, "queued_rows": 0} if self._served is None else self._served.totals()

    def _tell_totals(self) -> None:
        totals = self._totals()
        if totals != self._told:
            self._told = totals
            self._link.send({"kind": "totals", "ask": None, **totals})
        self._loop.call_later(_TOTALS_S, self._tell_totals)

    def _went_wrong(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Something of ours failed in the middle of a request, which nobody would answer: this process cannot go on."""
        loop.default_exception_handler(context)
        if "handle" in context:
            self._link.send({"kind": "trouble", "error": f"{context['message']}: {context.get('exception')!r}"})
            logging.shutdown()
            os._exit(1)


async def _serve(descriptor: int) -> None:
    link = Link(socket.socket(fileno=descriptor))
    try:
        await EngineProcess(link).run()
    except Exception as error:
        log.exception("an engine process cannot go on")
        link.send({"kind": "trouble", "error": repr(error)})
        raise


def main() -> None:
    """Runs until control ends. A terminal's or a container's signals go to all processes, and control drains this one."""
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    code = 1
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            runner.run(_serve(int(sys.argv[1])))
            code = 0
        finally:
            logging.shutdown()
            os._exit(code)  # a call that runs cannot be interrupted, and its thread would keep the process


if __name__ == "__main__":
    main()
